"""A table of labels, as MEDS defines it: subject_id, visit_id or prediction_time, boolean_value."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import polars as pl

from equipoise import schema
from equipoise.errors import DataError
from equipoise.tasks import PREDICTION_TIME, Task

VALUE: Final = "boolean_value"
GIVEN: Final = Task(
    "labels", "a given label", (VALUE,), lambda visits: visits[VALUE], record="last_known"
)
_BOOLEANS: Final = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


def join_labels(path: Path, visits: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """`visits` with `boolean_value` (and `prediction_time`) of the table at `path`, and oddities.

    By `visit_id` where the table has it, else by `prediction_time`: the visit of that subject whose
    start and end enclose it. Visits that the table does not name have no label. Raises `DataError`.
    """
    table = _read(path)
    names = table.columns
    if schema.VISIT_ID in names:
        labels = table.with_columns(_whole(path, table, schema.VISIT_ID))
    elif PREDICTION_TIME in names:
        labels = _enclosing(table.with_columns(_whole(path, table, schema.SUBJECT_ID)), visits)
    else:
        want = f"{schema.VISIT_ID} or {PREDICTION_TIME}"
        raise DataError(table=path.name, column=want, want="one of them", got=", ".join(names))
    known = labels.join(visits.select(schema.VISIT_ID), on=schema.VISIT_ID)
    twice = known.filter(known[schema.VISIT_ID].is_duplicated())
    if len(twice):
        raise DataError(
            table=path.name,
            row=twice["row"][1],
            want="one label a visit",
            got=f"visit {twice[schema.VISIT_ID][0]} twice",
        )
    wanted = [name for name in (schema.VISIT_ID, VALUE, PREDICTION_TIME) if name in known.columns]
    joined = visits.join(
        known.select(wanted), on=schema.VISIT_ID, how="left", maintain_order="left"
    )
    return joined, {"labels of no visit in the records": len(table) - len(known)}


def _read(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise DataError(table=str(path), want="a CSV or Parquet file of labels", got="no such file")
    try:
        parquet = path.suffix == ".parquet"
        table = pl.read_parquet(path) if parquet else pl.read_csv(path, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        got = str(error).splitlines()[0]
        raise DataError(table=path.name, want="a table of labels", got=got) from None
    for name in (schema.SUBJECT_ID, VALUE):
        if name not in table.columns:
            got = ", ".join(table.columns)
            raise DataError(table=path.name, column=name, want="this column", got=got)
    table = table.with_row_index("row", offset=1 if parquet else 2)
    text = pl.col(VALUE).cast(pl.String).str.strip_chars().str.to_lowercase()
    parsed = table.with_columns(text.replace_strict(_BOOLEANS, default=None).alias(VALUE))
    bad = table.filter(parsed[VALUE].is_null() & table[VALUE].is_not_null())
    if len(bad):
        row, got = bad["row"][0], str(bad[VALUE][0])
        raise DataError(table=path.name, column=VALUE, row=row, want="true or false", got=got)
    if PREDICTION_TIME in table.columns:
        parsed = parsed.with_columns(_times(path, table))
    return parsed


def _times(path: Path, table: pl.DataFrame) -> pl.Series:
    column = table[PREDICTION_TIME]
    if column.dtype.is_temporal():
        return column.cast(pl.Datetime("us"))
    text = column.cast(pl.String).str.replace("T", " ", literal=True)
    formats = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d")
    found = pl.select(
        pl.coalesce(
            text.str.to_datetime(form, strict=False, time_unit="us").alias(PREDICTION_TIME)
            for form in formats
        )
    ).to_series()
    bad = table.filter(found.is_null())
    if len(bad):
        raise DataError(
            table=path.name,
            column=PREDICTION_TIME,
            row=bad["row"][0],
            want="a time such as 2180-05-06 22:23:00",
            got=str(bad[PREDICTION_TIME][0]),
        )
    return found


def _whole(path: Path, table: pl.DataFrame, name: str) -> pl.Series:
    numbers = table[name].cast(pl.Int64, strict=False)
    bad = table.filter(numbers.is_null())
    if len(bad):
        raise DataError(
            table=path.name,
            column=name,
            row=bad["row"][0],
            want="a whole number",
            got=str(bad[name][0]),
        )
    return numbers


def _enclosing(labels: pl.DataFrame, visits: pl.DataFrame) -> pl.DataFrame:
    spans = visits.select(schema.SUBJECT_ID, schema.VISIT_ID, "start", "end").drop_nulls()
    joined = labels.sort(PREDICTION_TIME).join_asof(
        spans.sort("start"),
        left_on=PREDICTION_TIME,
        right_on="start",
        by=schema.SUBJECT_ID,
        strategy="backward",
        check_sortedness=False,
    )
    return joined.filter(pl.col(PREDICTION_TIME) <= pl.col("end"))
