"""Conditions: the label and the groups that a subject is generated from, as a vector of bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from equipoise import schema
from equipoise.cohort import check_groups


@dataclass(frozen=True, eq=False)
class Conditions:
    """The (label x groups) cells of the training subjects.

    cells: one row per cell that occurred: `label`, the columns of `by`, and `subjects`, how many
    were trained on; sorted.
    """

    cells: pl.DataFrame
    by: tuple[str, ...]

    @staticmethod
    def of(subjects: pl.DataFrame, by: list[str]) -> Conditions:
        """The cells of subjects whose label and groups are known."""
        names = [schema.LABEL, *by]
        cells = subjects.group_by(names).agg(pl.len().cast(pl.Int64).alias("subjects"))
        return Conditions(cells.sort(names), tuple(by))

    @property
    def levels(self) -> dict[str, list[str]]:
        """The levels of each group, sorted."""
        return {name: self.cells[name].unique().sort().to_list() for name in self.by}

    @property
    def bits(self) -> int:
        """How many bits there are: the label and each group's levels."""
        return 1 + sum(len(levels) for levels in self.levels.values())

    def __len__(self) -> int:
        """K, rounded up: a level more or less in another fold then changes no shape."""
        return -(-self.bits // 8) * 8

    def encode(self, subjects: pl.DataFrame) -> npt.NDArray[np.float32]:
        """(S, K) bits: label, one of each group's levels, unused ones. All must be `known`."""
        bits = [subjects[schema.LABEL].cast(pl.Float32).to_numpy()[:, None]]
        for name, levels in self.levels.items():
            column = subjects[name].to_numpy()[:, None]
            bits.append((column == np.array(levels, object)).astype(np.float32))
        used_SK = np.concatenate(bits, axis=1)
        return np.pad(used_SK, ((0, 0), (0, len(self) - used_SK.shape[1])))

    def known(self, subjects: pl.DataFrame) -> npt.NDArray[np.bool_]:
        """(S,) whether the label and every group is known and was trained on.

        Raises `DataError` if `subjects` lacks a group column.
        """
        check_groups(subjects, self.by)
        known = subjects[schema.LABEL].is_not_null()
        for name, levels in self.levels.items():
            known &= subjects[name].is_in(levels).fill_null(False)
        return known.to_numpy()

    def missing(self, cells: pl.DataFrame) -> pl.DataFrame:
        """The rows of `cells` (label and groups) that no training subject was in."""
        return cells.join(self.cells, on=[schema.LABEL, *self.by], how="anti")
