"""SMOTE's new rows lie between two of their cell, as often on each code as Chawla's would be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from imblearn.over_sampling import SMOTE
from scipy import sparse

from equipoise import schema
from equipoise.balance import plan_balance, smote
from equipoise.balance.rows import rows_of
from equipoise.balance.smote import NEIGHBOURS, rows_between
from equipoise.cohort import Cohort
from equipoise.errors import DataError
from toys import toy_cohort

BY = ("sex", "race")


def rows(n: int, columns: int = 16, rate: float = 0.35, seed: int = 0) -> sparse.csr_array:
    """n different rows of zeros and ones."""
    rng = np.random.default_rng(seed)
    drawn = np.unique(rng.random((3 * n, columns)) < rate, axis=0)
    return sparse.csr_array(rng.permutation(drawn)[:n].astype(np.float32))


def interpolated(X: sparse.csr_array, count: int) -> np.ndarray:
    """imbalanced-learn's rows: it wants a second class, of which nothing is asked."""
    both = sparse.csr_array(sparse.vstack([X, X], format="csr"))
    classes = np.repeat([0, 1], X.shape[0])
    sampler = SMOTE(
        sampling_strategy={1: X.shape[0] + count}, k_neighbors=NEIGHBOURS, random_state=0
    )
    resampled, _ = sampler.fit_resample(both, classes)
    return resampled[2 * X.shape[0] :].toarray()


def among(wanted: np.ndarray, real: np.ndarray) -> np.ndarray:
    """For each row of `wanted` whether it is one of `real`."""
    return (wanted[:, None] == real[None]).all(axis=2).any(axis=1)


@given(st.integers(2, 12), st.integers(0, 10_000))
def test_a_new_row_lies_between_a_row_and_a_near_one(n: int, seed: int) -> None:
    X = rows(n, columns=10, seed=seed)
    real = X.toarray() > 0
    distance = (real[:, None] != real[None]).sum(axis=2)
    np.fill_diagonal(distance, 99)
    k = min(NEIGHBOURS, n - 1)
    near = distance <= np.sort(distance, axis=1)[:, k - 1 : k]
    one, other = np.nonzero(near)
    for row in rows_between(X, 20, np.random.default_rng(seed)).toarray() > 0:
        within = ~(row & ~(real[one] | real[other])).any(axis=1)
        beyond = ~(real[one] & real[other] & ~row).any(axis=1)
        assert (within & beyond).any()


def test_codes_are_as_frequent_as_in_the_rows_of_imbalanced_learn() -> None:
    X, count = rows(60), 20_000
    ours = rows_between(X, count, np.random.default_rng(1)).toarray()
    theirs = interpolated(X, count)
    assert set(np.unique(ours)) == {0, 1}
    # In columns, and in pairs of columns of one row, for which the parents answer.
    rate, error = theirs.mean(axis=0), np.sqrt(2 * 0.25 / count)
    assert np.abs(ours.mean(axis=0) - rate).max() < 4.5 * error
    assert np.abs(ours.T @ ours - theirs.T @ theirs)[~np.eye(16, dtype=bool)].max() < (
        4.5 * error * count
    )


def test_one_step_is_drawn_for_a_whole_row() -> None:
    """Between all codes and none: u is the share that stays, so every number is as likely."""
    ends = sparse.csr_array(np.repeat([[1.0], [0.0]], 16, axis=1).astype(np.float32))
    new = rows_between(ends, 17_000, np.random.default_rng(2)).toarray()
    found = np.bincount(new.sum(axis=1).astype(int), minlength=17)
    assert np.abs(found - 1000).max() < 4.5 * np.sqrt(1000)


def test_new_rows_are_neither_copies_nor_unions_and_other_types_would_be() -> None:
    X, count = rows(60), 3000
    real = X.toarray().astype(bool)
    new = rows_between(X, count, np.random.default_rng(1)).toarray() > 0
    assert among(new, real).mean() < 0.6
    unions = interpolated(X, count) > 0
    assert new.sum() < 0.8 * unions.sum()
    # What the same library makes of types that hold whole numbers: copies, what both parents have
    # and nothing else, and what either has.
    assert among(interpolated(X.astype(np.uint8), count) > 0, real).all()
    assert interpolated(X.astype(np.int8), count).sum() < 0.8 * new.sum()
    assert interpolated(X.astype(bool), count).sum() == unions.sum()


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_neighbours_are_as_many_as_the_cell_has(n: int) -> None:
    X = rows(n)
    new = rows_between(X, 50, np.random.default_rng(0))
    assert new.shape == (50, 16)
    assert among(new.toarray(), X.toarray()).all() == (n == 1)
    same = sparse.csr_array(sparse.vstack([X[[0]]] * n, format="csr"))
    copies = rows_between(same, 50, np.random.default_rng(0)).toarray()
    assert among(copies, X[[0]].toarray()).all()
    assert rows_between(X, 0, np.random.default_rng(0)).shape == (0, 16)


def test_each_cell_is_filled_from_its_own_rows() -> None:
    """Each cell has a column of its own, and no new row has that of another."""
    cohort = toy_cohort(80)
    plan = plan_balance(cohort, BY)
    number = plan.cells.select("label", *BY, pl.int_range(pl.len()).alias("cell"))
    mark = cohort.subjects.join(number, on=["label", *BY], maintain_order="left")["cell"]
    codes = mark.gather(cohort.subject_of_visit()).to_numpy().astype(np.int32)
    marked = replace(cohort, codes=codes, code_offsets=np.arange(len(codes) + 1))
    result = smote(marked, BY, tuning=cohort, seed=0)
    new = result.filter(result.subjects["synthetic"].to_numpy())
    assert (np.diff(new.code_offsets) == 1).all()
    found = new.subjects.join(number, on=["label", *BY], maintain_order="left")["cell"]
    assert found.to_list() == new.codes.tolist()


def test_rows_are_visits_with_the_label_of_the_subject() -> None:
    cohort = toy_cohort(80)
    visits = np.diff(cohort.visit_offsets)
    positive = cohort.subjects["label"].to_numpy()
    assert len(rows_of(cohort, BY).cell) == visits[~positive].sum() + positive.sum()


def test_a_cell_without_a_row_is_named() -> None:
    cohort: Cohort = toy_cohort(80)
    never = replace(cohort, visits=cohort.visits.with_columns(pl.lit(False).alias(schema.LABEL)))
    with pytest.raises(DataError, match=r"cell of label True, sex F.*at least one visit with the"):
        smote(never, BY, tuning=cohort, seed=0)
