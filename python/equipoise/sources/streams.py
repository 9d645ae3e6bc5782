"""Tables that Python already holds: frames of visits and subjects, Arrow streams of events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

import numpy as np
import polars as pl

from equipoise import schema
from equipoise.errors import DataError, UsageError
from equipoise.sources.declaration import (
    ID_WORDS,
    LAB,
    LATEST_END,
    SUBJECT_WORD,
    VISIT_WORD,
    CodeEvents,
    Reader,
    Source,
    Stays,
    ValueEvents,
    When,
    count_outcomes,
    latest_ends,
    numbered,
    plain_fields,
)
from equipoise.tasks import Task

CODES: Final = "codes"
VALUES: Final = "values"
#: The label that the frame of visits brings.
GIVEN: Final = "given label"
_TEXTS: Final = (pl.String, pl.Categorical, pl.Enum)
TASK: Final = Task("given", "the given label", (GIVEN,), lambda visits: visits[GIVEN])


class ArrowStream(Protocol):
    """Whatever has the Arrow PyCapsule interface: polars, pyarrow, DuckDB, pandas 2.2 and later."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


@dataclass(frozen=True)
class EventColumns:
    """What the columns are called; `unit`, `system` and `time` are None where there is none.

    Of visits: subject, visit, label (Boolean or 0 and 1; null is unknown), start and end where
    they are known. Of subjects: subject; every other column is a group, but for `split` and
    `person_id`. Of codes: visit, code, system (such as ICD10), time. Of values: visit, lab, unit
    (the same lab in two units is two labs), value, time; and subject, if events are placed by their
    time. kind: what the codes are. Subjects and visits are whole numbers or words.
    """

    subject: str = schema.SUBJECT_ID
    visit: str = schema.VISIT_ID
    label: str = schema.LABEL
    start: str = "start"
    end: str = "end"
    code: str = "code"
    lab: str = "code"
    value: str = "numeric_value"
    unit: str | None = None
    system: str | None = None
    time: str | None = None
    kind: str = "diagnosis"


def check_stream(name: str, stream: object) -> None:
    """Raise `UsageError` unless `stream` has the Arrow PyCapsule interface."""
    if not hasattr(stream, "__arrow_c_stream__"):
        raise UsageError(
            f"{name}: want an Arrow stream (a polars or pyarrow table, a reader of record batches, "
            f"a DuckDB relation ...), got {type(stream).__name__}"
        )


def streams_source(
    visits: ArrowStream,
    subjects: ArrowStream | None,
    columns: EventColumns,
    streams: tuple[str, ...],
    *,
    by_time: bool = False,
) -> Source:
    """The source of these frames, and of `streams`: some of `CODES` and `VALUES`.

    by_time: events have a subject and a time, by which they may be placed. Raises `UsageError` for
    codes that are called what labs are.
    """
    if columns.kind == LAB:
        raise UsageError(f"columns.kind: want another name than {LAB}, which values become")
    subject = columns.subject if by_time else None
    when = When(columns.time) if columns.time else None
    lab = (columns.lab, *([columns.unit] if columns.unit else []))
    code = CodeEvents(
        CODES,
        columns.kind,
        columns.visit,
        columns.code,
        system=columns.system,
        subject=subject,
        when=when,
    )
    value = ValueEvents(VALUES, columns.visit, lab, columns.value, subject=subject, when=when)
    return Source(
        name="streams",
        folders=(),
        stay_tables=("visits", "subjects"),
        read_stays=partial(_read_stays, visits, subjects, columns),
        codes=(code,) if CODES in streams else (),
        values=(value,) if VALUES in streams else (),
        tasks={TASK.name: TASK},
        settings={"columns": plain_fields(columns)},
    )


