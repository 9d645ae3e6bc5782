"""Sequential trees draw the law they learned from, given the cell, and choose what they may ask."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from equipoise import schema
from equipoise.balance.rows import CellRows
from equipoise.balance.sequential import (
    SequenceConfig,
    attributes_of,
    grow_all,
    order_variables,
    preselected,
)
from equipoise.balance.sma import sma
from equipoise.balance.trees import Ints, Stop, Tree, grow
from equipoise.cohort import Cohort, cohort_from_lists, concat
from equipoise.errors import DataError
from equipoise.vocabulary import LAB, Vocabulary
from toys import toy_cohort

#: (label, sex) of the cells, and how many subjects each has.
CELLS = ((False, "F"), (False, "M"), (True, "F"), (True, "M"))
SIZES = (6000, 3000, 2000, 1000)


def visits(rows: np.ndarray, cell: np.ndarray, vocabulary: Vocabulary | None = None) -> Cohort:
    """A subject with one visit for each 0/1 row, in the cell of that number."""
    frame = pl.DataFrame([CELLS[i] for i in cell], schema=["label", "sex"], orient="row")
    names = vocabulary or Vocabulary.of_codes([f"C{i}" for i in range(rows.shape[1])])
    return cohort_from_lists([[np.flatnonzero(row).tolist()] for row in rows], frame, names)


def drawn(cohort: Cohort, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """The synthetic rows (M, V) and their cells."""
    balanced = sma(cohort, ["sex"], tuning=cohort, seed=5, **options)
    made = balanced.filter(balanced.subjects[schema.SYNTHETIC])
    cells = [CELLS.index(row) for row in made.subjects.select("label", "sex").iter_rows()]
    return made.matrix().toarray().astype(int), np.array(cells)


def law(rows: np.ndarray) -> np.ndarray:
    """The share of each of the 2^V possible rows."""
    code = rows @ (1 << np.arange(rows.shape[1]))
    return np.bincount(code, minlength=1 << rows.shape[1]) / len(code)


def labs_of(*columns_of: int) -> Vocabulary:
    """Labs with so many bins each."""
    codes = [f"L{lab}" for lab, bins in enumerate(columns_of) for _ in range(bins)]
    return Vocabulary.of_codes(codes, LAB)


def any_law(rng: np.random.Generator, cell: np.ndarray) -> np.ndarray:
    """Rows of three columns whose 8 outcomes are as likely as chance made them, cell by cell."""
    below = rng.dirichlet(np.full(8, 0.7), 4).cumsum(axis=1)
    outcome = (rng.random((len(cell), 1)) >= below[cell]).sum(axis=1)
    return np.minimum(outcome, 7)[:, None] >> np.arange(3) & 1


def additive_law(rng: np.random.Generator, cell: np.ndarray) -> np.ndarray:
    """Rows of four columns, each a logistic regression on label, sex and those before it."""
    seen = np.stack([cell >= 2, cell % 2], axis=1).astype(float)
    for column in range(4):
        weight = rng.choice([-1.5, 1.5], 2 + column)
        rate = 1 / (1 + np.exp(0.5 - (seen - 0.5) @ weight))
        seen = np.column_stack([seen, rng.random(len(cell)) < rate])
    return seen[:, 2:].astype(int)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("made_of", "stop", "slack"),
    # A split that is tested may be refused, and what five rows cannot tell is shared: hence slack.
    [(any_law, Stop(1, np.inf), 0.0), (additive_law, Stop(), 0.015)],
    ids=["full", "tested"],
)
def test_on_few_columns_every_record_is_as_likely_as_in_its_cell(
    seed: int, made_of: Any, stop: Stop, slack: float
) -> None:
    cell = np.repeat(np.arange(4), SIZES)
    rows = made_of(np.random.default_rng(seed), cell)
    made, places = drawn(visits(rows, cell), config=SequenceConfig(stop=stop))
    for i in (1, 2, 3):
        of_cell = made[places == i]
        want, got = law(rows[cell == i]), law(of_cell)
        chance = 4 * np.sqrt(want * (1 - want) / len(of_cell)) + 1 / len(of_cell)
        assert (np.abs(got - want) <= chance + slack).all()


def test_a_copy_is_copied_and_noise_is_left_alone() -> None:
    rng = np.random.default_rng(3)
    cell = np.repeat(np.arange(4), (400, 300, 200, 100))
    a = rng.random(1000) < 0.3
    rows = np.stack([a, a, ~a, rng.random(1000) < 0.2], axis=1)
    made, _ = drawn(visits(rows, cell))
    assert (made[:, 0] == made[:, 1]).all()
    assert (made[:, 0] == 1 - made[:, 2]).all()
    assert 0 < made[:, 0].mean() < 1
    assert abs(np.corrcoef(made[:, 0], made[:, 3])[0, 1]) < 0.2


def test_bins_of_a_lab_exclude_each_other_unless_real_rows_have_two() -> None:
    rng = np.random.default_rng(4)
    cell = np.repeat(np.arange(4), (4000, 3000, 2000, 1000))
    # So rare that no test would find that two of them exclude each other.
    bins = np.eye(100, dtype=bool)[:, :10][rng.integers(0, 100, 10_000)]
    free = rng.random((10_000, 3)) < 0.5
    made, _ = drawn(visits(np.hstack([bins, free]), cell, labs_of(10, 3)))
    assert (made[:, :10].sum(axis=1) <= 1).all()
    np.testing.assert_allclose(made[:, :10].mean(axis=0), bins.mean(axis=0), atol=0.006)
    assert (made[:, 10:].sum(axis=1) > 1).any()
    np.testing.assert_allclose(made[:, 10:].mean(axis=0), 0.5, atol=0.04)


def test_cells_differ_where_their_rows_do_and_all_or_nothing_stays_so() -> None:
    rng = np.random.default_rng(6)
    cell = np.repeat(np.arange(4), (4000, 3000, 2000, 1000))
    by_label = rng.random(10000) < np.where(cell >= 2, 0.8, 0.1)
    by_sex = rng.random(10000) < np.where(cell % 2, 0.7, 0.05)
    only = rng.random(10000) < np.where(cell == 3, 0.9, 0.0)
    rows = np.stack([by_label, by_sex, only, np.ones(10000, bool), np.zeros(10000, bool)], axis=1)
    made, places = drawn(visits(rows, cell))
    for i in (1, 2, 3):
        want, got = rows[cell == i].mean(axis=0), made[places == i].mean(axis=0)
        np.testing.assert_allclose(got, want, atol=0.06)
        assert got[3] == 1
        assert got[4] == 0


def test_a_single_row_borrows_from_the_other_cells() -> None:
    rng = np.random.default_rng(7)
    cell = np.repeat(np.arange(4), (300, 200, 100, 1))
    rows = rng.random((601, 8)) < 0.3
    rows[-1] = True
    made, places = drawn(visits(rows, cell))
    of_cell = made[places == 3]
    assert len(of_cell) == 299
    np.testing.assert_allclose(of_cell.mean(axis=0), rows.mean(axis=0), atol=0.12)
    assert len(np.unique(of_cell, axis=0)) > 20


@given(st.integers(0, 1000), st.integers(1, 6), st.integers(2, 4))
def test_preselected_columns_are_those_of_the_largest_fall(seed: int, most: int, k: int) -> None:
    """Against a plain oracle: the impurity before, less that of both sides."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, 60)
    x = rng.random((60, 12)) < rng.random(12) * np.where(y == 0, 1.0, 0.5)[:, None]

    def impurity(part: Ints) -> float:
        shares = np.bincount(part, minlength=k) / max(len(part), 1)
        return float(len(part) * (1 - (shares**2).sum()))

    falls = np.array(
        [
            impurity(y) - impurity(y[on]) - impurity(y[~on]) if 5 <= on.sum() <= 55 else 0.0
            for on in x.T
        ]
    )
    joint = np.stack([x[y == c].sum(axis=0) for c in range(1, k)])
    total = np.bincount(y, minlength=k)
    chosen = preselected(x.sum(axis=0), total, joint, SequenceConfig(parents=most))
    assert len(set(chosen)) == len(chosen) == min(most, int((falls > 1e-9).sum()))
    np.testing.assert_allclose(falls[chosen], np.sort(falls)[::-1][: len(chosen)], atol=1e-9)


