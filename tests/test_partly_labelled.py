"""One labelled visit a subject, as tables of labels have it; and what else a run may be given."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

import equipoise as eq
from command import cli
from equipoise import schema
from equipoise.balance import METHODS
from equipoise.cohort import is_earlier
from equipoise.errors import DataError, UsageError
from equipoise.evaluate.cells import count_cells
from equipoise.evaluate.downstream import MODELS, models_named
from equipoise.evaluate.experiment import Running, run_experiment
from equipoise.evaluate.own import from_estimator
from equipoise.evaluate.results import Results, summary
from equipoise.generator import sample, train_generator
from equipoise.pipeline import methods_named
from equipoise.report.summary import fairness_means, outline_of
from equipoise.training_set import TrainingSet
from generator_toys import SMALL, plan_of
from toys import ToyRecords, toy_cohort

TINY = replace(SMALL, layers=1, max_steps=2, evaluate_every=1)


def partly_labelled(subjects: int = 120) -> eq.Cohort:
    cohort = toy_cohort(subjects)
    earlier = pl.Series(is_earlier(cohort.visit_offsets))
    labels = cohort.visits[schema.LABEL].set(earlier, None)
    return replace(cohort, visits=cohort.visits.with_columns(labels))


@pytest.mark.parametrize("known", [True, False])
def test_synthetic_visits_are_labelled_where_real_ones_are(known: bool) -> None:
    cohort = toy_cohort(120) if known else partly_labelled()
    generator = train_generator(cohort, ["sex"], config=TINY)
    synthetic = sample(generator, plan_of([20, 20, 20, 20]))
    labels, earlier = synthetic.visits[schema.LABEL], is_earlier(synthetic.visit_offsets)
    assert earlier.any()
    assert labels.filter(pl.Series(earlier)).to_list() == [False if known else None] * earlier.sum()
    assert labels.filter(pl.Series(~earlier)).to_list() == synthetic.subjects["label"].to_list()


def test_cells_count_the_visits_that_a_classifier_sees() -> None:
    cohort = partly_labelled()
    weights = np.arange(1.0, len(cohort.visits) + 1)
    cells = count_cells(TrainingSet(cohort, weights), ["sex"])
    known = cohort.visits[schema.LABEL].is_not_null().to_numpy()
    assert cells["visits"].sum() == known.sum() == len(cohort.to_sklearn().y)
    assert cells["positive_visits"].sum() == cohort.visits[schema.LABEL].sum()
    assert cells["weight"].sum() == weights[known].sum()


def test_pieces_of_ones_own_model_are_those_of_one_model(tmp_path: Path) -> None:
    def run(strength: float, **more: object) -> None:
        models = {"mine:model": from_estimator("mine:model", LogisticRegression(C=strength))}
        run_experiment(
            ToyRecords(toy_cohort(120)),
            ["sex"],
            {"original": METHODS["original"]},
            models={**models, **more},
            folds=2,
            resamples=20,
            running=Running(threads=1, keep=tmp_path),
        )

    run(1.0)
    run(1.0, logistic=MODELS["logistic_regression"])
    with pytest.raises(UsageError, match="another mine:model: ask for the same"):
        run(0.5)


@pytest.mark.parametrize("name", ["overall", "len", "in", "n", "factor", "cell", "__row", "fold"])
def test_names_that_results_need_are_refused_before_anything_is_fitted(name: str) -> None:
    cohort = toy_cohort(60)
    records = ToyRecords(
        replace(
            cohort, subjects=cohort.subjects.rename({"sex": name}), vocabulary=cohort.vocabulary
        )
    )
    with pytest.raises(UsageError, match="cannot be a group here"):
        run_experiment(records, [name], {"original": METHODS["original"]}, folds=2)


def test_all_may_stand_among_others() -> None:
    assert list(methods_named(["all", "fairplay@0.5"])) == [*METHODS, "fairplay@0.5"]
    assert list(models_named(["all"])) == list(MODELS)
    assert list(models_named(["xgboost", "all"])) == [
        "xgboost",
        *(m for m in MODELS if m != "xgboost"),
    ]


def test_codes_of_another_vocabulary_are_refused(tmp_path: Path) -> None:
    small, large = toy_cohort(20, 6), toy_cohort(20, 24)
    for name, cohort in (("small", small), ("large", large)):
        cohort.save(tmp_path / name)
    shutil.copy(tmp_path / "small" / "vocabulary.arrow", tmp_path / "large" / "vocabulary.arrow")
    with pytest.raises(DataError, match="codes.arrow: want columns of the vocabulary, below 6"):
        eq.Cohort.load(tmp_path / "large")


@pytest.mark.parametrize("damage", ["cut", "json", "missing", "more"])
def test_damaged_results_are_bad_data(tmp_path: Path, damage: str) -> None:
    results = run_experiment(
        ToyRecords(toy_cohort(60)),
        ["sex"],
        {"original": METHODS["original"]},
        models=["logistic_regression"],
        folds=2,
        resamples=20,
        running=Running(threads=1),
    )
    folder = results.save(tmp_path / "results")
    if damage == "cut":
        path = folder / "metrics.parquet"
        path.write_bytes(path.read_bytes()[:100])
    else:
        setup = json.loads((folder / "setup.json").read_text())
        if damage == "missing":
            del setup["folds"]
        setup |= {"unheard": 1} if damage == "more" else {}
        (folder / "setup.json").write_text("{" if damage == "json" else json.dumps(setup))
    with pytest.raises(DataError):
        Results.load(folder)


def test_a_plan_has_no_ratio(tmp_path: Path) -> None:
    done = cli("sample", "nowhere", "--plan", "p.csv", "--ratio", 0.5, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "--ratio is for --balance" in done.stderr


def test_a_demo_does_not_replace_a_hospital_unasked(tmp_path: Path) -> None:
    (tmp_path / "hospital").mkdir()
    (tmp_path / "hospital" / "mine").touch()
    done = cli("demo", "--out", tmp_path)
    assert done.returncode == 2
    assert "exists already" in done.stderr
    assert (tmp_path / "hospital" / "mine").exists()


def test_numbers_over_groups_take_two_groups_that_can_be_judged() -> None:
    cohort = toy_cohort(240)
    positive = cohort.subjects[schema.LABEL].to_numpy()
    few = np.flatnonzero(positive)[:6].tolist() + np.flatnonzero(~positive)[:20].tolist()
    sex = pl.Series(["F" if place in few else "M" for place in range(240)])
    subjects = cohort.subjects.with_columns(sex.alias("sex"))
    results = run_experiment(
        ToyRecords(replace(cohort, subjects=subjects)),
        ["sex"],
        {name: METHODS[name] for name in ("original", "upsample")},
        models=["logistic_regression"],
        folds=2,
        resamples=50,
        running=Running(threads=1),
    )
    table = summary(results, by="sex")
    over_groups = table.select("worst_group_f1", "disparate_impact", "theil")
    assert over_groups.select(pl.all().is_nan().all()).row(0) == (True, True, True)
    assert table["f1_tuned"].is_finite().all()
    gains = results.gains.filter(by="sex", group="overall", part="total")
    status = dict(gains.select("metric", "status").iter_rows())
    assert status["disparate_impact"] == status["theil"] == "too_few"
    assert status["demographic_parity_ratio"] == "ok"
    means = fairness_means(results.fairness, outline_of(results))
    arm = ("original", "tuned", "sex")
    told = {key[-1]: value for key, value in means.items() if key[1:4] == arm}
    assert told["theil"].mean is None
    assert told["demographic_parity_ratio"].mean is not None
