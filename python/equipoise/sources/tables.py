"""Anyone's own tables, as a spec says (`sources.spec`): one of visits, and tables of events.

Ids that are no whole numbers get numbers: their places in the sorted list of all. Cells of the
visits' own table that become codes or values are counted in the ledger one by one.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

import polars as pl

from equipoise import schema
from equipoise.errors import DataError
from equipoise.sources.declaration import (
    DIAGNOSIS,
    ID_WORDS,
    LAB,
    LATEST_END,
    SUBJECT_WORD,
    VISIT_WORD,
    CodeEvents,
    ColumnKind,
    Reader,
    Source,
    Stays,
    ValueEvents,
    When,
    as_ids,
    count_outcomes,
    latest_ends,
    numbered,
    times_of,
    whole_numbers,
)
from equipoise.sources.spec import EventsSpec, GroupSpec, Spec, TaskSpec, read_spec
from equipoise.tasks import OTHER_RACE, GroupSettings, Task

MORTALITY: Final = "in_hospital_mortality"
#: The length of a date as text.
A_DATE: Final = len("2180-05-06")
#: Before the names of the table's own columns, which may be any.
OWN: Final = "of the table: "


def tables_source(spec: Path | str | Spec) -> Source:
    """The source that a spec describes; raises `DataError` for a bad one."""
    spec = spec if isinstance(spec, Spec) else read_spec(spec)
    return Source(
        name=spec.name,
        folders=spec.visits.folders,
        stay_tables=(spec.visits.table,),
        read_stays=partial(_read_stays, spec),
        codes=tuple(_code_events(part) for part in spec.codes if part.table),
        values=tuple(_value_events(part) for part in spec.values if part.table),
        ledgers_of_stays=_ledgers_of_stays(spec),
        tasks={task.name: _task(task) for task in spec.tasks},
    )


def _ledgers_of_stays(spec: Spec) -> dict[str, str]:
    table, kinds = spec.visits.table, {part.kind for part in spec.codes if part.columns}
    named = {DIAGNOSIS: f"{table} (codes)"} if kinds == {DIAGNOSIS} else {}
    values = any(part.columns for part in spec.values)
    return named | ({LAB: f"{table} (values)"} if values else {})


def _task(spec: TaskSpec) -> Task:
    column = _label(spec)
    return Task(spec.name, spec.title, (column,), lambda visits: visits[column], spec.record)


def _label(spec: TaskSpec) -> str:
    return f"label of {spec.name}"


def _own(column: str) -> str:
    """What a column of the visits' table is called in here."""
    return f"{OWN}{column}"


def _code_events(spec: EventsSpec) -> CodeEvents:
    system = spec.system or spec.kind

    def split(codes: pl.DataFrame) -> pl.DataFrame:
        code = _icd(pl.col("code"), spec.system)
        return codes.select("raw", pl.lit(system).alias("system"), code.alias("code"))

    table, visit, code, subject = str(spec.table), spec.visit, str(spec.code), spec.subject
    return CodeEvents(table, spec.kind, visit, code, split=split, subject=subject, when=_when(spec))


def _value_events(spec: EventsSpec) -> ValueEvents:
    lab = (str(spec.code), *([spec.unit] if spec.unit else []))
    table, visit, value, subject = str(spec.table), spec.visit, str(spec.value), spec.subject
    return ValueEvents(table, visit, lab, value, subject=subject, when=_when(spec))


def _when(spec: EventsSpec) -> When | None:
    return When(spec.time) if spec.time else None


def _icd(code: pl.Expr, system: str | None) -> pl.Expr:
    """ICD codes without a dot; those of ICD-9 with the leading zeros that spreadsheets take."""
    if system == "ICD9":
        padded = code.str.extract(r"^(\d{1,3})", 1).str.zfill(3) + code.str.replace(r"^\d{1,3}", "")
        code = pl.when(code.str.contains(r"^\d{1,2}(\.|$)")).then(padded).otherwise(code)
    if system in ("ICD9", "ICD10"):
        code = code.str.replace(".", "", literal=True).str.to_uppercase()
    return code


