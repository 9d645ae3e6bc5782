"""The oracle's people are fresh, real, of the right cells, and none of them comes twice."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path

import polars as pl
import pytest

import equipoise as eq
from equipoise import schema
from equipoise.balance import oracle_from, original, plan_balance
from equipoise.cohort import Cohort, concat
from equipoise.errors import DataError
from equipoise.evaluate.experiment import run_experiment
from equipoise.records import VisitRecords
from equipoise.simulate import simulate
from toys import ToyRecords, toy_cohort

BY = ("sex", "race")


def hospital(folder: Path, seed: int, patients: int) -> VisitRecords:
    simulate(
        folder,
        patients=patients,
        seed=seed,
        file_format="parquet",
        lab_rows_per_patient=20.0,
        death_rate=0.2,
    )
    return eq.read_mimic_iv(folder)


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> tuple[VisitRecords, VisitRecords]:
    """One under study and a fresh one that is larger."""
    folder = tmp_path_factory.mktemp("hospitals")
    return hospital(folder / "study", 1, 600), hospital(folder / "fresh", 2, 3000)


def identities(cohort: Cohort) -> list[tuple[object, ...]]:
    """What a subject is known by whatever its id: its cell and its visits' codes."""
    ends = cohort.code_offsets[cohort.visit_offsets]
    cells = cohort.subjects.select(schema.LABEL, *BY).rows()
    return [(*cell, cohort.codes[ends[s] : ends[s + 1]].tobytes()) for s, cell in enumerate(cells)]


def test_they_are_fresh_people_of_the_cell_and_none_comes_twice() -> None:
    train, fresh = toy_cohort(100), toy_cohort(8000, seed=5)
    numbered = fresh.subjects.with_columns(pl.lit("x").alias("ward"))
    fresh = replace(fresh, subjects=numbered)
    result = oracle_from(ToyRecords(fresh))(
        train, BY, tuning=train, seed=3, progress=schema.no_progress
    )
    new = result.filter(result.subjects[schema.SYNTHETIC].to_numpy())
    assert len(new) == plan_balance(train, BY).synthetic
    assert new.groups == train.groups
    known = identities(fresh)
    drawn = identities(new)
    assert set(drawn) <= set(known)
    assert all(drawn.count(person) <= known.count(person) for person in set(drawn))
    for frame, column in ((result.subjects, "subject_id"), (result.visits, "visit_id")):
        assert not frame[column].is_duplicated().any()


def test_too_few_are_told_with_how_many_more_it_takes() -> None:
    train, fresh = toy_cohort(300), toy_cohort(400, seed=5)
    method = oracle_from(ToyRecords(fresh))
    with pytest.raises(
        DataError,
        match=r"fresh records: too few for the cell of label True, sex F, race Black; want \d+ "
        r"subjects; got \d+ among 400\. Simulate [\d.]+ times as many patients \(about [\d,]+ ",
    ) as told:
        method(train, BY, tuning=train, seed=3, progress=schema.no_progress)
    times = float(str(told.value).split("Simulate ")[1].split()[0])
    enough = oracle_from(ToyRecords(toy_cohort(round(400 * times), seed=6)))
    result = enough(train, BY, tuning=train, seed=3, progress=schema.no_progress)
    assert len(result) == len(train) + plan_balance(train, BY).synthetic
    nobody = ToyRecords(fresh.filter((fresh.subjects["race"] != "Asian").to_numpy()))
    with pytest.raises(DataError, match=r"race Asian; want \d+ subjects; got 0 among"):
        oracle_from(nobody)(train, BY, tuning=train, seed=3, progress=schema.no_progress)


def test_the_subjects_under_study_are_not_fresh() -> None:
    train = toy_cohort(300)
    again = ToyRecords(concat([toy_cohort(6000, seed=5), train]))
    with pytest.raises(DataError, match=r"the very records of \d+ of \d+ training.*another seed"):
        oracle_from(again)(train, BY, tuning=train, seed=3, progress=schema.no_progress)


def test_a_folder_is_as_good_as_the_records_also_in_another_process(
    hospitals: tuple[VisitRecords, VisitRecords], tmp_path: Path
) -> None:
    study, fresh = hospitals
    train = study.encode(study.fit_vocabulary())
    folder = fresh.save(tmp_path / "fresh")
    method = partial(oracle_from(str(folder)), ratio=0.5)
    made = [
        oracle(train, ["sex"], tuning=train, seed=4, progress=schema.no_progress)
        for oracle in (partial(oracle_from(fresh), ratio=0.5), pickle.loads(pickle.dumps(method)))
    ]
    assert made[0].subjects.equals(made[1].subjects)
    assert made[0].codes.tobytes() == made[1].codes.tobytes()
    assert made[0].subjects[schema.SYNTHETIC].sum() > 0
    with pytest.raises(DataError):
        oracle_from(tmp_path / "nothing")(
            train, ["sex"], tuning=train, seed=4, progress=schema.no_progress
        )


def test_the_experiment_takes_it(hospitals: tuple[VisitRecords, VisitRecords]) -> None:
    study, fresh = hospitals
    methods = {"original": original, "oracle": oracle_from(fresh)}
    results = run_experiment(
        study, ["sex"], methods, folds=3, models=["logistic_regression"], resamples=20
    )
    cells = results.cells.filter(pl.col("method") == "oracle")
    filled = cells.select("fold", n=pl.col("subjects") + pl.col("synthetic"))
    assert filled.group_by("fold").agg(pl.col("n").n_unique())["n"].to_list() == [1, 1, 1]
    assert cells["synthetic"].sum() > 0
    # The very hospital under study holds the subjects it is judged on.
    with pytest.raises(DataError, match="another seed"):
        run_experiment(study, ["sex"], {"oracle": oracle_from(study)}, folds=3)
