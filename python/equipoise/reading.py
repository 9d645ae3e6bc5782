"""One reading of a source: which files, what the core reads of them, and under which names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from equipoise import _core, schema
from equipoise.errors import DataError
from equipoise.events import Codes, Values, ledger_of, renumbered
from equipoise.ragged import Columns, Offsets
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
from equipoise.sources.placing import Placing, Words, placing_of
from equipoise.tasks import GroupSettings, Window

SEPARATOR: Final = "\x1f"
#: Files, or the name of an Arrow stream and the stream.
Events = list[Path] | tuple[str, Any]


@dataclass(frozen=True)
class Reading:
    """One reading of a source (a `Reader`). `scratch` is a folder for what must be rewritten.

    by_time: events without a visit id go to the visit of their subject that encloses their time.
    strict: whoever reads refuses bad data (see `strict`).
    streams: tables that come as Arrow streams instead of files. left_out: visits that the task
    leaves out (`Stays.visits`). words: what tables call visits and subjects.
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
    left_out: pl.DataFrame | None = None
    words: Words = field(default_factory=Words)

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

    def where(self, table: str, place: int) -> tuple[str, int | None]:
        """The file and the number of the row at a place of a table; None if it has several."""
        files = self.files(table)
        if len(files) > 1:
            return table, None
        return files[0].name, _core.row_number(files[0], place)

    def events(self, table: str) -> Events:
        """What the core takes for a table: its files, or its name and stream."""
        return (table, self.streams[table]) if table in self.streams else self.files(table)

    @property
    def ids_left_out(self) -> npt.NDArray[np.int64] | None:
        """The ids of `left_out`."""
        return None if self.left_out is None else self.left_out[schema.VISIT_ID].to_numpy()

    def how(
        self, events: CodeEvents | ValueEvents, visits: pl.DataFrame
    ) -> tuple[list[str | None], Placing | None]:
        """The columns of a table, in the core's order, and how its events find their visits."""
        subject = events.subject if self.by_time or events.visit is None else None
        placing = placing_of(visits, self.left_out, self.window, events.when, subject, self.words)
        if isinstance(events, CodeEvents):
            named = [events.code, *([events.system] if events.system else [])]
            return [events.visit, *named], placing
        return [events.visit, *events.lab, events.value], placing

    def codes(self, events: CodeEvents, visits: pl.DataFrame) -> Codes:
        """A table of codes."""
        columns, placing = self.how(events, visits)
        where = self.events(events.table)
        offsets, codes, (names, counts) = _core.read_codes(
            where,
            columns,
            visits[schema.VISIT_ID].to_numpy(),
            left_out=self.ids_left_out,
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
            return Codes(*renumbered(offsets, codes, rows), ledger)
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
            return Codes(*renumbered(offsets, codes, table.with_row_index("raw")), ledger)
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
        columns: Sequence[str | None],
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
            left_out=self.ids_left_out,
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


def _parts(names: Iterable[str], columns: Sequence[str]) -> pl.DataFrame:
    """Names whose parts the core joined, as columns."""
    split = [name.split(SEPARATOR) for name in names]
    return pl.DataFrame(split, schema=dict.fromkeys(columns, pl.String), orient="row")


def check_rows(events: Events, rows: int) -> None:
    """Raise `DataError` for a table without rows."""
    if rows:
        return
    if isinstance(events, tuple):
        raise DataError(table=events[0], want="at least one row", got="an empty stream")
    names = ", ".join(file.name for file in events)
    raise DataError(table=names, want="at least one row", got="a header and nothing below it")
