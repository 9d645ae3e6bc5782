"""BalancePlan: how many synthetic patients each (label x group) cell needs.

The rule is FairPlay's (Theodorou et al., npj Digital Medicine 8:100, 2025, Methods): every cell
that occurs in the data is filled up to the size m of the largest; a combination that never occurs
is not invented. `ratio` is the share of m - n that is filled (their Supplementary Figure 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from equipoise import schema
from equipoise.cohort import Cohort
from equipoise.errors import DataError, UsageError

REAL: Final = "real"
TARGET: Final = "target"
SYNTHETIC: Final = "synthetic"
SMALL: Final = "small"
#: The columns of `BalancePlan.cells` beside the groups, which stand between `label` and `real`.
CELLS: Final[Mapping[str, type[pl.DataType]]] = {
    schema.LABEL: pl.Boolean,
    REAL: pl.Int64,
    TARGET: pl.Int64,
    SYNTHETIC: pl.Int64,
    SMALL: pl.Boolean,
}


@dataclass(frozen=True, eq=False)
class BalancePlan:
    """One row per observed (label x group x ...) cell, sorted by label, then by group.

    cells: `label` Boolean, the `by` columns String, `real` (n), `target` (n + synthetic) and
    `synthetic` Int64 counts of subjects, `small` Boolean (too few real subjects to learn from).
    left_out: subjects that are in no cell, their label or one of their groups being unknown.
    """

    cells: pl.DataFrame
    by: tuple[str, ...]
    left_out: int = 0

    def __post_init__(self) -> None:
        _check_names(self.by)
        schema.check_frame(self.cells, {**CELLS, **dict.fromkeys(self.by, pl.String)}, "plan")

    @property
    def small(self) -> pl.DataFrame:
        """The cells with too few real subjects to learn from."""
        return self.cells.filter(SMALL)

    @property
    def synthetic(self) -> int:
        """How many synthetic subjects the plan asks for."""
        return int(self.cells[SYNTHETIC].sum())

    def to_csv(self, path: Path | str) -> None:
        """Write the cells as CSV, so that a person can edit `synthetic`, and `target` with it."""
        self.cells.write_csv(Path(path))

    @staticmethod
    def from_csv(path: Path | str) -> BalancePlan:
        """Read a plan: `label`, one column per group, `synthetic`; the other columns may be absent.

        Raises `DataError` naming the column and row of the first wrong value.
        """
        name = str(path)
        text = _read_text(Path(path))
        by = tuple(column for column in text.columns if column not in CELLS)
        filled = text.with_columns(
            pl.lit("0").alias(column) for column in (REAL, SMALL) if column not in text.columns
        )
        parsed = filled.with_columns(
            _booleans(filled, schema.LABEL, name),
            _counts(filled, REAL, name),
            _counts(filled, SYNTHETIC, name),
            _booleans(filled, SMALL, name),
        )
        total = (parsed[REAL] + parsed[SYNTHETIC]).alias(TARGET)
        if TARGET in text.columns:
            wrong = _counts(text, TARGET, name) != total
            want = f"{REAL} + {SYNTHETIC}, or no such column"
            _refuse(wrong, text[TARGET], name, TARGET, want)
        for column in by:
            _refuse(text[column].is_null(), text[column], name, column, "a group")
        cell = pl.struct(schema.LABEL, *by)
        again = parsed.select(~cell.is_first_distinct()).to_series()
        _refuse(again, text[schema.LABEL], name, schema.LABEL, "each cell once")
        return BalancePlan(_ordered(parsed.with_columns(total), by), by)


def plan_balance(
    cohort: Cohort,
    by: Sequence[str],
    *,
    ratio: float = 1.0,
    min_cell: int = 5,
    leave_small: bool = False,
) -> BalancePlan:
    """Plan to fill every observed cell of the real subjects up to the largest.

    A cell of n subjects gets round(ratio * (m - n)) synthetic ones, m being the largest cell. Cells
    of fewer than `min_cell` subjects are marked `small` and left alone only if `leave_small`.

    Raises `UsageError` for a ratio outside 0..1, `DataError` for an unknown group column or when
    there are not two label classes.
    """
    cells, place = cells_of(cohort, by)
    plan = plan_cells(cells, by, ratio=ratio, min_cell=min_cell, leave_small=leave_small)
    real = int((~cohort.subjects[schema.SYNTHETIC].fill_null(value=False)).sum())
    return replace(plan, left_out=real - int((place >= 0).sum()))


def plan_cells(
    cells: pl.DataFrame,
    by: Sequence[str],
    *,
    ratio: float = 1.0,
    min_cell: int = 5,
    leave_small: bool = False,
) -> BalancePlan:
    """The same from counted cells: `label`, the `by` columns and `real`, one row per cell."""
    if not 0 <= ratio <= 1:
        raise UsageError(f"ratio: want a number from 0 to 1, got {ratio}")
    check_classes(cells[schema.LABEL])
    n = cells[REAL].to_numpy()
    small = n < min_cell
    synthetic = np.rint(ratio * (n.max() - n)).astype(np.int64)
    if leave_small:
        synthetic[small] = 0
    cells = cells.with_columns(
        pl.Series(TARGET, n + synthetic), pl.Series(SYNTHETIC, synthetic), pl.Series(SMALL, small)
    )
    return BalancePlan(_ordered(cells, by), tuple(by))


def cells_of(cohort: Cohort, by: Sequence[str]) -> tuple[pl.DataFrame, npt.NDArray[np.int64]]:
    """The observed cells of the real subjects, and each subject's cell.

    Returns (`label`, the `by` columns and `real`, sorted; (S,) row numbers into it), where -1
    stands for a synthetic subject or one whose label or group is unknown.
    """
    keys = [schema.LABEL, *cohort.check_groups(by)]
    _check_names(by)
    schema.check_frame(cohort.subjects, dict.fromkeys(by, pl.String), "subjects")
    placed = ~pl.any_horizontal(pl.col(schema.SYNTHETIC).fill_null(value=False), *_nulls(keys))
    cells = cohort.subjects.filter(placed).group_by(keys).agg(pl.len().cast(pl.Int64).alias(REAL))
    cells = cells.sort(keys)
    numbered = cells.select(*keys, pl.int_range(pl.len(), dtype=pl.Int64).alias("cell"))
    place = (
        cohort.subjects.select(*keys, placed.alias("placed"))
        .join(numbered, on=keys, how="left", maintain_order="left")
        .select(pl.when("placed").then("cell").otherwise(-1).fill_null(-1))
        .to_series()
    )
    return cells, place.to_numpy()


def name_of_cell(cell: Mapping[str, object], by: Sequence[str]) -> str:
    """How messages call a cell: `label True, race Black`."""
    return ", ".join(f"{key} {cell[key]}" for key in (schema.LABEL, *by))


def check_classes(labels: pl.Series) -> None:
    """Raise `DataError` unless `labels` holds both true and false."""
    classes = labels.drop_nulls().unique().sort().to_list()
    if len(classes) < 2:
        got = f"only {str(classes[0]).lower()}" if classes else "no known label"
        raise DataError(
            "the task's label has one class only" if classes else "",
            table="subjects",
            column=schema.LABEL,
            want="both classes, true and false",
            got=got,
        )


def _nulls(names: Sequence[str]) -> list[pl.Expr]:
    return [pl.col(name).is_null() for name in names]


def _check_names(by: Sequence[str]) -> None:
    clash = next((name for name in by if name in CELLS or list(by).count(name) > 1), None)
    if clash is not None:
        raise UsageError(
            f"{clash} cannot be balanced by: want each group once, none called {', '.join(CELLS)}"
        )


def _ordered(cells: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    keys = [schema.LABEL, *by]
    return cells.select(*keys, REAL, TARGET, SYNTHETIC, SMALL).sort(keys)


def _read_text(path: Path) -> pl.DataFrame:
    try:
        text = pl.read_csv(path, infer_schema=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(table=str(path), want="a CSV file", got=str(error)) from None
    wanted = {schema.LABEL: pl.String, SYNTHETIC: pl.String}
    return schema.check_frame(text, wanted, str(path))


def _counts(text: pl.DataFrame, column: str, table: str) -> pl.Series:
    counts = text[column].str.strip_chars().cast(pl.Int64, strict=False)
    _refuse(counts.is_null() | (counts < 0), text[column], table, column, "a whole number from 0")
    return counts


def _booleans(text: pl.DataFrame, column: str, table: str) -> pl.Series:
    words = {"true": True, "false": False, "1": True, "0": False}
    lower = text[column].str.strip_chars().str.to_lowercase()
    values = lower.replace_strict(words, default=None, return_dtype=pl.Boolean)
    _refuse(values.is_null(), text[column], table, column, "true or false")
    return values


def _refuse(wrong: pl.Series, texts: pl.Series, table: str, column: str, want: str) -> None:
    if wrong.any():
        first = int(wrong.fill_null(value=True).arg_true()[0])
        got = texts[first]
        raise DataError(
            table=table,
            column=column,
            row=first + 2,
            want=want,
            got="nothing" if got is None else repr(got),
        )
