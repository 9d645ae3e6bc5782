"""Codes and values of visits: from rows, of several tables in one list, numbered anew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from equipoise import schema
from equipoise.errors import DataError
from equipoise.ragged import Columns, Offsets, offsets_of, positions

CODE_TABLE: Final = dict.fromkeys(("kind", "system", "code", "title"), pl.String)
LAB_TABLE: Final = dict.fromkeys(("lab", "title"), pl.String)


class Codes(NamedTuple):
    """Each visit's numbers of rows of `table` (kind, system, code, title), ascending."""

    offsets: Offsets
    codes: Columns
    table: pl.DataFrame
    ledger: pl.DataFrame


class Values(NamedTuple):
    """Each visit's numbers of rows of `table` (lab, title), ascending, and each one's mean."""

    offsets: Offsets
    labs: Columns
    values: npt.NDArray[np.float64]
    table: pl.DataFrame
    ledger: pl.DataFrame


def codes_of_rows(rows: pl.DataFrame, visits: pl.DataFrame) -> Codes:
    """Codes from rows of (visit_id, kind, system, code, and title or not)."""
    if "title" not in rows.columns:
        rows = rows.with_columns(title=pl.col("code"))
    table = rows.select(list(CODE_TABLE)).unique(["kind", "system", "code"], keep="first")
    table = table.sort("kind", "system", "code")
    numbered = table.with_row_index("number").drop("title")
    pairs = _placed(rows.join(numbered, on=["kind", "system", "code"]), visits)
    pairs = pairs.select("place", "number").unique().sort("place", "number")
    offsets = offsets_of(np.bincount(pairs["place"].to_numpy(), minlength=len(visits)))
    codes = pairs["number"].cast(pl.Int32).to_numpy()
    return Codes(offsets, codes, table, pl.DataFrame(schema=dict(schema.LEDGER)))


def values_of_rows(rows: pl.DataFrame, visits: pl.DataFrame) -> Values:
    """Values from rows of (visit_id, lab, value), one for each visit and lab."""
    table = rows.select("lab").unique().sort("lab").with_columns(title=pl.col("lab"))
    numbered = table.select("lab").with_row_index("number")
    pairs = _placed(rows.join(numbered, on="lab"), visits).sort("place", "number")
    offsets = offsets_of(np.bincount(pairs["place"].to_numpy(), minlength=len(visits)))
    labs = pairs["number"].cast(pl.Int32).to_numpy()
    ledger = pl.DataFrame(schema=dict(schema.LEDGER))
    return Values(offsets, labs, pairs["value"].cast(pl.Float64).to_numpy(), table, ledger)


def join_codes(tables: Sequence[Codes], visits: int) -> Codes:
    """The codes of several tables in one list per visit, ascending."""
    if len(tables) == 1:
        return tables[0]
    if not tables:
        ledger = pl.DataFrame(schema=dict(schema.LEDGER))
        table = pl.DataFrame(schema=CODE_TABLE)
        return Codes(np.zeros(visits + 1, np.int64), np.empty(0, np.int32), table, ledger)
    parts = [(part.offsets, part.codes, len(part.table)) for part in tables]
    numbers, order, offsets = _joined(parts, visits)
    names = pl.concat([part.table for part in tables])
    return Codes(offsets, numbers[order], names, pl.concat([part.ledger for part in tables]))


def join_values(tables: Sequence[Values], visits: int) -> Values:
    """The labs of several tables in one list per visit; raises `DataError` for a lab in two."""
    if len(tables) == 1:
        return tables[0]
    if not tables:
        ledger = pl.DataFrame(schema=dict(schema.LEDGER))
        table = pl.DataFrame(schema=LAB_TABLE)
        nothing = np.empty(0, np.int32)
        return Values(np.zeros(visits + 1, np.int64), nothing, np.empty(0), table, ledger)
    names = pl.concat([part.table for part in tables])
    twice = names.filter(names["lab"].is_duplicated())["lab"]
    if len(twice):
        raise DataError(
            table="tables of values", want="each lab in one table", got=f"{twice[0]} in two"
        )
    parts = [(part.offsets, part.labs, len(part.table)) for part in tables]
    numbers, order, offsets = _joined(parts, visits)
    values = np.concatenate([part.values for part in tables])[order]
    ledger = pl.concat([part.ledger for part in tables])
    return Values(offsets, numbers[order], values, names, ledger)


def _joined(
    parts: Sequence[tuple[Offsets, Columns, int]], visits: int
) -> tuple[Columns, npt.NDArray[np.int64], Offsets]:
    """All parts' numbers, shifted past those of the parts before; their order; the offsets."""
    shifts = np.cumsum([0, *(size for _, _, size in parts)])
    owner = np.concatenate([np.repeat(np.arange(visits), np.diff(o)) for o, _, _ in parts])
    numbers = np.concatenate(
        [codes + np.int32(shift) for (_, codes, _), shift in zip(parts, shifts, strict=False)]
    )
    offsets = offsets_of(np.bincount(owner, minlength=visits))
    return numbers, np.argsort(owner, kind="stable"), offsets


def renumbered(
    offsets: Offsets, codes: Columns, rows: pl.DataFrame
) -> tuple[Offsets, Columns, pl.DataFrame]:
    """Codes numbered in the order of `rows`: each raw one's (raw, kind, system, code, title)."""
    keys = ["kind", "system", "code"]
    table = rows.select(list(CODE_TABLE)).unique(keys, keep="first", maintain_order=True)
    numbered = rows.join(table.select(keys).with_row_index("number"), on=keys)
    numbered = numbered.unique(["raw", "number"]).sort("raw", "number")
    raws = int(codes.max()) + 1 if len(codes) else 0
    of_raw = offsets_of(np.bincount(numbered["raw"].to_numpy(), minlength=raws))
    spread, places = positions(of_raw, codes)
    owner = np.repeat(np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)), np.diff(spread))
    number = numbered["number"].to_numpy().astype(np.int64)[places]
    pairs = np.unique(owner * max(len(table), 1) + number)
    owner, number = np.divmod(pairs, max(len(table), 1))
    offsets = offsets_of(np.bincount(owner, minlength=len(offsets) - 1))
    return offsets, number.astype(np.int32), table


def _placed(rows: pl.DataFrame, visits: pl.DataFrame) -> pl.DataFrame:
    places = visits.select(schema.VISIT_ID).with_row_index("place")
    return rows.join(places, on=schema.VISIT_ID)


def ledger_of(table: str, counts: Iterable[tuple[str, int]]) -> pl.DataFrame:
    """The rows of `schema.LEDGER` for a table, from how many rows had each outcome."""
    rows = [(table, outcome, n) for outcome, n in counts if n or outcome == schema.USED]
    return pl.DataFrame(rows, schema=dict(schema.LEDGER), orient="row")


def count_cells(cells: pl.DataFrame | None, left_out: pl.Series) -> pl.DataFrame:
    """The ledger of `Stays.cells`; those of visits that the task leaves out are not used."""
    if cells is None:
        return pl.DataFrame(schema=dict(schema.LEDGER))
    gone = pl.when(pl.col(schema.VISIT_ID).is_in(left_out.implode()))
    outcome = gone.then(pl.lit("visit left out by the task")).otherwise("outcome")
    counts = cells.group_by("table", outcome.alias("outcome")).len("rows")
    used_first = pl.col("outcome") != schema.USED
    counts = counts.sort("table", used_first, "outcome").cast({"rows": pl.Int64})
    return counts.select(list(schema.LEDGER))
