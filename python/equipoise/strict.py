"""What `strict` refuses: rows left out, and oddities, that speak of bad data.

So do times of events that are asked for and cannot be read. Whatever is not listed here is normal
and stays counted: events without a visit id, value, code or time; those outside every visit or
after a window; visits that a task leaves out or whose outcome is not known; patients without an
admission; a subject with two values of a group, of which a rule takes one; whatever a person asked
to leave out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from equipoise import _core, schema
from equipoise.errors import DataError
from equipoise.reading import Reading
from equipoise.sources.declaration import CodeEvents, Source, ValueEvents
from equipoise.sources.placing import NO_TIME

#: Outcomes of rows, in any table.
BAD_ROWS: Final = (
    "unknown visit",
    "value is not a number",
    "value is not finite",
    "no admission time",
    "discharge before admission",
    "end before start",
    "unknown subject",
    "visit id twice",
    "subject id twice",
    "no subject",
    "no person",
    "no start",
)
#: Outcomes of rows in the tables of visits and subjects only.
BAD_STAYS: Final = ("no visit id",)
#: What names of bad oddities contain.
BAD_ODDITIES: Final = (
    "not in the table of races",
    "is not understood",
    "neither true nor false",
    "labels of no visit",
    "discharges of no admission",
    "in two splits",
    "written otherwise",
    "hospital stays with two values of person",
)


class Oddity(NamedTuple):
    """A reason to refuse, and how often; `table` is None for what is not about rows.

    place: that of the first such row, where it is known.
    """

    table: str | None
    reason: str
    times: int
    place: int | None

    def __str__(self) -> str:
        rows = "row is" if self.times == 1 else "rows are"
        what = f"{self.times} {rows} left out ({self.reason})" if self.table else self.reason
        return what if self.table else f"{self.times} {what}"


def refuse(
    reading: Reading,
    visits: pl.DataFrame,
    ledger: pl.DataFrame,
    oddities: Mapping[str, int] | None = None,
) -> None:
    """Raise `DataError` for the first bad reason in `ledger` and `oddities`, naming the others.

    `ledger` may have a column `place` beside `schema.LEDGER`: that of the first row of each
    outcome. For tables of events in files it is looked up in a second pass.
    """
    found = list(_bad(reading.source, ledger, oddities or {}))
    if not found:
        _check_times(reading, ledger)
        return
    first, *others = found
    also = "; ".join(f"{odd.table}: {odd}" if odd.table else str(odd) for odd in others)
    hint = "Without strict they are counted" + (f". Also {also}" if also else "")
    cell = _first_row(reading, visits, first)
    raise DataError(
        f"{first} and strict refuses that",
        table=cell.table or first.table,
        column=cell.column,
        row=cell.row,
        want=cell.want,
        got=cell.got,
        hint=hint,
    )


def _bad(source: Source, ledger: pl.DataFrame, oddities: Mapping[str, int]) -> Iterator[Oddity]:
    for row in ledger.iter_rows(named=True):
        table, reason = row["table"], row["outcome"]
        bad = (*BAD_ROWS, *BAD_STAYS) if table in source.stay_tables else BAD_ROWS
        if reason in bad and row["rows"]:
            yield Oddity(table, reason, row["rows"], row.get("place"))
    for name, count in oddities.items():
        if count and any(part in name for part in BAD_ODDITIES):
            yield Oddity(None, name, count, None)


def _check_times(reading: Reading, ledger: pl.DataFrame) -> None:
    """Raise `DataError` for the first time of an event that cannot be read; no time is normal.

    To the core both are the same, so that tables with such rows are looked at once more; streams
    are gone by then.
    """
    untimed = ledger.filter((pl.col("outcome") == NO_TIME) & (pl.col("rows") > 0))["table"]
    for events in reading.source.events:
        if not events.when or events.table not in untimed or events.table in reading.streams:
            continue
        kind = "float" if events.when.unit == "minutes" else "time"
        try:
            for file in reading.files(events.table):
                _core.read_table([file], [(events.when.column, kind)], threads=reading.threads)
        except DataError as cell:
            raise DataError(
                "an event's time cannot be read and strict refuses that",
                table=cell.table,
                column=cell.column,
                row=cell.row,
                want=cell.want,
                got=cell.got,
                hint=f"Without strict it is counted ({NO_TIME})",
            ) from None


def _first_row(reading: Reading, visits: pl.DataFrame, odd: Oddity) -> DataError:
    """Where the first such row stands, as the parts of an error; none where nobody can tell."""
    if odd.table is None:
        return DataError()
    if odd.table in reading.streams or not reading.has(odd.table):
        row = None if odd.place is None else odd.place + 2
        return DataError(table=odd.table, row=row)
    if odd.place is not None:
        table, row = reading.where(odd.table, odd.place)
        return DataError(table=table, row=row)
    for events in reading.source.events:
        if events.table == odd.table:
            cell = _first_event(reading, visits, events, odd.reason)
            if cell.row is not None:
                return cell
    return DataError()


def _first_event(
    reading: Reading, visits: pl.DataFrame, events: CodeEvents | ValueEvents, reason: str
) -> DataError:
    columns, placing = reading.how(events, visits)
    ids: npt.NDArray[np.int64] = visits[schema.VISIT_ID].to_numpy()
    try:
        _core.find_row(
            reading.files(events.table),
            columns,
            ids,
            reason,
            values=isinstance(events, ValueEvents),
            left_out=reading.ids_left_out,
            placing=placing,
            threads=reading.threads,
        )
    except DataError as cell:
        return cell
    return DataError()