def test_trees_ask_only_attributes_and_the_preselected_before_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The counts handed to the preselection are those of a dense product, across blocks."""
    cohort = toy_cohort(300, columns=24)
    monkeypatch.setattr("equipoise.balance.sequential.BLOCK", 5)
    cell = np.arange(len(cohort.visits)) % 4
    attributes = attributes_of(pl.DataFrame(CELLS, schema=["label", "sex"], orient="row"))
    ordered = order_variables(CellRows(cohort.matrix(), cell), attributes, cohort.vocabulary)
    z = ordered.z.toarray().astype(int)
    seen = []

    def spy(within: Ints, total: Ints, joint: Ints, config: SequenceConfig) -> Ints:
        first = 3 + len(seen)
        assert np.array_equal(joint, z[:, [first]].T @ z[:, 3:first])
        assert np.array_equal(within, z[:, 3:first].sum(axis=0))
        seen.append(preselected(within, total, joint, config))
        return seen[-1]

    monkeypatch.setattr("equipoise.balance.sequential.preselected", spy)
    trees = list(grow_all(ordered, 3, SequenceConfig(parents=4, rare=60, stop=Stop(alpha=50))))
    shares = z[:, 3:].sum(axis=0)
    assert (np.diff(shares) <= 0).all()
    assert len(seen) == (shares >= 60).sum() < len(trees)
    for j, tree in enumerate(trees):
        allowed = {*range(3), *(3 + seen[j] if j < len(seen) else ())}
        assert set(tree.feature[tree.feature >= 0]) <= allowed
        assert j >= len(seen) or len(seen[j]) <= 4


@given(st.integers(0, 1000), st.integers(2, 4), st.sampled_from([1, 5]))
def test_leaves_hold_the_rows_that_reach_them(seed: int, classes: int, min_leaf: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.random((80, 6)) < rng.random(6)
    y = (x[:, :3].sum(axis=1) + (rng.random(80) < 0.2)) % classes
    tree = grow(sparse.csr_array(x.astype(np.float32)), y, classes, Stop(min_leaf, np.inf))
    leaf = tree.leaves(x.T)
    for node in range(len(tree.feature)):
        own = y[leaf == node]
        assert bool(len(own)) == (tree.feature[node] < 0)
        if len(own):
            assert len(own) >= min_leaf
            shares = np.cumsum(np.bincount(own, minlength=classes))[:-1] / len(own)
            np.testing.assert_allclose(tree.up_to[node], shares)
    if min_leaf == 1:
        # Grown to its end, every leaf is of one class or of rows that no column tells apart.
        for node in np.unique(leaf):
            mixed = len(np.unique(y[leaf == node])) > 1
            assert not mixed or not useful(x[leaf == node], y[leaf == node])


def useful(x: np.ndarray, y: Ints) -> bool:
    """Whether any column splits the classes into other shares than they have."""
    return any(
        np.abs(
            np.bincount(y[on], minlength=4) / on.sum() - np.bincount(y, minlength=4) / len(y)
        ).max()
        > 1e-6
        for on in x.T
        if 0 < on.sum() < len(y)
    )


def test_what_is_independent_is_rarely_split() -> None:
    rng = np.random.default_rng(8)
    stumps = 0
    for _ in range(100):
        x = sparse.csr_array((rng.random((400, 50)) < 0.3).astype(np.float32))
        stumps += len(grow(x, rng.integers(0, 2, 400), 2, Stop()).feature) == 1
    # 95 are expected where the test is exact.
    assert stumps >= 88


def test_a_class_is_drawn_as_often_as_its_share() -> None:
    tree = Tree(np.array([-1]), np.array([-1]), np.array([[0.25, 0.25, 0.75]]))
    u = (np.arange(1000) + 0.5) / 1000
    counts = np.bincount(tree.draw(np.zeros((1, 1000), bool), u), minlength=4)
    assert counts.tolist() == [250, 0, 500, 250]


def test_the_seed_decides_and_real_rows_come_first_untouched() -> None:
    cohort = toy_cohort(150)
    by = ["sex", "race"]
    stages: list[tuple[str, int, int]] = []

    def progress(*said: Any) -> None:
        stages.append(said)

    one = sma(cohort, by, tuning=cohort, seed=1, progress=progress)
    again, other = (sma(cohort, by, tuning=cohort, seed=s) for s in (1, 2))
    assert one.subjects.equals(again.subjects)
    assert np.array_equal(one.codes, again.codes)
    assert not np.array_equal(one.codes, other.codes)
    real = one.take(np.arange(150))
    assert real.subjects.equals(cohort.subjects)
    assert real.visits.equals(cohort.visits)
    assert np.array_equal(real.codes, cohort.codes)
    assert np.array_equal(real.code_offsets, cohort.code_offsets)
    assert one.subjects.group_by("label", *by).len()["len"].n_unique() == 1
    done = [(d, total) for stage, d, total in stages if stage == "sma: trees"]
    assert done == [(i + 1, 24) for i in range(24)]
    assert sma(cohort, by, tuning=cohort, seed=1, ratio=0.0) is cohort


def test_blocks_of_rows_are_drawn_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = np.repeat(np.arange(4), SIZES)
    rows = any_law(np.random.default_rng(1), cell)
    monkeypatch.setattr("equipoise.balance.sequential.DRAWN", 1000)
    made, places = drawn(visits(rows, cell))
    first, second = made[:1000], made[1000:2000]
    assert (places[:2000] == 1).all()
    assert not np.array_equal(first, second)


def test_labels_without_any_visit_of_their_own_are_refused() -> None:
    cohort = toy_cohort(60)
    blind = cohort.visits.with_columns(pl.lit(None, pl.Boolean).alias("label"))
    unknown = Cohort(
        cohort.subjects,
        blind,
        cohort.visit_offsets,
        cohort.code_offsets,
        cohort.codes,
        cohort.vocabulary,
    )
    with pytest.raises(DataError, match="want at least one visit with the label of its subject"):
        sma(unknown, ["sex"], tuning=unknown, seed=0)
    assert len(concat([cohort])) == 60