def _read_stays(
    visits: ArrowStream, subjects: ArrowStream | None, columns: EventColumns, _: Reader
) -> Stays:
    frame = _frame("visits", visits, (columns.subject, columns.visit, columns.label))
    tables = {"visits": frame}
    if subjects is not None:
        tables["subjects"] = _frame("subjects", subjects, (columns.subject,))
    rows = _visits(tables, columns)
    people = None if subjects is None else _subjects(tables, columns.subject)
    rows = rows.with_columns(_fate_of_visit(rows, people).alias("outcome"))
    # Without dates, visits come in the order of the frame.
    used = rows.filter(pl.col("outcome") == schema.USED)
    used = used.sort(schema.SUBJECT_ID, "start", maintain_order=True)
    ledgers = [count_outcomes("visits", rows)]
    if people is None:
        people = used.select(schema.SUBJECT_ID).unique(maintain_order=True)
    else:
        # Apart: a group may be called anything.
        fates = people.select(_fate_of_subject(used).alias("outcome"))
        ledgers.append(count_outcomes("subjects", fates))
        people = people.filter(fates["outcome"] == schema.USED)
    names = [schema.SUBJECT_ID, schema.VISIT_ID, "start", "end", GIVEN, LATEST_END]
    names += [word for word in ID_WORDS if word in used.columns]
    return Stays(used.select(names), people, pl.concat(ledgers), {})


def _fate_of_visit(rows: pl.DataFrame, people: pl.DataFrame | None) -> pl.Expr:
    subject, visit = pl.col(schema.SUBJECT_ID), pl.col(schema.VISIT_ID)
    known = pl.lit(value=True) if people is None else subject.is_in(people.to_series(0).implode())
    dated = pl.col("start").is_not_null() | rows["start"].is_null().all()
    return (
        pl.when(subject.is_null())
        .then(pl.lit("no subject"))
        .when(visit.is_null())
        .then(pl.lit("no visit id"))
        .when(~dated)
        .then(pl.lit("no start"))
        .when(pl.col(LATEST_END) < pl.col("start"))
        .then(pl.lit("end before start"))
        .when(~known)
        .then(pl.lit("unknown subject"))
        .when(~visit.is_first_distinct())
        .then(pl.lit("visit id twice"))
        .otherwise(pl.lit(schema.USED))
    )


def _fate_of_subject(visits: pl.DataFrame) -> pl.Expr:
    subject = pl.col(schema.SUBJECT_ID)
    return (
        pl.when(subject.is_null())
        .then(pl.lit("no subject"))
        .when(~subject.is_first_distinct())
        .then(pl.lit("subject id twice"))
        .when(subject.is_in(visits[schema.SUBJECT_ID].unique().implode()))
        .then(pl.lit(schema.USED))
        .otherwise(pl.lit("no visit used"))
    )


def _visits(tables: Mapping[str, pl.DataFrame], columns: EventColumns) -> pl.DataFrame:
    frame = tables["visits"]
    found = [_labels(frame, columns.label)]
    for part, column, id_, word in (
        (tables, columns.subject, schema.SUBJECT_ID, SUBJECT_WORD),
        ({"visits": frame}, columns.visit, schema.VISIT_ID, VISIT_WORD),
    ):
        numbers, words = _ids(part, column)
        found.append(numbers["visits"].alias(id_))
        if words:
            found.append(words["visits"].alias(word))
    for name, given in (("start", columns.start), ("end", columns.end)):
        if given in frame.columns:
            found.append(_cast("visits", frame, given, pl.Datetime("us"), "times", name))
        else:
            found.append(
                pl.repeat(None, len(frame), dtype=pl.Datetime("us"), eager=True).alias(name)
            )
    ends = found[-1]
    dated = columns.end in frame.columns and frame[columns.end].dtype == pl.Date
    found.append(latest_ends(ends, pl.repeat(dated, len(ends), eager=True)))
    return pl.DataFrame(found)


def _ids(
    tables: Mapping[str, pl.DataFrame], name: str
) -> tuple[dict[str, pl.Series], dict[str, pl.Series]]:
    """A column of ids in each table as whole numbers; and as words, if the numbers are ours."""
    if not any(frame[name].dtype in _TEXTS for frame in tables.values()):
        want = "whole numbers"
        cast = {t: _cast(t, frame, name, pl.Int64, want, name) for t, frame in tables.items()}
        return cast, {}
    texts = [
        _cast(table, frame, name, pl.String, "text or whole numbers", name)
        for table, frame in tables.items()
    ]
    both = numbered(pl.concat(texts))
    starts = dict(zip(tables, np.cumsum([0, *map(len, texts)]).tolist(), strict=False))
    numbers, words = (
        {}
        if every is None
        else {table: every.slice(start, len(tables[table])) for table, start in starts.items()}
        for every in both
    )
    return numbers, words