def _read_stays(spec: Spec, read: Reader) -> Stays:
    table = spec.visits.table
    rows = _rows(spec, read)
    fate = (
        pl.when(pl.col(schema.SUBJECT_ID).is_null())
        .then(pl.lit("no subject"))
        .when(pl.col(schema.VISIT_ID).is_null())
        .then(pl.lit("no visit id"))
        .when(~pl.col(schema.VISIT_ID).is_first_distinct())
        .then(pl.lit("visit id twice"))
    )
    if spec.visits.start:
        fate = fate.when(pl.col("start").is_null()).then(pl.lit("no start"))
    fate = fate.when(pl.col(LATEST_END) < pl.col("start")).then(pl.lit("end before start"))
    if spec.visits.person:
        persons = as_ids(rows[_own(spec.visits.person)])
        fate = fate.when(pl.lit(persons.is_null())).then(pl.lit("no person"))
    rows = rows.with_columns(fate.otherwise(pl.lit(schema.USED)).alias("outcome"))
    used = rows.filter(pl.col("outcome") == schema.USED)
    visits = used.sort(schema.SUBJECT_ID, "order", schema.VISIT_ID, nulls_last=True)
    oddities: dict[str, int] = {}
    for task in spec.tasks:
        label, more = _labels(table, task, visits)
        visits = visits.with_columns(label)
        oddities |= more
    known = any(task.name == MORTALITY for task in spec.tasks)
    died = pl.col(f"label of {MORTALITY}") if known else pl.lit(None, pl.Boolean)
    visits = visits.with_columns(died=died)
    subjects, more = _subjects(spec, visits, read.groups)
    oddities |= more | _alike(spec, visits) | _mixed(visits)
    codes = [_cells(part, visits) for part in spec.codes if part.columns]
    values = [_cells(part, visits) for part in spec.values if part.columns]
    cells = [_fates(f"{table} (codes)", rows, pl.lit(None)) for _, rows in codes]
    cells += [_fates(f"{table} (values)", rows, _FATE_OF_VALUE) for _, rows in values]
    keep = [schema.SUBJECT_ID, schema.VISIT_ID, "start", "end", "died"]
    keep += ["dod"] if spec.visits.death else []
    keep += [word for word in ID_WORDS if word in visits.columns]
    keep += [LATEST_END] if spec.visits.end else []
    return Stays(
        visits=visits.select(*keep, *(_label(task) for task in spec.tasks)),
        subjects=subjects,
        ledger=count_outcomes(table, rows),
        oddities=oddities,
        codes=pl.concat(map(_codes, codes)) if codes else None,
        values=pl.concat(map(_values, values)) if values else None,
        cells=pl.concat(cells) if cells else None,
    )


def _rows(spec: Spec, read: Reader) -> pl.DataFrame:
    """The visits' table: its own columns as text, subject_id, visit_id, order, start, end, dod."""
    visits = spec.visits
    columns = [visits.subject, visits.visit, visits.order, visits.person, visits.split]
    columns += [visits.start, visits.end, visits.death] if visits.null else [visits.end]
    columns += [group.column for group in spec.groups]
    columns += [name for task in spec.tasks for name in (task.column, *task.unknown)]
    columns += [name for part in (*spec.codes, *spec.values) for name in part.columns]
    texts: dict[str, ColumnKind] = dict.fromkeys((name for name in columns if name), "text")
    texts_of = read(visits.table, texts).rename(_own)
    rows = texts_of.with_columns(
        pl.when(~pl.col(name).is_in(visits.null)).then(pl.col(name)).alias(name)
        for name in texts_of.columns
    )
    ids = _ids(rows, visits.subject, schema.SUBJECT_ID, SUBJECT_WORD)
    if visits.subject is None:
        # A table of labels cannot know our numbers.
        ids.append(pl.lit(None, pl.String).alias(SUBJECT_WORD))
    ids += _ids(rows, visits.visit, schema.VISIT_ID, VISIT_WORD)
    named = rows.with_columns(*ids, *_times(spec, read, texts_of))
    # A subject's death is that of each of the visits, whichever of them says it.
    of_subject = pl.col("dod").min().over(schema.SUBJECT_ID)
    named = named.with_columns(pl.col("dod").fill_null(of_subject))
    order = _order(spec, read, rows[_own(visits.order)]) if visits.order else named["start"]
    return named.with_columns(order.alias("order"))


def _times(spec: Spec, read: Reader, texts: pl.DataFrame) -> list[pl.Series | pl.Expr]:
    """start, end, dod and `LATEST_END`: of `texts` where words say nothing, else read as times."""
    visits = spec.visits
    columns = {"start": visits.start, "end": visits.end, "dod": visits.death}
    asked = [column for column in columns.values() if column]
    nulls = visits.null
    worded = {name for name in asked if nulls and texts[_own(name)].is_in(nulls).any()}
    kinds: dict[str, ColumnKind] = dict.fromkeys((n for n in asked if n not in worded), "time")
    times = read(visits.table, kinds) if kinds else pl.DataFrame()
    found: list[pl.Series | pl.Expr] = []
    for name, column in columns.items():
        if column is None:
            found.append(pl.lit(None, pl.Datetime("us")).alias(name))
        elif column in worded:
            found.append(_worded_times(spec, read, texts[_own(column)]).alias(name))
        else:
            found.append(times[column].alias(name))
    return [*found, _latest_end(spec, texts, found[1])]


