"""SMOTE on visit rows: between a row and one of its neighbours, rounded to codes by chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy import sparse

from equipoise import schema
from equipoise.balance.plan import SYNTHETIC, plan_balance
from equipoise.balance.rows import rows_of, with_rows
from equipoise.cohort import Cohort

#: Chawla's k; a cell of n rows has n - 1 neighbours to offer at most.
NEIGHBOURS: Final = 5
#: MiB for distances at a time; scikit-learn's own default is a gigabyte.
DISTANCES_MIB: Final = 64


def smote(
    train: Cohort,
    by: Sequence[str],
    *,
    tuning: Cohort,  # noqa: ARG001 - part of the contract
    seed: int,
    progress: schema.Progress = schema.no_progress,
    ratio: float = 1.0,
) -> Cohort:
    """The training cohort and, in each (label x group) cell, m - n subjects of one new visit each.

    SMOTE, Chawla et al. (JAIR 16:321-357, 2002), within each cell: x + u (x' - x), where x is a
    visit row of the cell (see `rows`), x' one of its k = min(5, n - 1) nearest in it, u uniform in
    0..1. A code that only one of the two has is then kept with the probability that stands there,
    so that codes are as frequent as between the parents. (In types of whole numbers the new row
    would be a copy, or have the codes of both, or those of either; and every code above 0 is again
    those of either.) Near rows tend to be short ones, so new rows are shorter than the cell's. A
    cell of one row repeats it.

    `ratio` is that of `plan_balance`, whose errors this raises.
    """
    plan = plan_balance(train, by, ratio=ratio)
    if plan.synthetic == 0:
        return train
    X, cell = rows_of(train, by)
    wanted = plan.cells[SYNTHETIC].to_list()
    made = []
    for number, count in enumerate(wanted):
        progress("smote", number, len(wanted))
        rng = np.random.default_rng([seed, number])
        made.append(rows_between(X[np.flatnonzero(cell == number)], count, rng))
    progress("smote", len(wanted), len(wanted))
    return with_rows(train, plan, made)


def rows_between(
    X: sparse.csr_array, count: int, rng: np.random.Generator, k: int = NEIGHBOURS
) -> sparse.csr_array:
    """(count, V) rows of zeros and ones, each between a row of X (n, V) and a neighbour of it."""
    row = rng.integers(X.shape[0], size=count)
    if count == 0 or X.shape[0] == 1:
        return X[row]
    nearest = _neighbours(X, min(k, X.shape[0] - 1))
    other = nearest[row, rng.integers(nearest.shape[1], size=count)]
    u = sparse.diags_array(rng.random(count, np.float32))
    between = sparse.csr_array(X[row] + u @ (X[other] - X[row]))
    between.data = (rng.random(between.nnz, np.float32) < between.data).astype(np.float32)
    return between


def _neighbours(X: sparse.csr_array, k: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """(n, k) places of each row's nearest others; a row equal to it is an other."""
    from sklearn import config_context
    from sklearn.neighbors import NearestNeighbors

    with config_context(working_memory=DISTANCES_MIB):
        places: np.ndarray[tuple[int, int], np.dtype[np.int64]] = (
            NearestNeighbors(n_neighbors=k).fit(X).kneighbors(return_distance=False)
        )
    return places
