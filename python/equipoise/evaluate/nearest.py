"""k nearest neighbours on rows of ones: exact, with ties decided by the order of the rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from equipoise.evaluate.classifier import Classifier, Labels, Scores

#: FairPlay's setting.
NEIGHBORS: Final = 5
#: At most so many rows are compared with; of more, a stratified sample.
MOST_ROWS: Final = 50_000
#: Distances held at once.
HELD: Final = 8_000_000


def nearest_neighbors(
    X: sparse.csr_array, y: Labels, weight: Scores | None, seed: int, threads: int | None
) -> Classifier:
    """The share of positives among the 5 nearest rows, as FairPlay uses it; Euclidean distance.

    With weights, the weighted share. Of equally near rows the first counts. More than `MOST_ROWS`
    rows are sampled, the shares of the classes kept, and `remark` says so.
    """
    del threads  # sparse products have one
    remark = ""
    if X.shape[0] > MOST_ROWS:
        chosen = _sample(y, seed)
        remark = f"the nearest of a sample of {len(chosen):,} of {X.shape[0]:,} rows"
        X, y, weight = X[chosen], y[chosen], None if weight is None else weight[chosen]
    votes = np.ones(len(y)) if weight is None else weight
    return Classifier(_Voters(X, y.astype(np.float64), votes), remark)


@dataclass(frozen=True, eq=False)
class _Voters:
    """(n, V) rows of ones, their labels, and how much each counts."""

    X: sparse.csr_array
    y: Scores
    weight: Scores

    def __call__(self, queries: sparse.csr_array) -> Scores:
        nearest = nearest_rows(queries, self.X, min(NEIGHBORS, len(self.y)))
        votes = self.weight[nearest]
        total = votes.sum(axis=1)
        share = (votes * self.y[nearest]).sum(axis=1)
        # Rows that count nothing say nothing: the share of all.
        everyone = np.average(self.y, weights=self.weight) if self.weight.any() else np.nan
        out: Scores = np.full(len(total), everyone)
        np.divide(share, total, out=out, where=total > 0)
        return out


def nearest_rows(
    queries: sparse.csr_array, rows: sparse.csr_array, k: int
) -> npt.NDArray[np.int64]:
    """(q, k) places of the rows nearest to each query, nearest first, the first of equals.

    Both are CSR matrices of ones, so the squared distance is |a| + |b| - 2 a.b, a whole number.
    """
    number, found = rows.shape[0], np.empty((queries.shape[0], k), np.int64)
    for part, distance in _distances(queries, rows):
        order = distance * number + np.arange(number)
        first = np.partition(order, k - 1, axis=1)[:, :k] if k < number else order
        found[part] = np.sort(first, axis=1) % number
    return found


def nearest_distance(queries: sparse.csr_array, rows: sparse.csr_array) -> npt.NDArray[np.int64]:
    """(q,) in how many columns each query differs from the row nearest to it.

    Both are CSR matrices of ones, and there is at least one row.
    """
    found = np.empty(queries.shape[0], np.int64)
    for part, distance in _distances(queries, rows):
        found[part] = distance.min(axis=1)
    return found


def _distances(
    queries: sparse.csr_array, rows: sparse.csr_array
) -> Iterator[tuple[slice, npt.NDArray[np.int64]]]:
    """Some queries at a time, and their squared distances (part, n) to all rows."""
    lengths, of_query = np.diff(rows.indptr), np.diff(queries.indptr)
    columns = rows.T.tocsr()
    size = max(1, HELD // max(1, rows.shape[0]))
    for start in range(0, queries.shape[0], size):
        part = slice(start, start + size)
        shared = (queries[part] @ columns).toarray().astype(np.int64)
        yield part, of_query[part, None] + lengths - 2 * shared


def _sample(y: Labels, seed: int) -> npt.NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    chosen = []
    for label in (0, 1):
        members = np.flatnonzero(y == label)
        chosen.append(rng.choice(members, round(MOST_ROWS * len(members) / len(y)), replace=False))
    return np.sort(np.concatenate(chosen))
