"""The plan fills what it says, and every method keeps the one contract."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from equipoise import schema
from equipoise.balance import (
    METHODS,
    BalancePlan,
    downsample,
    fairplay,
    method_named,
    original,
    plan_balance,
    upsample,
)
from equipoise.cohort import Cohort, concat
from equipoise.errors import DataError, UsageError
from equipoise.pipeline import methods_named
from toys import toy_cohort

BY = ["sex", "race"]
KEYS = ["label", *BY]
PLANS = {"real": pl.Int64, "target": pl.Int64, "synthetic": pl.Int64, "small": pl.Boolean}


def cell_counts(cohort: Cohort, keys: list[str] = KEYS) -> pl.DataFrame:
    return cohort.subjects.group_by(keys).len().sort(keys)


def with_subjects(cohort: Cohort, *columns: pl.Expr) -> Cohort:
    return Cohort(
        cohort.subjects.with_columns(*columns),
        cohort.visits,
        cohort.visit_offsets,
        cohort.code_offsets,
        cohort.codes,
        cohort.vocabulary,
    )


def filled(cohort: Cohort, plan: BalancePlan) -> Cohort:
    """The cohort and, for every synthetic subject of the plan, a copy of one from its cell."""
    places = cohort.subjects.with_row_index("place").group_by((*plan.by, "label")).first()
    chosen = plan.cells.join(places, on=["label", *plan.by])
    copies = np.repeat(chosen["place"].to_numpy(), chosen["synthetic"].to_numpy())
    return concat([cohort, cohort.take(copies)])


@given(st.integers(20, 120), st.integers(0, 50), st.sampled_from([["sex"], ["race"], BY, []]))
def test_a_full_plan_makes_all_observed_cells_equal(
    subjects: int, seed: int, by: list[str]
) -> None:
    cohort = toy_cohort(subjects, seed=seed)
    plan = plan_balance(cohort, by)
    assert plan.cells.schema == {"label": pl.Boolean, **dict.fromkeys(by, pl.String), **PLANS}
    before = cell_counts(cohort, ["label", *by])
    assert before["len"].cast(pl.Int64).to_list() == plan.cells["real"].to_list()
    after = cell_counts(filled(cohort, plan), ["label", *by])
    assert len(after) == len(before)
    assert after["len"].n_unique() == 1
    assert after["len"].max() == before["len"].max()


@given(st.integers(20, 120), st.integers(0, 50), st.floats(0, 1))
def test_a_ratio_fills_its_share_and_zero_adds_nobody(
    subjects: int, seed: int, ratio: float
) -> None:
    cohort = toy_cohort(subjects, seed=seed)
    assume(cohort.subjects["label"].n_unique() == 2)
    cells = plan_balance(cohort, BY, ratio=ratio).cells
    missing = cells["real"].max() - cells["real"]
    assert (cells["synthetic"] - ratio * missing).abs().max() <= 0.5
    assert (cells["target"] == cells["real"] + cells["synthetic"]).all()
    assert plan_balance(cohort, BY, ratio=0.0).synthetic == 0


def test_small_cells_are_listed_and_left_alone_only_on_request() -> None:
    cohort = toy_cohort(100)
    plan = plan_balance(cohort, BY, min_cell=8)
    assert set(plan.small["real"]) == {n for n in plan.cells["real"] if n < 8}
    assert (plan.small["synthetic"] > 0).all()
    left = plan_balance(cohort, BY, min_cell=8, leave_small=True)
    assert (left.small["synthetic"] == 0).all()
    assert (left.small["target"] == left.small["real"]).all()
    assert left.cells.filter(~pl.col("small")).equals(plan.cells.filter(~pl.col("small")))


def test_unknown_labels_and_groups_are_left_out_and_counted() -> None:
    place = pl.int_range(pl.len())
    cohort = with_subjects(
        toy_cohort(100),
        pl.when(place >= 3).then("label").alias("label"),
        pl.when((place < 3) | (place >= 7)).then("sex").alias("sex"),
    )
    plan = plan_balance(cohort, BY)
    assert plan.left_out == 7
    assert plan.cells["real"].sum() == 93
    assert upsample(cohort, BY, tuning=cohort, seed=0).subjects["sex"].null_count() == 4
    assert downsample(cohort, BY, tuning=cohort, seed=0).subjects["sex"].null_count() == 0


def test_synthetic_subjects_are_not_counted_as_real() -> None:
    cohort = toy_cohort(60)
    invented = with_subjects(cohort, pl.lit(value=True).alias("synthetic"))
    both = plan_balance(concat([cohort, invented]), BY)
    assert both.cells.equals(plan_balance(cohort, BY).cells)
    assert both.left_out == 0


def test_impossible_plans_say_why() -> None:
    cohort = toy_cohort(40)
    with pytest.raises(UsageError, match=r"from 0 to 1, got 1\.5"):
        plan_balance(cohort, BY, ratio=1.5)
    with pytest.raises(DataError, match="column religion"):
        plan_balance(cohort, ["religion"])
    with pytest.raises(UsageError, match="each group once"):
        plan_balance(cohort, ["sex", "sex"])
    one = cohort.filter(~cohort.subjects["label"])
    for method in (upsample, downsample):
        with pytest.raises(DataError, match=r"one class only; want both classes.*got only false"):
            method(one, BY, tuning=one, seed=0)
    with pytest.raises(DataError, match=r"one class only; want both classes.*got only false"):
        plan_balance(one, BY)


def test_a_plan_survives_csv(tmp_path: Path) -> None:
    plan = plan_balance(toy_cohort(100), BY)
    plan.to_csv(tmp_path / "plan.csv")
    again = BalancePlan.from_csv(tmp_path / "plan.csv")
    assert again.by == ("sex", "race")
    assert again.cells.equals(plan.cells)


def test_a_plan_written_by_hand_needs_three_columns(tmp_path: Path) -> None:
    path = tmp_path / "plan.csv"
    path.write_text("race,synthetic,label\n1,7,TRUE\n2,0,false\n")
    cells = BalancePlan.from_csv(path).cells
    assert cells.rows() == [(False, "2", 0, 0, 0, False), (True, "1", 0, 7, 7, False)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,sex\ntrue,F\n", "column synthetic: want this column"),
        ("label,sex,synthetic\ntrue,F,1\nmaybe,F,1\n", "column label, row 3: want true or false"),
        ("label,sex,synthetic\ntrue,F,-1\n", "column synthetic, row 2: want a whole number from 0"),
        ("label,sex,synthetic\ntrue,,1\n", "column sex, row 2: want a group; got nothing"),
        ("label,sex,synthetic\ntrue,F,1\ntrue,F,2\n", "column label, row 3: want each cell once"),
        ("label,sex,real,target,synthetic\ntrue,F,1,5,3\n", r"column target, row 2: want real \+"),
        ("", "want a CSV file"),
    ],
)
def test_a_wrong_plan_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "plan.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        BalancePlan.from_csv(path)


@given(st.integers(30, 120), st.integers(0, 20))
def test_resampling_counts(subjects: int, seed: int) -> None:
    cohort = toy_cohort(subjects, seed=seed)
    before = cell_counts(cohort)["len"]
    up = upsample(cohort, BY, tuning=cohort, seed=seed)
    assert set(cell_counts(up)["len"]) == {before.max()}
    assert set(up.subjects["subject_id"]) == set(cohort.subjects["subject_id"])
    down = downsample(cohort, BY, tuning=cohort, seed=seed)
    floor = max(before.min(), 10)
    assert cell_counts(down)["len"].to_list() == [min(n, floor) for n in before]
    assert not down.subjects["subject_id"].is_duplicated().any()


@pytest.mark.parametrize("method", [original, upsample, downsample])
def test_the_same_seed_gives_the_same_cohort(method: Any) -> None:
    cohort = toy_cohort(100)
    first, again, other = (method(cohort, BY, tuning=cohort, seed=s) for s in (1, 1, 2))
    assert first.subjects.equals(again.subjects)
    assert np.array_equal(first.codes, again.codes)
    assert (method is original) == first.subjects.equals(other.subjects)


def test_methods_have_names() -> None:
    names = ["original", "class_weight", "upsample", "downsample"]
    names += ["separate", "smote", "sma", "mcrage", "fairplay"]
    assert list(METHODS) == names
    assert method_named("upsample") is upsample
    with pytest.raises(UsageError, match=rf"smoke.*{', '.join(names)}"):
        method_named("smoke")
    assert methods_named(["all"]) == METHODS
    assert list(methods_named(["smote", "original"])) == ["smote", "original"]
    assert list(methods_named(["fairplay", "all"])) == ["fairplay", *names[:-1]]


def test_fairplay_trains_on_train_and_adds_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stub in the generator's place: what is asked of it, and what is made of its answer."""
    cohort, tuning = toy_cohort(100), toy_cohort(30, seed=1)
    asked: dict[str, Any] = {}

    def train_generator(train: Cohort, by: Any, seed: int = 0, **options: Any) -> str:
        asked.update(train=train, by=by, seed=seed, **options)
        return "generator"

    def sample(generator: str, plan: BalancePlan, seed: int = 0, **_: Any) -> Cohort:
        asked.update(generator=generator, sampling_seed=seed)
        extra = filled(cohort, plan).take(np.arange(100, 100 + plan.synthetic))
        return with_subjects(extra, pl.lit(value=True).alias("synthetic"))

    stub = ModuleType("equipoise.generator")
    stub.train_generator, stub.sample = train_generator, sample  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "equipoise.generator", stub)
    method = partial(fairplay, config="small")
    balanced = method(cohort, BY, tuning=tuning, seed=3, progress=schema.no_progress)
    assert asked["train"] is cohort
    assert asked["tuning"] is tuning
    assert (asked["seed"], asked["sampling_seed"]) == (3, 3)
    assert (asked["config"], asked["generator"]) == ("small", "generator")
    assert balanced.subjects[:100].equals(cohort.subjects)
    assert cell_counts(balanced)["len"].n_unique() == 1
    assert balanced.subjects["synthetic"].sum() == len(balanced) - 100
    asked.clear()
    assert partial(fairplay, ratio=0.0)(cohort, BY, tuning=tuning, seed=3) is cohort
    assert not asked