def _latest_end(spec: Spec, texts: pl.DataFrame, ends: pl.Series | pl.Expr) -> pl.Series | pl.Expr:
    if spec.visits.end is None or isinstance(ends, pl.Expr):
        return pl.lit(None, pl.Datetime("us")).alias(LATEST_END)
    written = texts[_own(spec.visits.end)]
    return latest_ends(ends, (written.str.len_chars() <= A_DATE).fill_null(value=False))


def _worded_times(spec: Spec, read: Reader, text: pl.Series) -> pl.Series:
    text = text.set(text.is_in(spec.visits.null), None)
    times = times_of(text)
    for odd in (times.is_null() & text.is_not_null()).arg_true().head(1):
        raise _wrong(spec, read, text, odd, "a time such as 2180-05-06 22:23:00")
    return times


def _ids(rows: pl.DataFrame, column: str | None, id_: str, word: str) -> list[pl.Series | pl.Expr]:
    """Ids of `column` as numbers (`id_`), and as `word` where those are ours; else the row's."""
    if column is None:
        return [pl.int_range(1, len(rows) + 1, dtype=pl.Int64).alias(id_)]
    numbers, words = numbered(rows[_own(column)])
    return [numbers.alias(id_), *([] if words is None else [words.alias(word)])]


def _wrong(spec: Spec, read: Reader, text: pl.Series, row: int, want: str) -> DataError:
    """That a cell of the visits' table is not as wanted."""
    table, number = read.where(spec.visits.table, row)
    column = text.name.removeprefix(OWN)
    return DataError(table=table, column=column, row=number, want=want, got=repr(text[row]))


def _order(spec: Spec, read: Reader, text: pl.Series) -> pl.Series:
    """What sorts as numbers do, whole or not, or else as texts; raises `DataError` for a mixture.

    As texts 10 comes before 9: one odd cell would turn everybody's visits around.
    """
    for numbers in (whole_numbers(text), text.cast(pl.Float64, strict=False)):
        if numbers.null_count() == text.null_count():
            return numbers
    if numbers.count():
        odd = (numbers.is_null() & text.is_not_null()).arg_true()[0]
        raise _wrong(spec, read, text, odd, "a number, as in other rows, or text in all of them")
    return text


def _labels(table: str, task: TaskSpec, visits: pl.DataFrame) -> tuple[pl.Series, dict[str, int]]:
    word = pl.col(_own(task.column))
    known = pl.when(word.is_in(task.true)).then(True).when(word.is_in(task.false)).then(False)
    excluded = pl.lit(value=False)
    for column, words in task.unknown.items():
        excluded |= pl.col(_own(column)).is_in(words).fill_null(value=False)
    frame = visits.select(label=known.otherwise(None), excluded=excluded, word=word)
    odd = frame["word"].is_not_null() & frame["label"].is_null()
    if len(frame) and not frame["label"].is_not_null().any():
        got = ", ".join(frame["word"].drop_nulls().unique().sort()[:4]) or "nothing"
        want = " or ".join((*task.true, *task.false))
        raise DataError(table=table, column=task.column, want=want, got=got)
    label = frame.select(pl.when(~pl.col("excluded")).then("label")).to_series()
    oddities = {f"{task.name}: neither true nor false (unknown)": int(odd.sum())}
    if task.unknown:
        oddities[f"{task.name}: left out by {', '.join(task.unknown)}"] = int(
            frame["excluded"].sum()
        )
    return label.alias(_label(task)), oddities


