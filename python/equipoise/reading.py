"""One reading of a source: which files, what the core reads of them, and under which names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from equipoise import _core, schema
from equipoise.errors import DataError
from equipoise.ragged import Columns, Offsets, offsets_of, positions
from equipoise.sources.declaration import (
    CodeEvents,
    ColumnKind,
    Dictionary,
    MixedEvents,
    Source,
    ValueEvents,
    as_whole,
)
from equipoise.sources.files import find_table, has_table
from equipoise.sources.placing import Placing, placing_of
from equipoise.tasks import GroupSettings, Window

SEPARATOR: Final = "\x1f"
CODE_TABLE: Final = dict.fromkeys(("kind", "system", "code", "title"), pl.String)
LAB_TABLE: Final = dict.fromkeys(("lab", "title"), pl.String)
#: Files, or the name of an Arrow stream and the stream.
Events = list[Path] | tuple[str, Any]


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


@dataclass(frozen=True)
class Reading:
    """One reading of a source (a `Reader`). `scratch` is a folder for what must be rewritten.

    by_time: values without a visit id go to the visit of their subject that encloses their time.
    strict: whoever reads refuses bad data (see `strict`).
    streams: tables that come as Arrow streams instead of files. left_out: ids of visits that the
    task leaves out.
    """

    source: Source
    root: Path
    threads: int
    progress: schema.Progress
    groups: GroupSettings
    window: Window | None
    scratch: Path
    by_time: bool = False
    halt: Event = field(default_factory=Event)
    strict: bool = False
    streams: Mapping[str, Any] = field(default_factory=dict)
    left_out: npt.NDArray[np.int64] | None = None

    def files(self, table: str) -> list[Path]:
        """The files of a table; raises `DataError` if there are none."""
        return find_table(self.root, self.source.folders, table)

    def has(self, table: str) -> bool:
        """Whether a table has files."""
        return has_table(self.root, self.source.folders, table)

    def __call__(self, table: str, columns: Mapping[str, ColumnKind]) -> pl.DataFrame:
        """A small table as a frame; an empty one is an error."""
        files = self.files(table)
        batch = _core.read_table(files, list(columns.items()), threads=self.threads)
        frame = pl.DataFrame(batch)
        check_rows(files, len(frame))
        return frame

    def events(self, table: str) -> Events:
        """What the core takes for a table: its files, or its name and stream."""
        return (table, self.streams[table]) if table in self.streams else self.files(table)

    def how(
        self, events: CodeEvents | ValueEvents, visits: pl.DataFrame
    ) -> tuple[list[str], Placing | None]:
        """The columns of a table, in the core's order, and how its events find their visits."""
        if isinstance(events, CodeEvents):
            named = [events.code, *([events.system] if events.system else [])]
            return [events.visit, *named], placing_of(visits, self.window, events.when)
        subject = events.subject if self.by_time else None
        placing = placing_of(visits, self.window, events.when, subject)
        return [events.visit, *events.lab, events.value], placing

    def codes(self, events: CodeEvents, visits: pl.DataFrame) -> Codes:
        """A table of codes."""
        columns, placing = self.how(events, visits)
        where = self.events(events.table)
        offsets, codes, (names, counts) = _core.read_codes(
            where,
            columns,
            visits[schema.VISIT_ID].to_numpy(),
            left_out=self.left_out,
            placing=placing,
            threads=self.threads,
            progress=self.tell(events.table),
        )
        check_rows(where, sum(rows for _, rows in counts))
        ledger = ledger_of(events.table, counts)
        parts = _parts(names, ["code", "system"][: len(columns) - 1])
        if events.split is not None:
            rows = events.split(parts.with_row_index("raw")).sort("system", "code")
            rows = rows.with_columns(kind=pl.lit(events.kind), title=pl.col("code"))
            return Codes(*_renumbered(offsets, codes, rows), ledger)
        if events.systems:
            parts = parts.with_columns(as_whole("system"))
        if events.system:
            system = pl.col("system").replace(dict(events.systems))
        else:
            system = pl.lit(events.only_system or events.kind)
        titles = self.titles(events.dictionary, parts)
        kind = pl.lit(events.kind).alias("kind")
        table = parts.select(kind, system.alias("system"), "code", titles)
        # Where a version is written in two ways.
        if table.select("system", "code").is_duplicated().any():
            return Codes(*_renumbered(offsets, codes, table.with_row_index("raw")), ledger)
        return Codes(offsets, codes, table, ledger)

    def values(self, events: ValueEvents, visits: pl.DataFrame) -> Values:
        """A table of values."""
        where = self.events(events.table)
        known = None
        if events.integer_labs and events.dictionary:
            dictionary = self(events.dictionary.table, {events.dictionary.key[0]: "integer"})
            known = dictionary.to_series().drop_nulls().unique().sort().to_numpy()
        ids = visits[schema.VISIT_ID].to_numpy()
        columns, placing = self.how(events, visits)
        read = self.means(events.table, where, columns, ids, known, placing)
        offsets, labs, values, names, counts = read
        check_rows(where, sum(rows for _, rows in counts))
        parts = _parts(names, events.lab)
        table = parts.select(lab_name(events.lab), self.titles(events.dictionary, parts))
        check_names(events, table)
        return Values(offsets, labs, values, table, ledger_of(events.table, counts))

    def means(
        self,
        table: str,
        events: Events,
        columns: Sequence[str],
        visits: npt.NDArray[np.int64],
        known: npt.NDArray[np.int64] | None = None,
        placing: Placing | None = None,
    ) -> tuple[Offsets, Columns, npt.NDArray[np.float64], list[str], list[tuple[str, int]]]:
        """Exact means by visit and lab: offsets, labs, values, names, counts of rows."""
        offsets, labs, values, (names, counts) = _core.read_values(
            events,
            columns,
            visits,
            known=known,
            left_out=self.left_out,
            placing=placing,
            threads=self.threads,
            progress=self.tell(table),
        )
        return offsets, labs, values, names, counts

    def titles(self, dictionary: Dictionary | None, parts: pl.DataFrame) -> pl.Series:
        """A title for each row of `parts`: the dictionary's, else the name itself.

        Parts that the dictionary does not know (a lab's unit) stand behind its title.
        """
        name = parts.select(lab_name(parts.columns)).to_series()
        if dictionary is None:
            return name.alias("title")
        columns: dict[str, ColumnKind] = dict.fromkeys((*dictionary.key, *dictionary.title), "text")
        entries = self(dictionary.table, columns).with_columns(map(as_whole, dictionary.versions))
        entries = entries.unique(dictionary.key, keep="first")
        title = pl.concat_str(list(dictionary.title), separator=", ", ignore_nulls=True)
        entries = entries.select(*dictionary.key, title.alias("title"))
        keys = parts.rename(dict(zip(parts.columns, dictionary.key, strict=False)))
        joined = keys.join(entries, on=list(dictionary.key), how="left", maintain_order="left")
        more = parts.columns[len(dictionary.key) :]
        known = pl.col("title").replace("", None)
        titles = joined.select(pl.when(known.is_not_null()).then(lab_name(["title", *more])))
        return titles.to_series().fill_null(name).alias("title")

    def tell(self, stage: str) -> Callable[[int, int], None]:
        """Progress of one stage; raises `HaltedError` once the reading is halted."""

        def told(done: int, total: int) -> None:
            if self.halt.is_set():
                raise HaltedError
            self.progress(stage, done, total)

        return told


