"""Class weights and separate models: the data stay, the learning changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_sample_weight

from equipoise import schema
from equipoise.balance import class_weight, separate, upsample
from equipoise.cohort import Cohort
from equipoise.evaluate.downstream import MODELS
from equipoise.evaluate.learning import FEWEST_OF_A_CLASS, fit_predictor
from equipoise.training_set import TrainingSet
from toys import toy_cohort

BY = ("sex", "race")


def weights_of(train: Cohort, by: tuple[str, ...] = BY) -> npt.NDArray[np.float64]:
    weights = class_weight(train, by, tuning=train, seed=0).weights
    assert weights is not None
    return weights


def with_unknown(train: Cohort, column: str, share: int = 9) -> Cohort:
    place = pl.int_range(pl.len())
    changed = pl.when(place % share != 0).then(column).alias(column)
    return replace(train, subjects=train.subjects.with_columns(changed))


def test_a_visit_weighs_as_often_as_upsampling_shows_it() -> None:
    train = with_unknown(toy_cohort(60), "sex")
    shown = np.zeros(len(train))
    draws = 600
    for seed in range(draws):
        ids = upsample(train, BY, tuning=train, seed=seed).subjects[schema.SUBJECT_ID]
        shown += np.bincount(ids, minlength=len(train))
    weight = weights_of(train)[train.visit_offsets[:-1]]
    # A subject is drawn a binomial number of times, whose variance is below its mean.
    assert (np.abs(shown / draws - weight) < 5 * np.sqrt(weight / draws)).all()
    assert np.array_equal(weights_of(train), weight[train.subject_of_visit()])
    assert (weight[train.subjects["sex"].is_null().to_numpy()] == 1).all()


def test_weights_fit_what_copies_would() -> None:
    """Cells of 24, 12, 8 and 4 subjects: each weight is a whole number of copies."""
    cohort = toy_cohort(400)
    cells = zip([False, False, True, True], "FMFM", [24, 12, 8, 4], strict=True)
    chosen = [
        np.flatnonzero(
            cohort.subjects.select((pl.col("label") == label) & (pl.col("sex") == sex)).to_series()
        )[:n]
        for label, sex, n in cells
    ]
    train = cohort.take(np.concatenate(chosen))
    copied = cohort.take(np.concatenate([np.tile(places, 24 // len(places)) for places in chosen]))
    X, y, *_ = copied.to_sklearn()
    plain = LogisticRegression(C=1.0, max_iter=1000, tol=1e-8).fit(X.astype(np.float64), y)
    X, y, *_ = train.to_sklearn()
    weighted = LogisticRegression(C=1.0, max_iter=1000, tol=1e-8)
    weighted.fit(X.astype(np.float64), y, sample_weight=weights_of(train, ("sex",)))
    assert weighted.coef_ == pytest.approx(plain.coef_, abs=1e-5)


def test_scikit_learn_balances_something_else() -> None:
    train = toy_cohort(200)
    _, y, *_ = train.to_sklearn()
    theirs = compute_sample_weight("balanced", y)
    assert theirs.sum() == pytest.approx(len(y))
    assert not np.allclose(theirs / theirs.min(), weights_of(train, ()))
    assert weights_of(train, ()).min() == 1


def of_group(cohort: Cohort, **values: str) -> npt.NDArray[np.bool_]:
    """For each visit whether its subject is in the group."""
    inside = pl.all_horizontal(pl.col(name).eq(value) for name, value in values.items())
    mask = cohort.subjects.select(inside.fill_null(value=False)).to_series().to_numpy()
    return mask[cohort.subject_of_visit()]


@pytest.mark.parametrize("model", MODELS)
def test_a_large_group_is_scored_by_its_own_and_all_others_by_the_pooled(model: str) -> None:
    train, test = with_unknown(toy_cohort(400), "race", 50), toy_cohort(150, seed=1)
    test = with_unknown(test, "race")
    fitted = fit_predictor(model, separate(train, ("race",), tuning=train, seed=0), threads=1)
    pooled = fit_predictor(model, train, threads=1).scores(test)
    scores = fitted.scores(test)
    assert set(fitted.own) == {"Black", "White"}
    seen = np.zeros(len(scores), bool)
    for name in fitted.own:
        alone = train.filter((train.subjects["race"] == name).fill_null(value=False))
        rows = of_group(test, race=name)
        assert np.array_equal(
            scores[rows], fit_predictor(model, alone, threads=1).scores(test)[rows]
        )
        assert not np.array_equal(scores[rows], pooled[rows])
        seen |= rows
    assert of_group(test, race="Asian").any()
    assert test.subjects["race"].null_count() > 0
    assert np.array_equal(scores[~seen], pooled[~seen])
    assert fitted.remark == (
        "Asian scored by the classifier of all, for in training there are fewer than "
        f"{FEWEST_OF_A_CLASS} visits of a class"
    )


def test_groups_cross_and_a_group_never_seen_is_scored_by_the_pooled() -> None:
    train, test = toy_cohort(600), toy_cohort(150, seed=1)
    train = train.filter(train.subjects["race"] != "Asian")
    training = separate(train, BY, tuning=train, seed=0)
    fitted = fit_predictor("logistic_regression", training)
    assert set(fitted.own) == {"F × Black", "F × White", "M × Black", "M × White"}
    assert fitted.remark == ""
    alone = train.filter(
        (train.subjects["sex"] == "F").to_numpy() & (train.subjects["race"] == "White").to_numpy()
    )
    rows = of_group(test, sex="F", race="White")
    own = fit_predictor("logistic_regression", alone).scores(test)
    pooled = fit_predictor("logistic_regression", train).scores(test)
    assert np.array_equal(fitted.scores(test)[rows], own[rows])
    rows = of_group(test, race="Asian")
    assert np.array_equal(fitted.scores(test)[rows], pooled[rows])


def test_without_groups_there_is_one_classifier() -> None:
    train = toy_cohort(200)
    fitted = fit_predictor("logistic_regression", separate(train, (), tuning=train, seed=0))
    assert not fitted.own
    assert np.array_equal(
        fitted.scores(train), fit_predictor("logistic_regression", train).scores(train)
    )


def test_a_group_of_ten_of_each_class_is_large_enough() -> None:
    train = toy_cohort(600)
    positive = train.subjects["label"].to_numpy()
    negative = np.flatnonzero(~positive)
    for extra, own in ((FEWEST_OF_A_CLASS, {"Black", "White"}), (FEWEST_OF_A_CLASS - 1, {"White"})):
        few = np.zeros(len(train), bool)
        few[np.flatnonzero(positive)[:extra]] = True
        few[negative[:50]] = True
        race = pl.Series("race", np.where(few, "Black", "White"))
        part = replace(train, subjects=train.subjects.with_columns(race))
        fitted = fit_predictor("logistic_regression", TrainingSet(part, apart=("race",)))
        assert set(fitted.own) == own
