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
from equipoise.sources.declaration import When, as_time
from equipoise.sources.placing import LATE, NO_TIME, OUTSIDE, WANTS_PREDICTION
from equipoise.tasks import Window

#: No source's own columns are called so.
VISIT: Final = "__visit"
FATE: Final = "__fate"
AT: Final = "__at"
LATEST: Final = "__latest"


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
    """A column as whole numbers, as the core reads them: pandas' `123.0` is 123, its NaN is null.

    What is none is null, too: `check_ids` refuses it.
    """
    kind = rows.collect_schema()[column]
    if kind.is_integer():
        return pl.col(column).cast(pl.Int64)
    digits = _text(column, kind).str.extract(r"^(-?[0-9]+)(?:\.0*)?$")
    return digits.cast(pl.Int64, strict=False)


def check_ids(files: Sequence[Path], column: str) -> None:
    """Raise `DataError` for the first cell of `column` that is neither empty nor a whole number."""
    for file in files:
        check_columns([file], [column])
        rows = scan([file])
        kind = rows.collect_schema()[column]
        if kind.is_integer():
            continue
        cells = rows.select(cell=_text(column, kind), id=ids_of(rows, column))
        wrong = cells.filter((pl.col("cell") != "") & pl.col("id").is_null())
        try:
            found = wrong.head(1).collect(engine="streaming")
        except pl.exceptions.PolarsError as error:
            raise damaged([file], error) from None
        if len(found):
            got = found["cell"][0]
            raise DataError(table=file.name, column=column, want="a whole number", got=got)


def _text(column: str, kind: pl.DataType) -> pl.Expr:
    known = pl.col(column).fill_nan(None) if kind.is_float() else pl.col(column)
    return known.cast(pl.String).str.strip_chars()


def check_columns(files: Sequence[Path], columns: Sequence[str]) -> None:
    """Raise `DataError` for the first of `files` that lacks one of `columns`."""
    for file in files:
        found = columns_of(file)
        for column in columns:
            if column not in found:
                got = ", ".join(found)
                raise DataError(table=file.name, column=column, want="this column", got=got)


def columns_of(file: Path) -> list[str]:
    """The names of a file's columns; raises `DataError` if it cannot be read."""
    try:
        return scan([file]).collect_schema().names()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise damaged([file], error) from None


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
    left_out: pl.DataFrame | None = None,
) -> list[Path]:
    """Write each file's events to `out`: `VISIT`, the wanted columns, and `FATE` (null: kept).

    Events in visits that are `left_out` get their ids, for the reader to say so. One file at a
    time, so that memory is bounded by the largest. Raises `DataError`, and `UsageError` if the
    visits do not have what the window is counted from.
    """
    columns = [how.visit, how.subject, *how.columns, how.when.column]
    wanted = list(dict.fromkeys(column for column in columns if column))
    check_columns(files, wanted)
    limits = _limits(visits, window).with_columns(__known=True)
    if left_out is not None:
        limits = pl.concat([limits, _limits(left_out, None)], how="diagonal")
    right = limits.lazy() if how.visit else _owners(limits).lazy()
    written = []
    for number, file in enumerate(files):
        path = out / f"{len(list(out.iterdir()))}-{number}.parquet"
        events = scan([file]).select(wanted)
        events = events.with_columns(*_times(how.when, events.collect_schema()))
        placed = _by_id(events, how, right) if how.visit else _by_time(events, how, right)
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


def _limits(visits: pl.DataFrame, window: Window | None) -> pl.DataFrame:
    """Each visit's id, subject, start and end, and the last moment that counts."""
    if window is not None and window.anchor not in visits.columns:
        raise UsageError(WANTS_PREDICTION)
    limit = window.limit() if window else pl.lit(None, pl.Datetime("us"))
    return visits.select(
        pl.col(schema.VISIT_ID).alias(VISIT),
        pl.col(schema.SUBJECT_ID).alias("__subject"),
        pl.col("start").alias("__start"),
        pl.col("end").alias("__end"),
        limit.alias("__limit"),
    )


def _owners(limits: pl.DataFrame) -> pl.DataFrame:
    """For each moment (`__from`) of a subject's visits the one that encloses what follows, or none.

    Of several it is the one that began last, as in the core.
    """
    dated = limits.drop_nulls(["__start", "__end"])
    after = pl.col("__end") + pl.duration(microseconds=1)
    moments = [dated.select("__subject", at.alias("__from")) for at in (pl.col("__start"), after)]
    changes = pl.concat(moments).unique()
    inside = pl.col("__from").is_between("__start", "__end")
    enclosing = changes.join(dated, on="__subject").filter(inside).sort("__start", VISIT)
    keys = ["__subject", "__from"]
    owners = enclosing.unique(keys, keep="last", maintain_order=True)
    return changes.join(owners, on=keys, how="left").sort("__from")


def _times(when: When, schema_: pl.Schema) -> tuple[pl.Expr, pl.Expr]:
    """When an event happened, as it is written, and at the latest: a date alone is a day."""
    column, kind = pl.col(when.column), schema_[when.column]
    if kind == pl.Date:
        at = column.cast(pl.Datetime("us"))
        latest = at + pl.duration(days=1, microseconds=-1)
    elif kind.is_temporal():
        at = latest = column.cast(pl.Datetime("us"))
    else:
        at, latest = as_time(column), as_time(column, date_is="23:59:59.999999")
    return at.alias(AT), latest.alias(LATEST)


def _by_id(events: pl.LazyFrame, how: Attaching, limits: pl.LazyFrame) -> pl.LazyFrame:
    events = events.with_columns(ids_of(events, how.visit or "").alias(VISIT))
    return events.join(limits, on=VISIT, how="left")


def _by_time(events: pl.LazyFrame, how: Attaching, owners: pl.LazyFrame) -> pl.LazyFrame:
    left = events.with_columns(pl.col(how.subject or "").cast(pl.Int64).alias("__subject"))
    timed = left.filter(pl.col(AT).is_not_null()).sort(AT)
    joined = timed.join_asof(
        owners,
        left_on=AT,
        right_on="__from",
        by="__subject",
        strategy="backward",
        check_sortedness=False,
    )
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
    at, limit = pl.col(LATEST), pl.col("__limit")
    # A visit without a limit has no prediction after it.
    open_end = window.anchor == "prediction_time"
    unknown = at.is_null() if open_end else at.is_null() | limit.is_null()
    late = pl.when(unknown).then(pl.lit(NO_TIME)).when(at > limit).then(pl.lit(LATE))
    return pl.when(pl.col("__known")).then(pl.coalesce(placed, late)).otherwise(placed)
