"""Reading what Python already holds: Arrow streams of events, batch by batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
from polars import selectors

from equipoise import schema
from equipoise.cores import cores
from equipoise.errors import UsageError
from equipoise.reading import Reading
from equipoise.records import VisitRecords, read_records
from equipoise.sources.streams import (
    CODES,
    TASK,
    VALUES,
    ArrowStream,
    EventColumns,
    check_stream,
    streams_source,
)
from equipoise.tasks import GroupSettings, window_of


def read_events(
    visits: ArrowStream,
    *,
    subjects: ArrowStream | None = None,
    codes: ArrowStream | None = None,
    values: ArrowStream | None = None,
    columns: EventColumns | None = None,
    until: str | None = None,
    attach_by_time: bool = False,
    strict: bool = False,
    threads: int | None = None,
) -> VisitRecords:
    """Records of whatever has the Arrow PyCapsule interface (polars, pyarrow, DuckDB, pandas).

    visits: one row a visit, with its subject and label; ordered by start, or else as they come.
    subjects: one row a subject; every further column is a group. Both are held in memory.
    codes, values: events in any order, each with the id of its visit; read once, batch by batch,
    in bounded memory, with the same result as from a Parquet file of the same rows.
    columns: what the columns are called (see `EventColumns`).
    until, attach_by_time, strict: as for `read_source`; a window wants `columns.time`, or counts
    events as known when their visit ends.

    Raises `DataError` for columns or cells that are not as they should be, naming the stream by the
    argument; `UsageError` for what is no Arrow stream, and where there is no stream of events.
    """
    given = {CODES: codes, VALUES: values}
    streams = {name: stream for name, stream in given.items() if stream is not None}
    if not streams:
        raise UsageError("read events: want codes, values or both")
    for name, stream in streams.items():
        check_stream(name, stream)
        streams[name] = _with_types(stream)
    columns = columns or EventColumns()
    if attach_by_time and columns.time is None:
        raise UsageError("attach by time: wants columns.time, when events happened")
    reading = Reading(
        source=streams_source(visits, subjects, columns, tuple(streams), by_time=attach_by_time),
        root=Path(),
        threads=threads or cores(),
        progress=schema.no_progress,
        groups=GroupSettings(),
        window=window_of(until) if until else None,
        scratch=Path(),
        by_time=attach_by_time,
        strict=strict,
        streams=streams,
    )
    asked = {"until": until, "attach_by_time": attach_by_time, "strict": strict}
    return replace(read_records(reading, TASK), config=reading.source.config(TASK, asked))


def _with_types(stream: ArrowStream) -> ArrowStream:
    """The stream, a polars column of nulls alone as text: Arrow in Rust takes no such of polars."""
    if isinstance(stream, pl.DataFrame):
        return stream.with_columns(selectors.by_dtype(pl.Null).cast(pl.String))
    return stream
