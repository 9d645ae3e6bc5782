"""One list of checks, run over every balancing method.

To add a method, add a line to `CASES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from inspect import signature
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest

from equipoise import schema
from equipoise.balance import (
    BalancingMethod,
    class_weight,
    downsample,
    fairplay,
    mcrage,
    oracle_from,
    original,
    separate,
    sma,
    smote,
    upsample,
)
from equipoise.balance.diffusion.config import DiffusionConfig
from equipoise.cohort import Cohort
from equipoise.errors import DataError
from equipoise.evaluate.leakage import check_leakage
from equipoise.training_set import TrainingSet
from generator_toys import SMALL
from toys import ToyRecords, toy_cohort

BY = ("sex", "race")
Counts = npt.NDArray[np.int64]
Promise = Callable[[Counts], Counts]


def same(real: Counts) -> Counts:
    return real


def filled(real: Counts) -> Counts:
    return np.full_like(real, real.max())


def cut(real: Counts) -> Counts:
    return np.minimum(real, max(int(real.min()), 10))


@dataclass(frozen=True)
class Case:
    """A method, the sizes it promises of cells of these sizes, and what is peculiar to it."""

    name: str
    method: BalancingMethod
    promise: Promise = filled
    random: bool = True
    stops_by_tuning: bool = False
    keeps_everyone: bool = True
    takes_one_class: bool = False


BRIEF = DiffusionConfig(width=8, layers=1, batch_rows=32, evaluate_every=1, max_steps=2, patience=1)
TINY = replace(SMALL, max_steps=2, evaluate_every=1, patience=1)
CASES = [
    Case("original", original, same, random=False, takes_one_class=True),
    Case("class_weight", class_weight, same, random=False),
    Case("upsample", upsample),
    Case("downsample", downsample, cut, keeps_everyone=False),
    Case("separate", separate, same, random=False),
    Case("smote", smote),
    Case("sma", sma),
    Case("mcrage", partial(mcrage, config=BRIEF), stops_by_tuning=True),
    Case("fairplay", partial(fairplay, config=TINY), stops_by_tuning=True),
    Case("oracle", oracle_from(ToyRecords(toy_cohort(8000, seed=9)))),
]


def changed(cohort: Cohort, *columns: pl.Expr) -> Cohort:
    return replace(cohort, subjects=cohort.subjects.with_columns(*columns))


@cache
def training() -> Cohort:
    """Cells of one subject, combinations that nobody has, unknown labels, unknown groups."""
    cohort = toy_cohort(90)
    place = pl.int_range(pl.len())
    rare = (pl.col("race") == "Asian") & (pl.col("sex") == "F")
    cohort = cohort.filter(~cohort.subjects.select(rare & pl.col("label")).to_series())
    asian = (pl.col("race") == "Asian") & pl.col("label")
    spare = cohort.subjects.select(asian & (asian.cum_sum() > 1)).to_series()
    cohort = changed(
        cohort.filter(~spare),
        pl.when(place != 3).then("label").alias("label"),
        pl.when(place != 5).then("sex").alias("sex"),
        pl.when(place != 7).then("race").alias("race"),
    )
    ids = cohort.subjects[schema.SUBJECT_ID].to_numpy()
    return replace(cohort, vocabulary=replace(cohort.vocabulary, fitted_on=ids))


@cache
def tuning(seed: int = 1) -> Cohort:
    """Other people than those of `training`."""
    return changed(toy_cohort(40, seed=seed), pl.col(schema.SUBJECT_ID) + 10_000)


def balance(case: Case, train: Cohort, by: Any = BY, seed: int = 1, **options: Any) -> TrainingSet:
    options = {"tuning": tuning(), "progress": schema.no_progress} | options
    return TrainingSet.of(case.method(train, by, seed=seed, **options))


@cache
def balanced(case: Case) -> Cohort:
    return balance(case, training()).cohort


def cells(cohort: Cohort, by: Any = BY) -> pl.DataFrame:
    """How many subjects each observed cell has, people of no cell left out."""
    keys = [schema.LABEL, *by]
    return cohort.subjects.drop_nulls(keys).group_by(keys).len("n").sort(keys)


def is_synthetic(cohort: Cohort) -> npt.NDArray[np.bool_]:
    return cohort.subjects[schema.SYNTHETIC].to_numpy()


def same_bytes(one: Cohort, other: Cohort) -> bool:
    return (
        one.subjects.equals(other.subjects)
        and one.visits.equals(other.visits)
        and all(
            getattr(one, name).dtype == getattr(other, name).dtype
            and getattr(one, name).tobytes() == getattr(other, name).tobytes()
            for name in ("visit_offsets", "code_offsets", "codes")
        )
    )


def check_cells_reach_what_is_promised(case: Case) -> None:
    before, after = cells(training()), cells(balanced(case))
    assert before["n"].min() == 1
    # A combination that nobody has is not invented.
    assert before.drop("n").equals(after.drop("n"))
    want = case.promise(before["n"].to_numpy().astype(np.int64))
    assert after["n"].to_list() == want.tolist()


def check_real_subjects_come_first_and_untouched(case: Case) -> None:
    train, result = training(), balanced(case)
    synthetic = is_synthetic(result)
    assert (np.diff(synthetic.astype(int)) >= 0).all()
    real = result.filter(~synthetic)
    ids = train.subjects[schema.SUBJECT_ID].to_list()
    places = np.array([ids.index(i) for i in real.subjects[schema.SUBJECT_ID]])
    assert same_bytes(real, train.take(places))
    first = places[: len(train)] if case.keeps_everyone else places
    assert (np.diff(first) > 0).all()
    assert not case.keeps_everyone or np.array_equal(first, np.arange(len(train)))


def check_nobody_is_there_from_outside(case: Case) -> None:
    """Beside the ids, which the check above looks up: the guard of the experiment agrees."""
    result = balanced(case)
    held_out = changed(tuning(2), pl.col(schema.SUBJECT_ID) + 10_000)
    check_leakage(result, tuning=tuning(), held_out=held_out)
    new = result.filter(is_synthetic(result))
    assert not new.subjects[schema.SUBJECT_ID].is_duplicated().any()
    assert not new.visits[schema.VISIT_ID].is_duplicated().any()


def check_tuning_subjects_decide_nothing(case: Case) -> None:
    if not case.stops_by_tuning:
        again = balance(case, training(), tuning=tuning(2)).cohort
        assert same_bytes(again, balanced(case))


def check_people_of_no_cell_stay_or_go_as_a_rule(case: Case) -> None:
    unknown = pl.any_horizontal(pl.col(schema.LABEL, *BY).is_null())
    before, after = (cohort.subjects.filter(unknown) for cohort in (training(), balanced(case)))
    assert len(before) == 3
    assert after.equals(before if case.keeps_everyone else before[:0])


def check_the_result_is_a_valid_cohort(case: Case) -> None:
    result = balanced(case)
    schema.check_frame(result.subjects, schema.SUBJECTS, "subjects")
    assert result.groups == training().groups
    assert result.vocabulary.equals(training().vocabulary)
    assert result.codes.dtype == np.int32
    assert result.visit_offsets.dtype == result.code_offsets.dtype == np.int64
    assert (np.diff(result.visit_offsets) > 0).all()
    for start, end in zip(result.code_offsets[:-1], result.code_offsets[1:], strict=True):
        visit = result.codes[start:end]
        assert (np.diff(visit) > 0).all()
        assert len(visit) == 0 or (visit[0] >= 0 and visit[-1] < len(result.vocabulary))


def check_a_new_subject_has_its_label_on_the_last_visit(case: Case) -> None:
    result = balanced(case)
    new = result.filter(is_synthetic(result))
    labels = new.visits[schema.LABEL].to_numpy()
    last = new.visit_offsets[1:] - 1
    assert np.array_equal(labels[last], new.subjects[schema.LABEL].to_numpy())
    assert not np.delete(labels, last).any()
    assert (new.subjects[schema.SPLIT] == schema.TRAIN).all()


def check_the_seed_decides_alone(case: Case) -> None:
    assert same_bytes(balance(case, training()).cohort, balanced(case))
    other = balance(case, training(), seed=2).cohort
    assert same_bytes(other, balanced(case)) != case.random


def check_what_comes_in_stays_as_it_is(case: Case) -> None:
    train = training()
    copy = train.take(np.arange(len(train)))
    balance(case, train, seed=3)
    assert same_bytes(train, copy)


def check_a_ratio_fills_its_share(case: Case) -> None:
    if "ratio" not in signature(case.method).parameters:
        return
    real = cells(training())["n"].to_numpy().astype(np.int64)
    half = balance(case, training(), ratio=0.5).cohort
    want = real + np.rint(0.5 * (real.max() - real)).astype(int)
    assert cells(half)["n"].to_list() == want.tolist()
    assert balance(case, training(), ratio=0.0).cohort is training()


def check_a_group_column_of_one_value_works(case: Case) -> None:
    train = changed(training(), pl.lit("F").alias("sex"))
    result = balance(case, train, by=("sex",)).cohort
    real = cells(train, ["sex"])["n"].to_numpy().astype(np.int64)
    assert len(real) == 2
    assert cells(result, ["sex"])["n"].to_list() == case.promise(real).tolist()


def check_one_class_only_is_refused(case: Case) -> None:
    one = training().filter((~training().subjects[schema.LABEL]).fill_null(value=False))
    if case.takes_one_class:
        assert balance(case, one).cohort is one
    else:
        with pytest.raises(DataError, match=r"one class only; want both classes.*got only false"):
            balance(case, one)


def check_an_unknown_group_is_refused(case: Case) -> None:
    with pytest.raises(DataError, match=r"column religion: want a group column, one of sex, race"):
        balance(case, training(), by=("religion",))


CHECKS = [
    check_cells_reach_what_is_promised,
    check_real_subjects_come_first_and_untouched,
    check_nobody_is_there_from_outside,
    check_tuning_subjects_decide_nothing,
    check_people_of_no_cell_stay_or_go_as_a_rule,
    check_the_result_is_a_valid_cohort,
    check_a_new_subject_has_its_label_on_the_last_visit,
    check_the_seed_decides_alone,
    check_what_comes_in_stays_as_it_is,
    check_a_ratio_fills_its_share,
    check_a_group_column_of_one_value_works,
    check_one_class_only_is_refused,
    check_an_unknown_group_is_refused,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__[6:])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_method(case: Case, check: Callable[[Case], None]) -> None:
    check(case)
