"""The experiment as a whole: nothing leaks, all is told, the same seed gives the same bytes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from equipoise import schema
from equipoise.balance import METHODS
from equipoise.cohort import Cohort, concat
from equipoise.errors import DataError, LeakageError, UsageError
from equipoise.evaluate import experiment
from equipoise.evaluate.downstream import MODELS
from equipoise.evaluate.experiment import Running, run_experiment
from equipoise.evaluate.folds import Fold, make_folds, strata_of
from equipoise.evaluate.gains import PARTS, estimate_gains
from equipoise.evaluate.judging import groupings_of
from equipoise.evaluate.leakage import check_copies
from equipoise.evaluate.learning import fit_predictor, fit_scores
from equipoise.evaluate.ranking import Ranked, weighted_ranking
from equipoise.evaluate.results import (
    FRAMES,
    Results,
    Setup,
    corrected_interval,
    over_folds,
    summary,
)
from equipoise.evaluate.thresholds import f1_threshold
from toys import ToyRecords, toy_cohort

BY = ("sex", "race")
MODELS_HERE = ["logistic_regression", "xgboost"]
RESAMPLED = {name: METHODS[name] for name in ("original", "upsample", "downsample")}
Ints = npt.NDArray[np.integer]


def records(subjects: int = 160, *changes: pl.Expr, seed: int = 0) -> ToyRecords:
    cohort = toy_cohort(subjects, seed=seed)
    return ToyRecords(replace(cohort, subjects=cohort.subjects.with_columns(*changes)))


def run(of: ToyRecords, methods: Any = RESAMPLED, **options: Any) -> Results:
    options = {
        "folds": 3,
        "models": ["logistic_regression"],
        "resamples": 50,
        "running": Running(threads=1),
    } | options
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return run_experiment(of, options.pop("by", BY), methods, **options)


@cache
def whole() -> Results:
    return run(records(), models=MODELS_HERE)


def test_frames_have_their_columns_and_no_nan_without_a_reason() -> None:
    results = whole()
    for name, columns in FRAMES.items():
        frame = getattr(results, name)
        grouped = name in ("predictions", "tuning", "cells", "training")
        groups = dict.fromkeys(BY, pl.String) if grouped else {}
        assert frame.schema == {**columns, **groups}, name
        assert frame.null_count().sum_horizontal().item() == 0, name
    for frame in (results.metrics, results.fairness):
        assert frame["value"].is_nan().equals(frame["status"] != "ok", check_names=False)
    told = results.gains["status"].is_in(["ok", "too_few"])
    assert results.gains["value"].is_nan().equals(~told, check_names=False)
    assert results.notes
    assert set(results.metrics["by"]) == {"overall", "sex", "race", "sex × race"}


def test_every_visit_is_judged_once_by_every_arm() -> None:
    results, visits = whole(), toy_cohort(160).to_sklearn()
    for _, arm in results.predictions.group_by("method", "model"):
        assert sorted(arm["visit_id"]) == visits.visits["visit_id"].to_list()
    joined = results.predictions.join(visits.visits, on="visit_id")
    assert (joined["label"] == joined["label_right"]).all()


def test_metrics_are_those_of_the_predictions() -> None:
    results = whole()
    arm = {"fold": 1, "method": "upsample", "model": "xgboost"}
    rows = results.predictions.filter(sex="F", **arm)
    y, score = rows["label"].to_numpy(), rows["score"].to_numpy()
    told = results.metrics.filter(by="sex", group="F", **arm)
    tuned = dict(told.filter(threshold="tuned").select("metric", "value").iter_rows())
    assert tuned["auroc"] == pytest.approx(roc_auc_score(y, score))
    assert tuned["ap"] == pytest.approx(average_precision_score(y, score))
    assert tuned["f1"] == pytest.approx(f1_score(y, score >= rows["tuned_threshold"].to_numpy()))
    half = told.filter(threshold="0.5", metric="f1")["value"].item()
    assert half == pytest.approx(f1_score(y, score >= 0.5))


def test_cells_count_real_copied_and_visits() -> None:
    cells = whole().cells
    original, upsampled = (cells.filter(fold=0, method=m) for m in ("original", "upsample"))
    assert original["copies"].sum() == original["synthetic"].sum() == 0
    assert (original["subjects"] == upsampled["subjects"]).all()
    assert (upsampled["subjects"] + upsampled["copies"]).n_unique() == 1
    assert upsampled["visit_share"].sum() == pytest.approx(1)
    positive = pl.col("positive_visits")
    assert original.select((positive == pl.col("label") * pl.col("subjects")).all()).item()


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    folders = [
        run(records(60), seed=seed, folds=2, models=MODELS_HERE).save(tmp_path / name)
        for name, seed in (("a", 5), ("b", 5), ("c", 6))
    ]
    a, b, c = ({f.name: f.read_bytes() for f in folder.iterdir()} for folder in folders)
    assert a == b
    assert a["predictions.parquet"] != c["predictions.parquet"]


def test_results_survive_the_disk(tmp_path: Path) -> None:
    results = whole()
    folder = results.save(tmp_path / "results", config={"task": "toy"})
    again = Results.load(folder)
    for name in FRAMES:
        assert getattr(again, name).equals(getattr(results, name)), name
    for name in (*Setup._fields, "left_out", "remarks", "notes"):
        assert getattr(again, name) == getattr(results, name)
    (folder / "gains.parquet").unlink()
    with pytest.raises(DataError, match=r"want gains\.parquet"):
        Results.load(folder)


def test_summary_is_the_mean_over_folds() -> None:
    table = summary(whole())
    assert table.select("method", "model").rows() == list(product(RESAMPLED, MODELS_HERE))
    row = table.filter(method="upsample", model="xgboost")
    told = whole().metrics.filter(
        method="upsample", model="xgboost", by="overall", metric="f1", threshold="tuned"
    )
    assert row["f1_tuned"].item() == pytest.approx(told["value"].mean())
    assert row["f1_tuned_sd"].item() == pytest.approx(told["value"].std())
    worst = whole().metrics.filter(
        method="upsample", model="xgboost", by="sex", metric="f1", threshold="tuned"
    )
    by_sex = summary(whole(), by="sex").filter(method="upsample", model="xgboost")
    expected = worst.group_by("fold").agg(pl.col("value").min())["value"].mean()
    assert by_sex["worst_group_f1"].item() == pytest.approx(expected)


def test_over_folds_leaves_out_what_could_not_be_estimated() -> None:
    frame = pl.DataFrame(
        {
            "fold": [0, 1, 2, 0],
            "metric": ["f1", "f1", "f1", "ap"],
            "value": [0.2, 0.4, np.nan, np.nan],
        }
    )
    rows = over_folds(frame).rows(named=True)
    assert rows[0]["mean"] == pytest.approx(0.3)
    assert rows[0]["folds"] == 2
    assert rows[0]["descriptive_se"] == pytest.approx(np.std([0.2, 0.4], ddof=1) / np.sqrt(2))
    assert np.isnan(rows[1]["mean"])


def test_corrected_interval_is_half_again_as_wide_for_five_folds() -> None:
    d = np.array([0.1, 0.2, 0.05, 0.12, 0.3])
    mean, low, high = corrected_interval(d, n_train=80, n_test=20)
    naive = stats.t.interval(0.95, 4, d.mean(), stats.sem(d))
    assert mean == pytest.approx(d.mean())
    assert (high - low) / (naive[1] - naive[0]) == pytest.approx(1.5)
    assert np.isnan(corrected_interval([0.1, np.nan], 80, 20)[1])


# ---- leakage ----


def leak_into_training(train: Cohort, by: Sequence[str], *, tuning: Cohort, **_: Any) -> Cohort:
    del by
    return concat([train, tuning])


def test_a_method_that_learns_from_tuning_is_stopped() -> None:
    with pytest.raises(LeakageError, match="tuning subjects have been seen by the training cohort"):
        run(records(60), {"original": leak_into_training})


def test_a_method_that_finds_the_held_out_subjects_is_stopped() -> None:
    everyone = toy_cohort(60)

    def cheat(train: Cohort, by: Sequence[str], **_: Any) -> Cohort:
        del by
        return concat([train, everyone.take(np.arange(60))])

    with pytest.raises(LeakageError, match="held_out subjects have been seen by the training"):
        run(records(60), {"original": cheat})


def test_synthetic_ids_are_no_leak() -> None:
    def invent(train: Cohort, by: Sequence[str], **_: Any) -> Cohort:
        del by
        number = pl.Series(schema.SUBJECT_ID, np.arange(len(train)), pl.Int64)
        subjects = train.subjects.with_columns(number, synthetic=pl.lit(value=True))
        return concat([train, replace(train, subjects=subjects)])

    cells = run(records(60), {"original": invent}).cells
    assert (cells["synthetic"] == cells["subjects"]).all()
    assert cells["copies"].sum() == 0


def test_a_vocabulary_fitted_on_everyone_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        ToyRecords, "fit_vocabulary",
        lambda self, _: replace(self.cohort.vocabulary, fitted_on=np.arange(60)),
    )  # fmt: skip
    with pytest.raises(LeakageError, match="held_out subjects have been seen by the vocabulary"):
        run(records(60))
    monkeypatch.setattr(ToyRecords, "fit_vocabulary", lambda self, _: self.cohort.vocabulary)
    with pytest.raises(LeakageError, match="does not say"):
        run(records(60))


def test_folds_that_overlap_are_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(labels: Ints, *_: Any, **__: Any) -> list[Fold]:
        half = np.arange(len(labels) // 2)
        return [Fold(0, half + len(half), half, half)]

    monkeypatch.setattr(experiment, "make_folds", broken)
    with pytest.raises(LeakageError, match="seen by the tuning cohort"):
        run(records(60))


# ---- small and odd data ----


@pytest.mark.parametrize("seed", [0, 1])
def test_a_hundred_patients_with_few_positives_run_and_say_what_is_missing(seed: int) -> None:
    place = pl.int_range(pl.len())
    results = run(records(100, (place % 7 == seed).alias("label")), folds=5)
    assert set(results.metrics["status"]) >= {"ok", "no_positives"}
    assert any("too few to judge" in note for note in results.notes)
    assert any("as few as" in note for note in results.notes)
    assert any("fewer than the 5 folds" in note for note in results.notes)


def test_no_positive_to_tune_on_gives_nan_with_a_reason() -> None:
    place = pl.int_range(pl.len())
    results = run(records(60, (place < 3).alias("label")), by=["sex"])
    lost = results.predictions.filter(pl.col("tuned_threshold").is_nan())["fold"].unique()
    assert len(lost)
    tuned = results.metrics.filter(
        pl.col("fold").is_in(lost.to_list()), threshold="tuned", metric="f1", by="overall"
    )
    assert (tuned["status"] == "undefined").all()
    assert any("no tuned threshold" in note for note in results.notes)
    whole_f1 = results.gains.filter(metric="f1", by="overall")
    assert whole_f1["status"].is_in(["empty", "too_few", "no_positives"]).all()


def test_unknown_labels_and_groups_are_left_out_and_counted() -> None:
    place = pl.int_range(pl.len())
    results = run(
        records(
            100,
            pl.when(place >= 5).then("label").alias("label"),
            pl.when(place < 90).then("sex").alias("sex"),
        ),
        {"original": METHODS["original"]},
    )
    assert "5 subjects left out: their label is unknown" in results.notes
    assert "10 subjects are in no group of sex: it is unknown" in results.notes
    assert results.predictions["subject_id"].n_unique() == 95
    assert results.gains.is_empty()
    n = results.metrics.filter(metric="f1", threshold="0.5")
    overall, by_sex = (n.filter(by=name)["n"].sum() for name in ("overall", "sex"))
    unknown = results.predictions["sex"].null_count()
    assert overall - by_sex == unknown > 0


def test_impossible_requests_say_why() -> None:
    with pytest.raises(DataError, match=r"one class only.*got only false"):
        run(records(40, pl.lit(value=False).alias("label")))
    with pytest.raises(DataError, match="column religion"):
        run(records(40), by=["religion"])
    with pytest.raises(UsageError, match=r"forest.*knn, logistic_regression, neural_network"):
        run(records(40), models=["forest"])
    with pytest.raises(UsageError, match="at least one method"):
        run(records(40), {})
    with pytest.raises(UsageError, match="score cannot be a group"):
        run(records(40, pl.lit("x").alias("score")), by=["score"])


def test_no_gains_without_the_control() -> None:
    results = run(records(60), {"up": METHODS["upsample"]})
    assert results.gains.is_empty()
    assert any("no gains" in note for note in results.notes)


@pytest.mark.parametrize("model", MODELS)
def test_models_learn_and_are_deterministic(model: str) -> None:
    # The network stops early by accuracy, which few positives among many visits hardly move.
    subjects, visits = (2000, 1) if model == "neural_network" else (300, 4)
    train = toy_cohort(subjects, max_visits=visits)
    test = toy_cohort(150, seed=1, max_visits=visits)
    scores = fit_scores(model, train, test, seed=1, threads=1)
    assert np.array_equal(scores, fit_scores(model, train, test, seed=1, threads=1))
    assert roc_auc_score(test.to_sklearn().y, scores) > 0.7
    assert fit_scores(model, train, test.take(np.arange(0)), threads=1).shape == (0,)


def test_one_class_of_training_visits_gives_no_scores() -> None:
    train = toy_cohort(50)
    one = train.filter(~train.subjects["label"])
    fitted = fit_predictor("xgboost", one)
    assert "one class only" in fitted.remark
    assert np.isnan(fitted.scores(one)).all()


# ---- the bootstrap, against a plain loop ----


def loop_gains(pair: list[pl.DataFrame], rng: np.random.Generator) -> list[float]:
    """One resample of the gains in F1 of the whole, subject by subject, row by row."""
    subject = pair[0]["subject_id"].to_numpy()
    rows_of = {s: np.flatnonzero(subject == s) for s in np.unique(subject)}
    rows = np.concatenate([rows_of[s] for s in rng.choice(list(rows_of), len(rows_of))])
    f1 = []
    for arm in pair:
        y, score = arm["label"].to_numpy()[rows], arm["score"].to_numpy()[rows]
        for cut in (0.5, arm["tuned_threshold"].to_numpy()[rows]):
            flagged = score >= cut
            f1.append(2 * (y & flagged).sum() / (y.sum() + flagged.sum()))
    return [f1[with_it] - f1[without] for with_it, without in PARTS.values()]


def test_gains_are_exact_and_their_intervals_those_of_a_plain_loop() -> None:
    results = run(records(200), {name: RESAMPLED[name] for name in ("original", "upsample")})
    subjects = toy_cohort(200).subjects
    groupings = groupings_of(subjects, BY)
    sizes = {g.name: g.sizes(subjects) for g in groupings}
    gains = estimate_gains(results.predictions, groupings, sizes, resamples=2000, seed=1)
    pair = [results.predictions.filter(method=name) for name in ("original", "upsample")]
    rng = np.random.default_rng(0)
    draws = np.array([loop_gains(pair, rng) for _ in range(400)])
    for part, drawn in zip(PARTS, draws.T, strict=True):
        row = gains.filter(by="overall", metric="f1", part=part).row(0, named=True)
        low, high = np.percentile(drawn, (2.5, 97.5))
        assert row["low"] == pytest.approx(low, abs=0.4 * drawn.std())
        assert row["high"] == pytest.approx(high, abs=0.4 * drawn.std())
    female = [arm.filter(sex="F") for arm in pair]
    for metric, sklearns in (("auroc", roc_auc_score), ("ap", average_precision_score)):
        values = [sklearns(arm["label"], arm["score"]) for arm in female]
        row = gains.filter(by="sex", group="F", metric=metric, part="information")
        assert row["value"].item() == pytest.approx(values[1] - values[0])
        assert row["low"].item() < row["value"].item() < row["high"].item()
    half = [f1_score(arm["label"], arm["score"].to_numpy() >= 0.5) for arm in female]
    row = gains.filter(by="sex", group="F", metric="f1", part="total")
    assert row["value"].item() == pytest.approx(half[1] - half[0])


def test_a_method_equal_to_the_control_gains_exactly_nothing() -> None:
    original = METHODS["original"]
    results = run(records(100), {"original": original, "twin": original})
    of_the_threshold = pl.col("part").is_in(["threshold", "group_threshold"])
    nothing = results.gains.filter(~of_the_threshold, status="ok")
    assert len(nothing)
    assert (nothing.select("value", "low", "high") == 0).select(pl.all().all()).row(0) == (
        True,
    ) * 3


@pytest.mark.parametrize("seed", range(5))
def test_weighted_rankings_are_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    owner, truth = rng.integers(0, 30, 90), rng.random(90) < 0.2
    score = rng.integers(0, 12, 90) / 12
    weight = np.concatenate([rng.integers(0, 3, (4, 30)), np.zeros((1, 30))]).astype(float)
    found = weighted_ranking(Ranked.of(owner, truth, score), weight)
    for row, subject in zip(found[:4], weight, strict=False):
        w = subject[owner]
        assert row[0] == pytest.approx(roc_auc_score(truth, score, sample_weight=w))
        assert row[1] == pytest.approx(average_precision_score(truth, score, sample_weight=w))
    assert np.isnan(found[4]).all()


def test_the_tuned_threshold_is_the_tuning_parts() -> None:
    cohort = toy_cohort(160)
    results = run(records(), {"original": METHODS["original"]})
    for fold in make_folds(strata_of(cohort.subjects, BY), 3, 0):
        train, tuning = cohort.take(fold.train), cohort.take(fold.tuning)
        scores = fit_scores("logistic_regression", train, tuning)
        told = results.predictions.filter(fold=fold.number)["tuned_threshold"].unique()
        best = f1_threshold(tuning.to_sklearn().y, scores).value
        assert told.to_list() == [pytest.approx(best)]


# ---- near-copies ----


def invented(cohort: Cohort, train: Cohort) -> Cohort:
    subjects = cohort.subjects.with_columns(synthetic=pl.lit(value=True))
    return concat([train, replace(cohort, subjects=subjects)])


@pytest.mark.parametrize("columns", [12, 24, 120])
def test_draws_from_the_same_law_are_no_copies(columns: int) -> None:
    train, held_out, fresh = (toy_cohort(n, columns, seed=n) for n in (300, 250, 2000))
    check_copies(invented(fresh, train), held_out)
    check_copies(train, held_out)


def test_copies_of_held_out_visits_are_found() -> None:
    train, held_out = toy_cohort(300, 120), toy_cohort(250, 120, seed=1)
    few = held_out.take(np.arange(0, 250, 15))
    with pytest.raises(LeakageError, match="held-out visits have a synthetic near-copy"):
        check_copies(invented(few, train), held_out)

    def cheat(train: Cohort, by: Sequence[str], **_: Any) -> Cohort:
        del by
        return invented(toy_cohort(160, 120), train)

    with pytest.raises(LeakageError, match="near-copy"):
        run(ToyRecords(toy_cohort(160, 120)), {"original": cheat})
