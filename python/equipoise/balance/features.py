"""Plain tables as codes and back: what the generator of visits sees of any matrix of numbers.

Letters: n real rows, m new ones, p columns, V codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from equipoise.vocabulary import BINS

Places = npt.NDArray[np.int64]


class Binned(NamedTuple):
    """A column that is cut into bins: its place, its sorted values, where each bin starts."""

    column: int
    values: npt.NDArray[Any]
    starts: Places
    bin_of_row: Places

    @staticmethod
    def of(column: int, values: npt.NDArray[Any]) -> Binned:
        """Right-open bins between the nine inner deciles, of which the empty ones are left out."""
        cuts = np.quantile(values.astype(np.float64), np.arange(1, BINS) / BINS)
        bins = np.searchsorted(cuts, values.astype(np.float64), side="right")
        _, bin_of_row, sizes = np.unique(bins, return_inverse=True, return_counts=True)
        return Binned(column, np.sort(values), np.cumsum([0, *sizes]), bin_of_row)

    def draw(
        self, ones: npt.NDArray[np.bool_], donors: Places, rng: np.random.Generator
    ) -> npt.NDArray[Any]:
        """(m,) values for (m, bins) generated bits: of one of the bins, or of the donor's bin."""
        scores = rng.random(ones.shape) * ones
        chosen = np.where(ones.any(axis=1), scores.argmax(axis=1), self.bin_of_row[donors])
        sizes = np.diff(self.starts)[chosen]
        within = (rng.random(len(chosen)) * sizes).astype(np.int64)
        drawn: npt.NDArray[Any] = self.values[self.starts[chosen] + within]
        return drawn


@dataclass(frozen=True, eq=False)
class TableFeatures:
    """How the p columns of X are written as V codes: those of 0 and 1 first, then the bins."""

    codes: Places
    binned: list[Binned]
    columns: int
    dtype: np.dtype[Any]

    @staticmethod
    def of(X: sparse.csc_array) -> TableFeatures:
        column = np.repeat(np.arange(X.shape[1]), np.diff(X.indptr))
        others = np.bincount(column[(X.data != 0) & (X.data != 1)], minlength=X.shape[1]) > 0
        binned = [
            Binned.of(int(place), X[:, [place]].toarray().ravel())
            for place in np.flatnonzero(others)
        ]
        return TableFeatures(np.flatnonzero(~others), binned, X.shape[1], X.dtype)

    def encode(self, X: sparse.csc_array) -> sparse.csr_array:
        """(n, V) ones."""
        rows = np.arange(X.shape[0])
        bins = [
            sparse.csc_array(
                (np.ones(len(rows), np.float32), (rows, binned.bin_of_row)),
                shape=(len(rows), len(binned.starts) - 1),
            )
            for binned in self.binned
        ]
        out = sparse.csr_array(sparse.hstack([X[:, self.codes].astype(np.float32), *bins], "csr"))
        out.eliminate_zeros()
        out.sort_indices()
        return out

    def decode(
        self, ones: sparse.csr_array, donors: Places, rng: np.random.Generator
    ) -> sparse.csr_array:
        """(m, p) rows in the dtype of X; what no bin says comes from (m,) `donors`, real rows."""
        by_code = sparse.csc_array(ones)
        parts = [sparse.csc_array(by_code[:, : len(self.codes)]).tocoo()]
        places = [(parts[0].row, self.codes[parts[0].col], parts[0].data.astype(self.dtype))]
        first = len(self.codes)
        for binned in self.binned:
            after = first + len(binned.starts) - 1
            values = binned.draw(by_code[:, first:after].toarray() > 0, donors, rng)
            filled = np.flatnonzero(values)
            places.append((filled, np.full(len(filled), binned.column), values[filled]))
            first = after
        row, column, data = (np.concatenate(part) for part in zip(*places, strict=True))
        shape = (ones.shape[0], self.columns)
        return sparse.csr_array((data, (row, column)), shape=shape, dtype=self.dtype)
