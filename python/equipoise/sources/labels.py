"""A table of labels, as MEDS defines it: subject_id, visit_id or prediction_time, boolean_value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import polars as pl

from equipoise import _core, schema
from equipoise.errors import DataError
from equipoise.sources.declaration import (
    LATEST_END,
    SUBJECT_WORD,
    VISIT_WORD,
    as_ids,
    times_of,
    whole_numbers,
)
from equipoise.tasks import PREDICTION_TIME, Task

VALUE: Final = "boolean_value"
GIVEN: Final = Task(
    "labels", "a given label", (VALUE,), lambda visits: visits[VALUE], record="last_known"
)
_BOOLEANS: Final = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
_NOTHING: Final = ("", "nan")
_PLACES: Final = {schema.VISIT_ID, PREDICTION_TIME}

#: Of a file, one of its columns, with what it holds instead of what it shows.
Parse = Callable[[Path, pl.Series], pl.Series]


def join_labels(path: Path, visits: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """`visits` with `boolean_value` (and `prediction_time`) of the table at `path`, and oddities.

    By `visit_id` where the table has it, else by `prediction_time`: the visit of that subject whose
    start and end enclose it, of several the one that began last. Visits that the table does not
    name have no label. Subjects and visits are named as the source names them. Raises `DataError`.
    """
    words = {schema.SUBJECT_ID: SUBJECT_WORD, schema.VISIT_ID: VISIT_WORD}
    words = {id_: word for id_, word in words.items() if word in visits.columns}
    table = _read(path, worded=list(words))
    owner = visits.select(
        pl.col(schema.VISIT_ID).alias("number"),
        "start",
        pl.col(LATEST_END if LATEST_END in visits.columns else "end").alias("end"),
        pl.col(words.get(schema.VISIT_ID, schema.VISIT_ID)).cast(pl.String).alias(schema.VISIT_ID),
        owner=pl.col(words.get(schema.SUBJECT_ID, schema.SUBJECT_ID)).cast(pl.String),
    )
    labels = table if schema.VISIT_ID in table.columns else _enclosing(table, owner)
    owner = owner.select(schema.VISIT_ID, "number", "owner")
    known = labels.join(owner, on=schema.VISIT_ID, maintain_order="left")
    _check(path, known)
    if not known[VALUE].count():
        raise DataError(
            table=path.name,
            want="true or false for some visit in the records",
            got=f"{len(table)} rows, {len(known)} of them for such a visit",
        )
    wanted = [name for name in (VALUE, PREDICTION_TIME) if name in known.columns]
    given = known.select(pl.col("number").alias(schema.VISIT_ID), *wanted)
    joined = visits.join(given, on=schema.VISIT_ID, how="left", maintain_order="left")
    return joined, {"labels of no visit in the records": len(table) - len(known)}


def _check(path: Path, known: pl.DataFrame) -> None:
    """Raise `DataError` for the first second label of a visit, or the first of another subject."""
    twice = known.filter(~pl.col(schema.VISIT_ID).is_first_distinct())
    for place, visit in twice.select("place", schema.VISIT_ID).head(1).iter_rows():
        want, got = "one label a visit", f"visit {visit} twice"
        raise DataError(table=path.name, row=_core.row_number(path, place), want=want, got=got)
    wrong = known.filter(pl.col(schema.SUBJECT_ID) != pl.col("owner"))
    columns = ("place", schema.VISIT_ID, "owner", schema.SUBJECT_ID)
    for place, visit, owner, subject in wrong.select(columns).head(1).iter_rows():
        raise DataError(
            table=path.name,
            column=schema.SUBJECT_ID,
            row=_core.row_number(path, place),
            want=f"{owner}, the subject of visit {visit}",
            got=str(subject),
        )


def _read(path: Path, worded: Sequence[str]) -> pl.DataFrame:
    """Each row's place, boolean_value, subject_id, and visit_id or a time.

    Ids are texts; those that are not `worded` have to be whole numbers.
    """
    if not path.is_file():
        raise DataError(table=str(path), want="a CSV or Parquet file of labels", got="no such file")
    table = _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path)
    ids = (schema.SUBJECT_ID, schema.VISIT_ID)
    ways: dict[str, Parse] = {id_: _words if id_ in worded else _whole for id_ in ids}
    ways |= {PREDICTION_TIME: _times, VALUE: _booleans}
    ways = {name: way for name, way in ways.items() if name in table.columns}
    parsed = pl.DataFrame([way(path, table[name]) for name, way in ways.items()])
    texts = [pl.col(id_).cast(pl.String) for id_ in ids if id_ in ways]
    return parsed.with_columns(texts).with_row_index("place")


def _parquet(path: Path) -> pl.DataFrame:
    try:
        table = pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        got = str(error).splitlines()[0]
        raise DataError(table=path.name, want="a table of labels", got=got) from None
    got = ", ".join(table.columns)
    for name in (schema.SUBJECT_ID, VALUE):
        if name not in table.columns:
            raise DataError(table=path.name, column=name, want="this column", got=got)
    if not _PLACES & set(table.columns):
        raise _no_place(path, got)
    return table


def _csv(path: Path) -> pl.DataFrame:
    columns = [schema.SUBJECT_ID, VALUE, schema.VISIT_ID, PREDICTION_TIME]
    while True:
        try:
            return pl.DataFrame(_core.read_table([path], [(name, "text") for name in columns]))
        except DataError as error:
            if error.column not in _PLACES or error.want != "this column":
                raise
            columns.remove(error.column)
            if not _PLACES & set(columns):
                raise _no_place(path, error.got) from None


def _no_place(path: Path, got: str | None) -> DataError:
    column = f"{schema.VISIT_ID} or {PREDICTION_TIME}"
    return DataError(table=path.name, column=column, want="one of them", got=got)


def _booleans(path: Path, column: pl.Series) -> pl.Series:
    want = "true or false"
    words = _texts(path, column, want).str.to_lowercase()
    found = words.replace_strict(_BOOLEANS, default=None, return_dtype=pl.Boolean)
    _refuse(path, column, found.is_null() & ~words.is_in(_NOTHING), want)
    return found


def _times(path: Path, column: pl.Series) -> pl.Series:
    want = "a time such as 2180-05-06 22:23:00"
    if column.dtype in (pl.Date, pl.Datetime):
        found = column.cast(pl.Datetime("us"))
    else:
        found = times_of(_texts(path, column, want))
    _refuse(path, column, found.is_null(), want)
    return found


def _whole(path: Path, column: pl.Series) -> pl.Series:
    want = "a whole number"
    numbers = whole_numbers(_texts(path, column, want))
    _refuse(path, column, numbers.is_null(), want)
    return numbers


def _words(path: Path, column: pl.Series) -> pl.Series:
    want = "an id"
    words = as_ids(_texts(path, column, want))
    _refuse(path, column, words.is_null(), want)
    return words


def _texts(path: Path, column: pl.Series, want: str) -> pl.Series:
    """The cells as a person reads them; raises `DataError` for a type that has no such thing."""
    try:
        return column.cast(pl.String).str.strip_chars()
    except pl.exceptions.PolarsError:
        got = str(column.dtype)
        raise DataError(table=path.name, column=column.name, want=want, got=got) from None


def _refuse(path: Path, column: pl.Series, bad: pl.Series, want: str) -> None:
    """Raise `DataError` for the first bad cell."""
    for place in bad.arg_true().head(1):
        cell = column[place]
        got = "an empty cell" if cell is None else str(cell)
        row = _core.row_number(path, place)
        raise DataError(table=path.name, column=column.name, row=row, want=want, got=got)


def _enclosing(labels: pl.DataFrame, visits: pl.DataFrame) -> pl.DataFrame:
    spans = visits.drop_nulls().rename({"owner": schema.SUBJECT_ID})
    pairs = labels.join(spans, on=schema.SUBJECT_ID, maintain_order="left_right")
    inside = pairs.filter(pl.col(PREDICTION_TIME).is_between("start", "end"))
    ordered = inside.sort("place", "start", maintain_order=True)
    return ordered.unique("place", keep="last", maintain_order=True)
