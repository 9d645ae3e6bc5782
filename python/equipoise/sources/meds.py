"""MEDS 0.4: `data/**/*.parquet`, `metadata/codes.parquet`, `metadata/subject_splits.parquet`.

What is odd: MEDS has no visits, so how they are found is declared in `MedsSettings`. MIMIC_IV_MEDS
writes each lab twice (specimen taken, result) and stamps diagnoses at discharge; its MEDS_DEATH is
any death. A discharge need not say how it ended: then a death within the visit decides, and any
other by the end of its last day leaves it open, for a death may have a date only. eICU_MEDS 0.1.0
stores the hospital's number in `hadm_id`, which is refused.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import polars as pl

from equipoise import schema
from equipoise.errors import DataError
from equipoise.sources.attach import (
    check_columns,
    check_ids,
    columns_of,
    damaged,
    ids_of,
    scan,
)
from equipoise.sources.declaration import (
    LAB,
    Dictionary,
    MixedEvents,
    Reader,
    Source,
    Stays,
    When,
    plain_fields,
)
from equipoise.sources.meds_codes import (
    BIRTH,
    BY_CODES,
    DEATH,
    MedsSettings,
    begins_with,
    meanings,
    name_codes,
)
from equipoise.tasks import OTHER_RACE, GroupSettings

DATA: Final = "data"
CODES: Final = "metadata/codes"
SPLITS: Final = "metadata/subject_splits"
HADM_ID: Final = "hadm_id"


def meds_source(settings: MedsSettings | None = None) -> Source:
    """The source with these settings."""
    settings = settings or MedsSettings()
    return Source(
        name="meds",
        folders=(".",),
        stay_tables=(DATA, CODES, SPLITS),
        read_stays=partial(_read_stays, settings),
        mixed=partial(_events, settings),
        optional=(CODES, SPLITS),
        ledgers_of_stays={LAB: f"{DATA} (values)"},
        settings={"settings": plain_fields(settings)},
    )


def _visit_column(settings: MedsSettings, read: Reader) -> str | None:
    files = read.files(DATA)
    visits = settings.visits
    if visits is None:
        visits = HADM_ID if any(HADM_ID in columns_of(file) for file in files) else BY_CODES
    column = [] if visits == BY_CODES else [visits]
    check_columns(files, [schema.SUBJECT_ID, "time", "code", "numeric_value", *column])
    return column[0] if column else None


def _events(settings: MedsSettings, read: Reader) -> MixedEvents:
    unit = ("unit",) if any("unit" in columns_of(file) for file in read.files(DATA)) else ()
    return MixedEvents(
        table=DATA,
        visit=_visit_column(settings, read),
        subject=schema.SUBJECT_ID,
        lab=("code", *unit),
        value="numeric_value",
        when=When("time"),
        name_codes=partial(name_codes, settings),
        dictionary=Dictionary(CODES, ("code",), ("description",)) if _filled(read, CODES) else None,
    )


def _filled(read: Reader, table: str) -> bool:
    """Whether an optional table is there and has a row."""
    return read.has(table) and not scan(read.files(table)).head(1).collect().is_empty()


def _read_stays(settings: MedsSettings, read: Reader) -> Stays:
    visit = _visit_column(settings, read)
    files = read.files(DATA)
    check_ids(files, schema.SUBJECT_ID)
    if visit:
        check_ids(files, visit)
    rows = scan(files)
    ids = ids_of(rows, visit) if visit else pl.lit(None, pl.Int64)
    rows = rows.select(
        ids_of(rows, schema.SUBJECT_ID),
        pl.col("time").cast(pl.Datetime("us")),
        "code",
        ids.alias(schema.VISIT_ID),
    )
    wanted = [name for names in settings.groups.values() for name in names]
    wanted += [*settings.admission, *settings.discharge, BIRTH, DEATH]
    try:
        marks = rows.filter(begins_with(wanted)).collect(engine="streaming")
        spans = _spans(rows).collect(engine="streaming") if visit else None
    except pl.exceptions.PolarsError as error:
        raise damaged(files, error) from None
    marks = marks.with_columns(**meanings(settings))
    if spans is None:
        visits, oddities = _visits_by_time(marks)
    else:
        visits, oddities = _visits_by_id(marks, spans, str(visit)), {}
    if visits.is_empty():
        starts = ", ".join(settings.admission)
        raise DataError(
            table=DATA, column="code", want=f"codes that begin with {starts}", got="no visit"
        )
    death = marks.filter(pl.col("code") == DEATH).group_by(schema.SUBJECT_ID)
    visits = visits.join(death.agg(dod=pl.col("time").min()), on=schema.SUBJECT_ID, how="left")
    oddities[f"discharges that do not say the outcome ({DEATH} does, or it is unknown)"] = int(
        visits["silent"].sum()
    )
    visits = visits.with_columns(died=_outcome(visits["dod"].is_not_null().any()))
    visits = visits.sort(schema.SUBJECT_ID, "start", schema.VISIT_ID)
    subjects, more = _subjects(settings, marks, visits, read.groups)
    if _filled(read, SPLITS):
        splits = _splits(read)
        subjects = subjects.join(splits, on=schema.SUBJECT_ID, how="left", maintain_order="left")
    ledger = pl.DataFrame(schema=dict(schema.LEDGER))
    return Stays(visits, subjects, ledger, {**oddities, **more})


def _outcome(deaths_are_recorded: bool) -> pl.Expr:
    """Whether the patient died in the visit, as far as discharge and death say."""
    dod, end = pl.col("dod"), pl.col("end")
    by_death = (
        pl.when((dod >= pl.col("start")) & (dod <= end))
        .then(pl.lit(value=True))
        .when((dod.dt.date() <= end.dt.date()).fill_null(value=False))
        .then(pl.lit(None, pl.Boolean))
        .otherwise(pl.lit(value=False) if deaths_are_recorded else pl.lit(None, pl.Boolean))
    )
    return pl.when("silent").then(by_death).otherwise("died")


def _spans(rows: pl.LazyFrame) -> pl.LazyFrame:
    of_visit = rows.filter(pl.col(schema.VISIT_ID).is_not_null()).group_by(schema.VISIT_ID)
    return of_visit.agg(
        pl.col(schema.SUBJECT_ID).min(),
        other=pl.col(schema.SUBJECT_ID).max(),
        first=pl.col("time").min(),
        last=pl.col("time").max(),
    )


def _visits_by_id(marks: pl.DataFrame, spans: pl.DataFrame, column: str) -> pl.DataFrame:
    """One visit for each id, from its admission (or first event) to its discharge (or last)."""
    shared = spans.filter(pl.col("other") != pl.col(schema.SUBJECT_ID)).sort(schema.VISIT_ID)
    if len(shared):
        raise DataError(
            table=DATA,
            column=column,
            want="visit ids that belong to one subject each",
            got=f"{len(shared)} that several share, such as {shared[schema.VISIT_ID][0]}",
            hint="Name the column of visit ids, or have visits found by admission codes",
        )
    bounds = marks.group_by(schema.VISIT_ID).agg(
        opened=pl.col("time").filter("opens").min(),
        closed=pl.col("time").filter("closes").max(),
        died=pl.col("died").filter("closes").any(),
        silent=pl.col("silent").filter("closes").all() & pl.col("closes").any(),
        known=pl.col("closes").any(),
    )
    visits = spans.join(bounds, on=schema.VISIT_ID, how="left")
    return visits.select(
        schema.SUBJECT_ID,
        schema.VISIT_ID,
        start=pl.coalesce("opened", "first"),
        end=pl.coalesce("closed", "last"),
        died=pl.when("known").then("died"),
        silent=pl.col("silent").fill_null(value=False),
    )


def _visits_by_time(marks: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """Each admission with the next discharge, if no other admission stands between them."""
    opened = marks.filter(pl.col("opens") & pl.col("time").is_not_null())
    opened = opened.unique([schema.SUBJECT_ID, "time"]).sort(schema.SUBJECT_ID, "time")
    closed = marks.filter(pl.col("closes") & pl.col("time").is_not_null())
    ends = closed.group_by(schema.SUBJECT_ID, "time")
    closed = ends.agg(pl.col("died").any(), pl.col("silent").all())
    visits = opened.select(
        schema.SUBJECT_ID,
        pl.col("time").alias("start"),
        pl.col("time").shift(-1).over(schema.SUBJECT_ID).alias("next"),
    ).with_row_index(schema.VISIT_ID)
    joined = visits.sort("start").join_asof(
        closed.sort("time").rename({"time": "end"}),
        left_on="start",
        right_on="end",
        by=schema.SUBJECT_ID,
        strategy="forward",
        # A discharge at the very moment of an admission ends the visit before it.
        allow_exact_matches=False,
        check_sortedness=False,
    )
    whole = pl.col("end").is_not_null() & (pl.col("end") <= pl.col("next")).fill_null(value=True)
    found = joined.filter(whole).select(
        schema.SUBJECT_ID, pl.col(schema.VISIT_ID).cast(pl.Int64), "start", "end", "died", "silent"
    )
    return found, {
        "admissions without a discharge before the next one (no visit)": len(joined) - len(found),
        "discharges of no admission": len(closed) - len(found),
    }


def _subjects(
    settings: MedsSettings, marks: pl.DataFrame, visits: pl.DataFrame, groups: GroupSettings
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Each subject's groups: the first value in time. A group without any code is not made."""
    first = visits.group_by(schema.SUBJECT_ID, maintain_order=True).first()
    births = marks.filter(pl.col("code") == BIRTH).group_by(schema.SUBJECT_ID)
    birth = births.agg(birth=pl.col("time").min())
    subjects = first.join(birth, on=schema.SUBJECT_ID, how="left", maintain_order="left")
    oddities: dict[str, int] = {}
    names = []
    for name, starts in settings.groups.items():
        found = marks.filter(begins_with(starts))
        if found.is_empty():
            continue
        found = found.sort(schema.SUBJECT_ID, "time", nulls_last=False)
        value = pl.col("code").str.splitn("//", 2).struct["field_1"]
        values = found.group_by(schema.SUBJECT_ID, maintain_order=True).agg(
            value.first().alias(name), value.n_unique().alias("different")
        )
        several = f"subjects with two values of {name} (the first one is used)"
        oddities[several] = int((values["different"] > 1).sum())
        values = values.drop("different")
        subjects = subjects.join(values, on=schema.SUBJECT_ID, how="left", maintain_order="left")
        names.append(name)
    if "race" in names:
        race, unknown = groups.race_group(subjects["race"])
        subjects = subjects.with_columns(race)
        oddities[f"subjects whose race is not in the table of races ({OTHER_RACE})"] = unknown
    return subjects.select(
        schema.SUBJECT_ID,
        *(pl.col(name).fill_null("Unknown") for name in names),
        groups.age_band(_age()).alias("age_band"),
    ), oddities


def _age() -> pl.Expr:
    """Whole years from birth to the first visit."""
    start, birth = pl.col("start").dt, pl.col("birth").dt
    day = start.month().cast(pl.Int32) * 100 + start.day()
    birthday = birth.month().cast(pl.Int32) * 100 + birth.day()
    return start.year() - birth.year() - (day < birthday).cast(pl.Int32)


def _splits(read: Reader) -> pl.DataFrame:
    splits = read(SPLITS, {schema.SUBJECT_ID: "id", schema.SPLIT: "text"})
    twice = splits.filter(splits[schema.SUBJECT_ID].is_duplicated())
    if len(twice):
        raise DataError(
            table=SPLITS,
            column=schema.SUBJECT_ID,
            want="each subject once",
            got=f"{twice[schema.SUBJECT_ID][0]} twice",
        )
    return splits
