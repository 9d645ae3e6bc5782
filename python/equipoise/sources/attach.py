"""MEDS events to visits: by time, and within a window (the core does it for all other sources).

polars streams the table into Parquet files that the reader then takes. What is left out keeps its
row, without a visit id and with the reason, so that it can be counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from equipoise import schema
from equipoise.errors import DataError, UsageError
from equipoise.sources.declaration import When
from equipoise.sources.placing import LATE, NO_TIME, OUTSIDE, WANTS_PREDICTION
from equipoise.tasks import Window

VISIT: Final = "visit"
FATE: Final = "fate"
AT: Final = "__at"


@dataclass(frozen=True)
class Attaching:
    """How the events of a table find their visits.

    visit: the column of visit ids, or None: by `subject` and time. columns: what else is wanted.
    """

    visit: str | None
    subject: str | None
    columns: Sequence[str]
    when: When


def scan(files: Sequence[Path]) -> pl.LazyFrame:
    """The rows of some files of one format; text stays text, so that numbers stay exact."""
    paths: list[Path] = list(files)
    parquet = [path.suffix == ".parquet" for path in paths]
    if any(parquet) != all(parquet):
        other = paths[parquet.index(not parquet[0])]
        got = f"{paths[0].name} and {other.name}"
        raise DataError(table=paths[0].parent.name, want="files of one format", got=got)
    if paths[0].name.endswith(".parquet"):
        return pl.scan_parquet(paths, missing_columns="insert", extra_columns="ignore")
    return pl.scan_csv(paths, infer_schema=False)


def ids_of(rows: pl.LazyFrame, column: str) -> pl.Expr:
    """A column as whole numbers; pandas' `123.0` among texts and floats is 123."""
    if rows.collect_schema()[column].is_integer():
        return pl.col(column).cast(pl.Int64)
    text = pl.col(column).cast(pl.String).str.strip_chars().str.strip_suffix(".0")
    return text.replace("", None).cast(pl.Int64)


def check_columns(files: Sequence[Path], columns: Sequence[str]) -> None:
    """Raise `DataError` for the first of `columns` that the first of `files` lacks."""
    try:
        found = scan(files[:1]).collect_schema().names()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise damaged(files, error) from None
    for column in columns:
        if column not in found:
            raise DataError(
                table=files[0].name, column=column, want="this column", got=", ".join(found)
            )


def damaged(files: Sequence[Path], error: Exception) -> DataError:
    """What polars has to say about a file it cannot read, as this package's error."""
    names = ", ".join(file.name for file in files)
    return DataError(table=names, want="a table that can be read", got=str(error).splitlines()[0])


def attach(
    files: Sequence[Path],
    how: Attaching,
    visits: pl.DataFrame,
    window: Window | None,
    out: Path,
) -> list[Path]:
    """Write each file's events to `out`: `VISIT`, the wanted columns, and `FATE` (null: kept).

    One file at a time, so that memory is bounded by the largest. Raises `DataError`, and
    `UsageError` if the visits do not have what the window is counted from.
    """
    columns = [how.visit, how.subject, *how.columns, how.when.column]
    wanted = list(dict.fromkeys(column for column in columns if column))
    check_columns(files, wanted)
    limits = _limits(visits, window)
    written = []
    for number, file in enumerate(files):
        path = out / f"{len(list(out.iterdir()))}-{number}.parquet"
        events = scan([file]).select(wanted)
        events = events.with_columns(_time(how.when, events.collect_schema()).alias(AT))
        placed = _by_id(events, how, limits) if how.visit else _by_time(events, how, limits)
        fate = _fate(how, window)
        kept = placed.select(
            pl.when(fate.is_null()).then(pl.col(VISIT)).alias(VISIT),
            *how.columns,
            fate.alias(FATE),
        )
        try:
            kept.sink_parquet(path)
        except pl.exceptions.PolarsError as error:
            raise damaged([file], error) from None
        written.append(path)
    return written


def _limits(visits: pl.DataFrame, window: Window | None) -> pl.LazyFrame:
    """Each visit's id, subject, start and end, and the last moment that counts."""
    if window is not None and window.anchor not in visits.columns:
        raise UsageError(WANTS_PREDICTION)
    limit = window.limit() if window else pl.lit(None, pl.Datetime("us"))
    frame = visits.select(
        pl.col(schema.VISIT_ID).alias(VISIT),
        pl.col(schema.SUBJECT_ID).alias("__subject"),
        pl.col("start").alias("__start"),
        pl.col("end").alias("__end"),
        limit.alias("__limit"),
    )
    return frame.lazy()


def _time(when: When, schema_: pl.Schema) -> pl.Expr:
    column = pl.col(when.column)
    if schema_[when.column].is_temporal():
        return column.cast(pl.Datetime("us"))
    text = column.str.strip_chars().str.replace("T", " ", literal=True).str.slice(0, 19)
    formats = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d")
    return pl.coalesce(text.str.to_datetime(form, strict=False, time_unit="us") for form in formats)


def _by_id(events: pl.LazyFrame, how: Attaching, limits: pl.LazyFrame) -> pl.LazyFrame:
    events = events.with_columns(ids_of(events, how.visit or "").alias(VISIT))
    return events.join(limits.with_columns(__known=True), on=VISIT, how="left")


def _by_time(events: pl.LazyFrame, how: Attaching, limits: pl.LazyFrame) -> pl.LazyFrame:
    """The visit that encloses an event; at the very moment where two meet, the later one."""
    left = events.with_columns(pl.col(how.subject or "").cast(pl.Int64).alias("__subject"))
    right = limits.filter(pl.col("__end").is_not_null()).sort("__start")
    right = right.with_columns(pl.col("__start").alias("__from"), __known=True)
    timed = left.filter(pl.col(AT).is_not_null()).sort(AT)
    joined = timed.join_asof(
        right,
        left_on=AT,
        right_on="__from",
        by="__subject",
        strategy="backward",
        check_sortedness=False,
    )
    inside = pl.col(AT) <= pl.col("__end")
    joined = joined.with_columns(pl.when(inside).then(pl.col(VISIT)).alias(VISIT))
    untimed = left.filter(pl.col(AT).is_null())
    return pl.concat([joined, untimed], how="diagonal")


def _fate(how: Attaching, window: Window | None) -> pl.Expr:
    """Why an event is left out, or null. Who has no visit is left to the reader to count."""
    nothing = pl.lit(None, pl.String)
    if how.visit is None:
        no_time = pl.when(pl.col(AT).is_null()).then(pl.lit(NO_TIME))
        outside = pl.when(pl.col(VISIT).is_null()).then(pl.lit(OUTSIDE))
        placed = pl.coalesce(no_time, outside)
    else:
        placed = nothing
    if window is None:
        return placed
    at, limit = pl.col(AT), pl.col("__limit")
    # A visit without a prediction lies before one that has it.
    open_end = window.anchor == "prediction_time"
    unknown = at.is_null() if open_end else at.is_null() | limit.is_null()
    late = pl.when(unknown).then(pl.lit(NO_TIME)).when(at > limit).then(pl.lit(LATE))
    return pl.when(pl.col("__known")).then(pl.coalesce(placed, late)).otherwise(placed)
