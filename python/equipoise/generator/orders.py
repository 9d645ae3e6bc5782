"""What is to be sampled: a plan's cells, as numbers of subjects and the conditions they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from equipoise import schema
from equipoise.errors import DataError, UsageError
from equipoise.generator.conditions import Conditions

#: Numbers of subjects are int32 on the device, where lanes count on beyond the last.
MOST_SUBJECTS: Final = 2**31 - 2**20


class Plan(Protocol):
    """What `sample` needs of a plan: see `equipoise.balance.plan`."""

    @property
    def cells(self) -> pl.DataFrame:
        """One row per cell: `label`, a String column per name in `by`, `synthetic` (Int64)."""

    @property
    def by(self) -> Sequence[str]:
        """The names of the group columns."""


@dataclass(frozen=True, eq=False)
class Order:
    """The cells of a plan of which any subject is wanted; subjects are numbered through them.

    cells: `label`, the generator's groups in its order, and `synthetic`, how many are wanted.
    """

    conditions: Conditions
    cells: pl.DataFrame

    @staticmethod
    def of(conditions: Conditions, plan: Plan) -> Order:
        """A plan that the generator can meet.

        Raises `DataError` for a plan by other groups than the generator's, for a count that is null
        or negative, and for a cell that no training subject was in; `UsageError` for too many
        subjects to be numbered.
        """
        order = Order(conditions, _checked_cells(conditions, plan))
        # Python's own numbers: those of an array would go round.
        total = sum(order.cells["synthetic"].to_list())
        if total > MOST_SUBJECTS:
            raise UsageError(f"want at most {MOST_SUBJECTS} subjects, the plan has {total}")
        return order

    @cached_property
    def ends(self) -> npt.NDArray[np.int64]:
        """(cells,) the first number after each cell."""
        ends: npt.NDArray[np.int64] = np.cumsum(self.cells["synthetic"].to_numpy(), dtype=np.int64)
        return ends

    @property
    def total(self) -> int:
        """How many subjects are wanted."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def run(self, numbers: range | None) -> range:
        """`numbers`, by default all; raises `UsageError` unless they are a run of the order's."""
        numbers = range(self.total) if numbers is None else numbers
        if numbers.step != 1 or not 0 <= numbers.start <= numbers.stop <= self.total:
            raise UsageError(f"numbers must be a run within 0..{self.total}, got {numbers}")
        return numbers

    def subjects(self, numbers: range) -> pl.DataFrame:
        """Rows of a cohort's subjects; their ids are their numbers."""
        number = np.arange(numbers.start, numbers.stop, dtype=np.int64)
        return self.cells[np.searchsorted(self.ends, number, side="right")].select(
            pl.Series(schema.SUBJECT_ID, number),
            schema.LABEL,
            pl.lit(schema.TRAIN).alias(schema.SPLIT),
            pl.lit(value=True).alias(schema.SYNTHETIC),
            *(name for name in self.conditions.by if name in self.cells.columns),
        )

    def encode(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        """(C, K) conditions of the cells, and (C,) their ends.

        Cells of nobody make up a round number of them, which saves compiling for each number.
        """
        spare = -len(self.cells) % 16
        conditions_CK = np.pad(self.conditions.encode(self.cells), ((0, spare), (0, 0)))
        ends_C = np.pad(self.ends, (0, spare), constant_values=self.total)
        return conditions_CK, ends_C.astype(np.int32)


def _checked_cells(conditions: Conditions, plan: Plan) -> pl.DataFrame:
    """The cells of the plan, with the generator's names in the generator's order."""
    by = conditions.check_by(plan.by, "plan")
    names = {schema.LABEL: pl.Boolean, **dict.fromkeys(by, pl.String)}
    schema.check_frame(plan.cells, {**names, "synthetic": pl.Int64}, "plan")
    cells = plan.cells.select(*names, "synthetic")
    for row in cells.filter(pl.col("synthetic").is_null() | (pl.col("synthetic") < 0)).iter_rows():
        raise DataError(table="plan", column="synthetic", want="0 or more", got=str(row[-1]))
    cells = cells.filter(pl.col("synthetic") > 0)
    for cell in conditions.missing(cells).iter_rows(named=True):
        raise DataError(
            table="plan",
            want="cells that training subjects were in",
            got=", ".join(f"{name}={cell[name]}" for name in names),
            hint="A generator can say nothing of a cell that it never saw",
        )
    return cells
