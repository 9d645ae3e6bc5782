"""MEDS 0.4: `data/**/*.parquet`, `metadata/codes.parquet`, `metadata/subject_splits.parquet`.

What is odd: MEDS has no visits, so how they are found is declared in `MedsSettings`. MIMIC_IV_MEDS
writes each lab twice (specimen taken, result) and stamps diagnoses at discharge; its MEDS_DEATH is
any death. A discharge need not say how it ended: then a death within the visit decides, and any
other by the end of its last day leaves it open, for a death may have a date only. eICU_MEDS 0.1.0
stores the hospital's number in `hadm_id`, which is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import polars as pl

from equipoise import schema
from equipoise.errors import DataError
from equipoise.sources.attach import check_columns, check_ids, damaged, ids_of, scan
from equipoise.sources.declaration import (
    Dictionary,
    MixedEvents,
    Reader,
    Source,
    Stays,
    When,
    plain_fields,
)
from equipoise.tasks import OTHER_RACE, GroupSettings

DATA: Final = "data"
CODES: Final = "metadata/codes"
SPLITS: Final = "metadata/subject_splits"
BIRTH: Final = "MEDS_BIRTH"
DEATH: Final = "MEDS_DEATH"
BY_CODES: Final = "codes"
#: What follows the name of a discharge that says nothing, up to the next `//`.
SILENT: Final = ("", "UNK", "UNKNOWN")
HADM_ID: Final = "hadm_id"
ICD: Final = r"(?i)^(?:(diagnosis|procedure)//)?ICD(?://)?(9|10)(CM|PCS|PROC)?(?://|/)([A-Z0-9.]+)$"


@dataclass(frozen=True)
class MedsSettings:
    """How a MEDS dataset is read. Codes are named by how they begin.

    visits: the column of visit ids, `codes` to pair admissions with discharges by time, or None:
    `hadm_id` where the data have it, else `codes`.
    admission, discharge: codes that open and close a visit; of several that a code begins with the
    longest is its name. died: how what follows the name of a discharge begins that says so.
    groups: for each group the codes that give it (`race` goes through the table of races).
    left_out: codes that never become features, with the reason that the ledger gives. Groups and
    what opens and closes a visit are left out in any case.
    keep: if any, only codes that begin so become features.
    """

    visits: str | None = None
    admission: tuple[str, ...] = ("HOSPITAL_ADMISSION",)
    discharge: tuple[str, ...] = ("HOSPITAL_DISCHARGE",)
    died: tuple[str, ...] = ("DIED", "EXPIRED", "DEAD")
    groups: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {
            "sex": ("GENDER//", "SEX//"),
            "race": ("RACE//", "ETHNICITY//"),
            "insurance": ("INSURANCE//",),
        }
    )
    left_out: Mapping[str, str] = field(
        default_factory=lambda: {
            BIRTH: "birth or death",
            DEATH: "birth or death",
            "LANGUAGE//": "demographic",
            "MARITAL_STATUS//": "demographic",
            "LAB//SPECIMEN_COLLECTED//": "specimen of a lab that stands as its result",
            # They are assigned after discharge, and some of them say that the patient died.
            "DRG//": "billed after the visit",
        }
    )
    keep: tuple[str, ...] = ()


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
        lab_ledger=f"{DATA} (values)",
        settings={"settings": plain_fields(settings)},
    )


def _visit_column(settings: MedsSettings, read: Reader) -> str | None:
    files = read.files(DATA)
    check_columns(files, [schema.SUBJECT_ID, "time", "code", "numeric_value"])
    if settings.visits is None:
        return HADM_ID if HADM_ID in scan(files[:1]).collect_schema() else None
    if settings.visits == BY_CODES:
        return None
    check_columns(files, [settings.visits])
    return settings.visits


def _events(settings: MedsSettings, read: Reader) -> MixedEvents:
    files = read.files(DATA)
    unit = ("unit",) if "unit" in scan(files[:1]).collect_schema() else ()
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


def name_codes(settings: MedsSettings, codes: pl.DataFrame) -> pl.DataFrame:
    """What each code (column `code`) is called: kind, system, name, and why it is `dropped`.

    ICD codes in MIMIC_IV_MEDS's and in the vocabularies' spelling lose their dot and are kinds
    `diagnosis` and `procedure`; elsewhere the part before the first `//` is the system.
    """
    code = pl.col("code")
    parts = code.str.splitn("//", 2).struct.rename_fields(["first", "rest"])
    frame = codes.select("code", parts.alias("parts"), code.str.extract_groups(ICD).alias("icd"))
    frame = frame.unnest("parts").with_columns(
        what=pl.col("icd").struct["1"].str.to_lowercase(),
        version=pl.col("icd").struct["2"],
        variant=pl.col("icd").struct["3"].str.to_uppercase(),
        icd=pl.col("icd").struct["4"].str.replace_all(".", "", literal=True),
    )
    is_icd = pl.col("icd").is_not_null()
    procedure = (pl.col("what") == "procedure") | pl.col("variant").is_in(["PCS", "PROC"])
    first = pl.col("first").str.to_lowercase()
    kinds = ["diagnosis", "procedure", "medication"]
    return frame.select(
        "code",
        kind=pl.when(is_icd & procedure.fill_null(value=False))
        .then(pl.lit("procedure"))
        .when(is_icd)
        .then(pl.lit("diagnosis"))
        .when(first.is_in(kinds) & pl.col("rest").is_not_null())
        .then(first)
        .otherwise(pl.lit("event")),
        system=pl.when(is_icd)
        .then("ICD" + pl.col("version"))
        .when(pl.col("rest").is_not_null())
        .then("first")
        .otherwise(pl.lit("code")),
        name=pl.coalesce("icd", "rest", "first"),
        dropped=_dropped(settings),
    )


def _dropped(settings: MedsSettings) -> pl.Expr:
    demographic = [name for names in settings.groups.values() for name in names]
    reasons = [
        *((start, "opens or closes a visit") for start in settings.admission + settings.discharge),
        *((start, "demographic") for start in demographic),
        *settings.left_out.items(),
    ]
    code = pl.col("code")
    dropped = [pl.when(code.str.starts_with(start)).then(pl.lit(why)) for start, why in reasons]
    if settings.keep:
        dropped.append(pl.when(~_starts(settings.keep)).then(pl.lit("not asked for")))
    return pl.coalesce(*dropped, pl.lit(None, pl.String))


def _starts(starts: Sequence[str]) -> pl.Expr:
    return pl.any_horizontal(pl.col("code").str.starts_with(start) for start in starts)


def _read_stays(settings: MedsSettings, read: Reader) -> Stays:
    visit = _visit_column(settings, read)
    files = read.files(DATA)
    if visit:
        check_ids(files, visit)
    rows = scan(files)
    ids = ids_of(rows, visit) if visit else pl.lit(None, pl.Int64)
    rows = rows.select(
        pl.col(schema.SUBJECT_ID).cast(pl.Int64),
        pl.col("time").cast(pl.Datetime("us")),
        "code",
        ids.alias(schema.VISIT_ID),
    )
    wanted = [name for names in settings.groups.values() for name in names]
    wanted += [*settings.admission, *settings.discharge, BIRTH, DEATH]
    try:
        marks = rows.filter(_starts(wanted)).collect(engine="streaming")
        spans = _spans(rows).collect(engine="streaming") if visit else None
    except pl.exceptions.PolarsError as error:
        raise damaged(files, error) from None
    marks = marks.with_columns(**_meanings(settings))
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


def _meanings(settings: MedsSettings) -> dict[str, pl.Expr]:
    """Whether a code opens or closes a visit, and what a discharge says of the outcome."""
    rest = _behind_name(settings.discharge)
    return {
        "opens": _starts(settings.admission),
        "closes": _starts(settings.discharge),
        "died": pl.any_horizontal(rest.str.starts_with(word) for word in settings.died),
        "silent": rest.str.split("//").list.first().is_in(SILENT),
    }


def _behind_name(names: Sequence[str]) -> pl.Expr:
    """What follows the longest of `names` that a code begins with; null where none does."""
    code = pl.col("code")
    rests = [
        pl.when(code.str.starts_with(name)).then(_rest(code.str.strip_prefix(name), name))
        for name in sorted(names, key=len, reverse=True)
    ]
    return pl.coalesce(*rests, pl.lit(None, pl.String))


def _rest(tail: pl.Expr, name: str) -> pl.Expr:
    """A code's tail behind `name`, without the `//` between them.

    A name that does not end with a mark of its own may be cut (`DISCH`): it goes on to that `//`.
    """
    if not name[-1:].isalnum():
        return tail.str.strip_prefix("//")
    return tail.str.splitn("//", 2).struct["field_1"].fill_null("")


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
        found = marks.filter(_starts(starts))
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