class HaltedError(Exception):
    """The reading was given up for another error."""


def read_side_by_side(reading: Reading, visits: pl.DataFrame) -> tuple[list[Codes], list[Values]]:
    """All tables of codes and of values, side by side: a lone gzip file leaves a core half idle.

    Of several errors that of the codes is raised, as if they were read first. Streams are read one
    after the other: two of one connection (DuckDB's) cannot be drawn from at once.
    """
    source = reading.source
    if reading.streams:
        read = [reading.codes(events, visits) for events in source.codes]
        return read, [reading.values(events, visits) for events in source.values]

    def codes() -> list[Codes]:
        try:
            return [reading.codes(events, visits) for events in source.codes]
        except BaseException:
            reading.halt.set()
            raise

    with ThreadPoolExecutor(1) as pool:
        reading_codes = pool.submit(codes)
        try:
            try:
                values = [reading.values(events, visits) for events in source.values]
            except (HaltedError, DataError):
                reading_codes.result()
                raise
            return reading_codes.result(), values
        except BaseException:
            reading.halt.set()
            raise


def lab_name(columns: Sequence[str]) -> pl.Expr:
    """The parts of a name in one text, without the empty ones: `glucose, mg/dL`, `pH`."""
    parts = [pl.when(pl.col(name) != "").then(pl.col(name)) for name in columns]
    return pl.concat_str(parts, separator=", ", ignore_nulls=True).alias("lab")


def check_names(events: ValueEvents | MixedEvents, table: pl.DataFrame) -> None:
    """Raise `DataError` for two labs whose parts make one name."""
    twice = table.filter(table["lab"].is_duplicated())["lab"]
    if len(twice):
        raise DataError(
            table=events.table,
            column=", ".join(events.lab),
            want="labs whose names differ, unit and all",
            got=f"two that are called {twice[0]!r}",
        )


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


def _renumbered(
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


def _parts(names: Iterable[str], columns: Sequence[str]) -> pl.DataFrame:
    """Names whose parts the core joined, as columns."""
    split = [name.split(SEPARATOR) for name in names]
    return pl.DataFrame(split, schema=dict.fromkeys(columns, pl.String), orient="row")


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


def check_rows(events: Events, rows: int) -> None:
    """Raise `DataError` for a table without rows."""
    if rows:
        return
    if isinstance(events, tuple):
        raise DataError(table=events[0], want="at least one row", got="an empty stream")
    names = ", ".join(file.name for file in events)
    raise DataError(table=names, want="at least one row", got="a header and nothing below it")