def _subjects(
    spec: Spec, visits: pl.DataFrame, groups: GroupSettings
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Each subject's groups at the first visit."""
    first = visits.group_by(schema.SUBJECT_ID, maintain_order=True).first()
    made, oddities = [first[schema.SUBJECT_ID]], {}
    if spec.visits.person:
        persons, _ = numbered(first[_own(spec.visits.person)])
        made.append(persons.alias(schema.PERSON_ID))
    if spec.visits.split:
        split = _own(spec.visits.split)
        made.append(first[split].alias(schema.SPLIT))
        name = "subjects in two splits (the first visit's is used)"
        oddities[name] = _with_several(visits, split)
    for group in spec.groups:
        column, unknown = _group(group, first[_own(group.column)], groups)
        made.append(column)
        if group.kind != "value":
            what = f"{OTHER_RACE}" if group.kind == "race" else "Unknown"
            oddities[f"subjects whose {group.name} is not understood ({what})"] = unknown
        name = f"subjects with two values of {group.column} (the first visit's is used)"
        oddities[name] = _with_several(visits, _own(group.column))
    return pl.DataFrame(made), oddities


def _with_several(visits: pl.DataFrame, column: str) -> int:
    """How many subjects have visits of different values; null is none."""
    values = pl.col(column).drop_nulls().n_unique()
    several = visits.group_by(schema.SUBJECT_ID).agg(values.alias("values"))
    return int((several["values"] > 1).sum())


def _alike(spec: Spec, visits: pl.DataFrame) -> dict[str, int]:
    """How many ids of subjects are written in another way as well (`007` and `7`)."""
    if spec.visits.subject is None or SUBJECT_WORD in visits.columns:
        return {}
    ways = (
        as_ids(visits[_own(spec.visits.subject)]).n_unique() - visits[schema.SUBJECT_ID].n_unique()
    )
    return {"ids of subjects that are the same number, written otherwise (taken as one)": ways}


def _mixed(visits: pl.DataFrame) -> dict[str, int]:
    """How many ids are words where others are whole numbers: they may be no ids at all."""
    oddities = {}
    for what, column in (("subjects", SUBJECT_WORD), ("visits", VISIT_WORD)):
        words = visits[column].drop_nulls().unique() if column in visits.columns else pl.Series()
        odd = whole_numbers(words.cast(pl.String)).null_count()
        if 0 < odd < len(words):
            oddities[f"ids of {what} that are words, where others are whole numbers"] = odd
    return oddities


def _group(spec: GroupSpec, words: pl.Series, groups: GroupSettings) -> tuple[pl.Series, int]:
    words = words.replace(dict(spec.values)) if spec.values else words
    if spec.kind == "race":
        race, unknown = groups.race_group(words)
        return race.alias(spec.name), unknown
    if spec.kind == "age":
        number = pl.lit(words.cast(pl.Float64, strict=False))
        # In polars, what is not a number is above all ages.
        years = pl.select(age=pl.when(number.is_finite()).then(number.floor()))
        band = years.select(groups.age_band(pl.col("age"))).to_series()
        return band.alias(spec.name), years["age"].null_count() - words.null_count()
    return words.fill_null("Unknown").alias(spec.name), 0


def _cells(part: EventsSpec, visits: pl.DataFrame) -> tuple[EventsSpec, pl.DataFrame]:
    """One row for each visit and column: visit_id, column, word (null where the spec says so)."""
    long = visits.select(schema.VISIT_ID, *map(_own, part.columns)).unpivot(
        index=schema.VISIT_ID, variable_name="column", value_name="word"
    )
    long = long.with_columns(pl.col("column").str.strip_prefix(OWN))
    return part, long.with_columns(pl.when(~pl.col("word").is_in(part.null)).then(pl.col("word")))


def _codes(cells: tuple[EventsSpec, pl.DataFrame]) -> pl.DataFrame:
    part, rows = cells
    rows = rows.drop_nulls("word")
    word = _icd(pl.col("word"), part.system)
    code = pl.format("{}={}", "column", word) if part.name == "column=value" else word
    return rows.select(
        schema.VISIT_ID,
        pl.lit(part.kind).alias("kind"),
        pl.lit(part.system or part.kind).alias("system"),
        code.alias("code"),
    )


def _values(cells: tuple[EventsSpec, pl.DataFrame]) -> pl.DataFrame:
    _, rows = cells
    value = pl.col("word").cast(pl.Float64, strict=False)
    rows = rows.select(schema.VISIT_ID, pl.col("column").alias("lab"), value.alias("value"))
    return rows.filter(pl.col("value").is_finite().fill_null(value=False))


_FATE_OF_VALUE: Final = (
    pl.when(pl.col("number").is_null())
    .then(pl.lit("value is not a number"))
    .when(~pl.col("number").is_finite())
    .then(pl.lit("value is not finite"))
)


def _fates(table: str, cells: pl.DataFrame, fate: pl.Expr) -> pl.DataFrame:
    """`Stays.cells` of such cells, whose `fate` is null if they are used."""
    nothing = "no numeric value" if table.endswith("(values)") else "no code"
    number = pl.col("word").cast(pl.Float64, strict=False)
    judged = pl.when(pl.col("word").is_null()).then(pl.lit(nothing)).otherwise(fate)
    return cells.with_columns(number=number).select(
        schema.VISIT_ID,
        pl.lit(table).alias("table"),
        pl.coalesce(judged, pl.lit(schema.USED)).alias("outcome"),
    )
