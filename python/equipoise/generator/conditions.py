"""Conditions: the label and the groups that a subject is generated from, as a vector of bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl

from equipoise import schema
from equipoise.cohort import check_groups
from equipoise.errors import DataError, UsageError

_Bits = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Conditions:
    """The (label x groups) cells of the training subjects.

    cells: one row per cell that occurred: `label`, the columns of `by`, and `subjects`, how many
    there are, those that tune included; sorted. may_hide: whether groups can be left out, because
    in training they were hidden at times (`GeneratorConfig.condition_dropout`).
    """

    cells: pl.DataFrame
    by: tuple[str, ...]
    may_hide: bool = False

    @staticmethod
    def of(subjects: pl.DataFrame, by: list[str], may_hide: bool = False) -> Conditions:
        """The cells of subjects whose label and groups are known.

        Raises `UsageError` for a group that is called as the column of how many there are.
        """
        if "subjects" in by:
            raise UsageError("by: want no group called subjects, which is what cells count")
        names = [schema.LABEL, *by]
        cells = subjects.group_by(names).agg(pl.len().cast(pl.Int64).alias("subjects"))
        return Conditions(cells.sort(names), tuple(by), may_hide)

    @cached_property
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

    def check_by(self, by: Sequence[str], table: str) -> list[str]:
        """`by` in the order of the conditions; raises `DataError` unless it can be asked for."""
        unknown = set(by) - set(self.by)
        left_out = set(self.by) - set(by)
        if unknown or (left_out and not self.may_hide):
            raise DataError(
                table=table,
                want=f"cells by the generator's groups ({', '.join(self.by)})",
                got=f"by ({', '.join(by)})",
                hint=""
                if unknown
                else "Groups may be left out only if it was trained with condition_dropout above 0",
            )
        return [name for name in self.by if name in by]

    def encode(self, subjects: pl.DataFrame) -> _Bits:
        """(S, K) bits: label, one of each group's levels, unused ones. All must be `known`.

        A group without a column has no bit set.
        """
        bits = [subjects[schema.LABEL].cast(pl.Float32).to_numpy()[:, None]]
        for name, levels in self.levels.items():
            if name in subjects.columns:
                column = subjects[name].to_numpy()[:, None]
                bits.append((column == np.array(levels, object)).astype(np.float32))
            else:
                bits.append(np.zeros((len(subjects), len(levels)), np.float32))
        used_SK = np.concatenate(bits, axis=1)
        return np.pad(used_SK, ((0, 0), (0, len(self) - used_SK.shape[1])))

    def hide(self, bits_SK: _Bits, probability: float, rng: np.random.Generator) -> _Bits:
        """The same with all bits of a subject's group cleared at random, each group for itself."""
        shown = rng.random((len(bits_SK), len(self.by))) >= probability
        group = [group for group, levels in enumerate(self.levels.values()) for _ in levels]
        kept_SK = bits_SK.copy()
        kept_SK[:, 1 : 1 + len(group)] *= shown[:, group]
        return kept_SK

    def known(self, subjects: pl.DataFrame) -> npt.NDArray[np.bool_]:
        """(S,) whether the label and every group is known and was trained on.

        Raises `DataError` if `subjects` lacks a group column that may not be hidden.
        """
        if not self.may_hide:
            check_groups(subjects, self.by)
        known = subjects[schema.LABEL].is_not_null()
        for name, levels in self.levels.items():
            if name in subjects.columns:
                known &= subjects[name].is_in(levels).fill_null(False)
        return known.to_numpy()

    def missing(self, cells: pl.DataFrame) -> pl.DataFrame:
        """The rows of `cells` (label and groups) that no training subject was in."""
        names = [name for name in (schema.LABEL, *self.by) if name in cells.columns]
        return cells.join(self.cells, on=names, how="anti")