def _labels(frame: pl.DataFrame, name: str) -> pl.Series:
    labels = frame[name]
    want = "true, false, 0, 1 or null"
    if labels.dtype in (pl.Boolean, pl.Null):
        return labels.cast(pl.Boolean).alias(GIVEN)
    if not labels.dtype.is_numeric():
        raise DataError(table="visits", column=name, want=want, got=str(labels.dtype))
    # NaN is what pandas makes of booleans and nulls.
    numbers = labels.cast(pl.Float64).fill_nan(None)
    wrong = ((numbers != 0) & (numbers != 1)).fill_null(value=False).arg_true()
    if len(wrong):
        row = int(wrong[0])
        raise DataError(table="visits", column=name, row=row + 2, want=want, got=str(labels[row]))
    return (numbers == 1).alias(GIVEN)


def _subjects(tables: Mapping[str, pl.DataFrame], subject: str) -> pl.DataFrame:
    """subject_id, each group as text (null is Unknown), and split and person_id as they are."""
    frame = tables["subjects"]
    ids = _ids(tables, subject)[0]["subjects"].alias(schema.SUBJECT_ID)
    taken = (schema.SUBJECT_ID, schema.LABEL, schema.SYNTHETIC)
    groups = [name for name in frame.columns if name != subject]
    for name in groups:
        if name in taken:
            raise DataError(table="subjects", column=name, want="another name for a group")
    made = [ids]
    for name in groups:
        if name == schema.PERSON_ID:
            made.append(_persons(frame, name))
        else:
            words = _cast("subjects", frame, name, pl.String, "text", name)
            made.append(words if name == schema.SPLIT else words.fill_null("Unknown"))
    return pl.DataFrame(made)


def _persons(frame: pl.DataFrame, name: str) -> pl.Series:
    persons = _cast("subjects", frame, name, pl.Int64, "whole numbers", name)
    for row in persons.is_null().arg_true().head(1):
        want = "a person for each subject"
        raise DataError(table="subjects", column=name, row=row + 2, want=want, got="null")
    return persons


def _frame(table: str, stream: ArrowStream, wanted: tuple[str, ...]) -> pl.DataFrame:
    check_stream(table, stream)
    try:
        frame = pl.DataFrame(stream)
    except pl.exceptions.PolarsError as error:
        got = str(error).splitlines()[0]
        raise DataError(table=table, want="a table that can be read", got=got) from None
    for name in wanted:
        if name not in frame.columns:
            got = ", ".join(frame.columns)
            raise DataError(table=table, column=name, want="this column", got=got)
    if frame.is_empty():
        raise DataError(table=table, want="at least one row", got="none")
    return frame


def _cast(table: str, frame: pl.DataFrame, name: str, to: Any, want: str, alias: str) -> pl.Series:
    """A column as another type; raises `DataError` for the first value that does not fit."""
    column = frame[name]
    if column.dtype.is_float() and to == pl.Int64:
        column = column.fill_nan(None)
    # A number is no time, whatever it counts.
    timeless = to == pl.Datetime("us") and not column.dtype.is_temporal()
    other = DataError(table=table, column=name, want=want, got=str(column.dtype))
    if column.dtype.is_nested() or (timeless and column.dtype != pl.Null):
        raise other
    try:
        made = column.cast(to, strict=False)
    except pl.exceptions.PolarsError:
        # Of UUIDs as bytes, which are no text.
        raise other from None
    if column.dtype.is_float() and to == pl.Int64:
        made = pl.select(pl.when(made.cast(pl.Float64) == column).then(made)).to_series()
    lost = (made.is_null() & column.is_not_null()).arg_true()
    if len(lost):
        row = int(lost[0])
        raise DataError(table=table, column=name, row=row + 2, want=want, got=str(column[row]))
    return made.alias(alias)
