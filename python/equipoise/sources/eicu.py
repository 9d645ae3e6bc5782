"""eICU-CRD 2.0: a subject is a hospital stay, its visits are its unit stays.

What is odd: one person's hospital stays within a year have no order, so that they cannot be one
record; `uniquepid` keeps them together in every split. Ages above 89 are "> 89". The outcome is the
hospital stay's, repeated on every unit stay, and at times empty. A cell of `icd9code` holds several
codes, ICD-9 ones before their ICD-10 equivalents. There are no dates but minutes since the
admission to the unit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import polars as pl

from equipoise import schema
from equipoise.errors import DataError, UsageError
from equipoise.sources.declaration import (
    CodeEvents,
    ColumnKind,
    Reader,
    Source,
    Stays,
    ValueEvents,
    When,
    as_whole,
    count_outcomes,
)
from equipoise.tasks import OTHER_RACE, GroupSettings

PATIENT: Final[Mapping[str, ColumnKind]] = {
    "patientunitstayid": "id",
    "patienthealthsystemstayid": "id",
    "uniquepid": "text",
    "unitvisitnumber": "integer",
    "gender": "text",
    "age": "text",
    "ethnicity": "text",
    "hospitaldischargestatus": "text",
}
NAMES: Final = {
    "patientunitstayid": schema.VISIT_ID,
    "patienthealthsystemstayid": schema.SUBJECT_ID,
}
FATES: Final = {"Expired": True, "Alive": False}
SEXES: Final = ("Female", "Male", "Other")
#: Who is "> 89" counts as this old.
OLDEST: Final = 90


def read_stays(read: Reader) -> Stays:
    """Unit stays as visits, hospital stays as subjects, groups by the first unit stay.

    Raises `UsageError` for a band of ages that "> 89" cannot be told to be in.
    """
    if read.groups.age_cuts[-1] >= OLDEST:
        cut = read.groups.age_cuts[-1]
        raise UsageError(f"age cuts: eICU says no more than > {OLDEST - 1}, got {cut}")
    stays = read("patient", PATIENT).rename(NAMES)
    stays = stays.with_columns(
        _age(read, stays["age"]),
        outcome=pl.when(~pl.col(schema.VISIT_ID).is_first_distinct())
        .then(pl.lit("visit id twice"))
        .when(pl.col("uniquepid").is_null())
        .then(pl.lit("no person"))
        .otherwise(pl.lit(schema.USED)),
    )
    order = (schema.SUBJECT_ID, "unitvisitnumber", schema.VISIT_ID)
    visits = stays.filter(pl.col("outcome") == schema.USED).sort(order, nulls_last=True)
    died = pl.col("hospitaldischargestatus").replace_strict(
        FATES, default=None, return_dtype=pl.Boolean
    )
    last = pl.col(schema.VISIT_ID) == pl.col(schema.VISIT_ID).last().over(schema.SUBJECT_ID)
    nothing = pl.lit(None, pl.Datetime("us"))
    visits = visits.with_columns(
        outcome_of_stay=died,
        # Who came to another unit did not die in this one.
        died=pl.when(last).then(died).otherwise(pl.lit(value=False)),
        start=nothing,
        end=nothing,
    )
    subjects, oddities = _subjects(visits, read.groups)
    return Stays(
        visits=visits.select(schema.SUBJECT_ID, schema.VISIT_ID, "start", "end", "died"),
        subjects=subjects,
        ledger=count_outcomes("patient", stays),
        oddities=oddities,
    )


def _age(read: Reader, text: pl.Series) -> pl.Series:
    """Whole years; "> 89" is 90, an empty cell null. Raises `DataError` for anything else."""
    years = text.str.strip_chars().str.replace(r"^> *89$", str(OLDEST)).replace("", None)
    years = years.str.replace(r"\.0*$", "")  # As a column of floats writes them.
    age = years.cast(pl.Int64, strict=False)
    wrong = (age.is_null() & years.is_not_null()).arg_true()
    for place in wrong.head(1):
        table, row = read.where("patient", place)
        want, got = "whole years or > 89", text[place]
        raise DataError(table=table, column="age", row=row, want=want, got=got)
    return age.alias("age")


def _subjects(visits: pl.DataFrame, groups: GroupSettings) -> tuple[pl.DataFrame, dict[str, int]]:
    first = visits.group_by(schema.SUBJECT_ID, maintain_order=True).first()
    race, unknown = groups.race_group(first["ethnicity"])
    sex = pl.when(pl.col("gender").is_in(SEXES)).then(pl.col("gender"))
    subjects = first.select(
        schema.SUBJECT_ID,
        # A number for each person that does not depend on which other columns are read.
        (pl.col("uniquepid").rank("dense").cast(pl.Int64) - 1).alias(schema.PERSON_ID),
        sex=sex.fill_null("Unknown"),
        race=race,
        age_band=groups.age_band(pl.col("age")),
    )
    status = pl.col("hospitaldischargestatus")
    last = visits.group_by(schema.SUBJECT_ID).last()["outcome_of_stay"]
    mixed = visits.group_by(schema.SUBJECT_ID).agg(status.n_unique())["hospitaldischargestatus"]
    died_later = pl.col("outcome_of_stay") & ~pl.col("died")
    strange = status.is_not_null() & pl.col("outcome_of_stay").is_null()
    changing = {"sex": "gender", "race": "ethnicity", "person": "uniquepid"}
    several = visits.group_by(schema.SUBJECT_ID).agg(
        (pl.col(column).drop_nulls().n_unique() > 1).alias(name)
        for name, column in changing.items()
    )
    oddities = {
        "unit stays with an unknown hospital outcome": visits["outcome_of_stay"].null_count(),
        "hospital stays with an unknown outcome (no label)": last.null_count(),
        "unit stays before the one in which the patient died (label false)": int(
            visits.select(died_later.sum()).item()
        ),
        "hospital stays with two outcomes (the last unit stay's is used)": int((mixed > 1).sum()),
        "unit stays whose hospitaldischargestatus is not understood (unknown)": int(
            visits.select(strange.sum()).item()
        ),
        f"hospital stays whose ethnicity is not in the table of races ({OTHER_RACE})": unknown,
    }
    for name in changing:
        what = f"hospital stays with two values of {name} (the first unit stay's is used)"
        oddities[what] = int(several[name].sum())
    return subjects, oddities


def split_icd(codes: pl.DataFrame) -> pl.DataFrame:
    """Cells such as "401.9, I10" (raw, code) as rows (raw, system, code), without dots.

    ICD-9 is told by its shape: three digits before the dot, V and two, E and three; one or two
    digits are an ICD-9 procedure. Any other letter, or an E with two digits, is ICD-10.
    """
    rows = codes.select(
        "raw",
        pl.col("code")
        .str.replace_all(";", ",", literal=True)
        .str.split(",")
        .list.eval(pl.element().str.strip_chars()),
    ).explode("code")
    rows = rows.filter(pl.col("code") != "").with_columns(pl.col("code").str.to_uppercase())
    system = (
        pl.when(pl.col("code").str.contains(r"^(\d{3}|V\d\d|E\d{3})(\.|$)"))
        .then(pl.lit("ICD9"))
        .when(pl.col("code").str.contains(r"^\d{1,2}(\.|$)"))
        .then(pl.lit("ICD9PROC"))
        .when(pl.col("code").str.contains(r"^[A-Z]\d[0-9A-Z]"))
        .then(pl.lit("ICD10"))
        .otherwise(pl.lit("unknown"))
    )
    return rows.select(
        "raw", system.alias("system"), pl.col("code").str.replace(".", "", literal=True)
    )


def _one_system(name: str) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda codes: codes.select("raw", pl.lit(name).alias("system"), as_whole("code"))


CODES: Final[Mapping[str, CodeEvents]] = {
    events.kind: events
    for events in (
        CodeEvents(
            table="diagnosis",
            kind="diagnosis",
            visit="patientunitstayid",
            code="icd9code",
            split=split_icd,
            when=When("diagnosisoffset", "minutes"),
        ),
        # The drug's number in First Databank: names stand with their doses, and are often empty.
        CodeEvents(
            table="medication",
            kind="medication",
            visit="patientunitstayid",
            code="drughiclseqno",
            split=_one_system("HICL"),
            when=When("drugstartoffset", "minutes"),
        ),
        CodeEvents(
            table="treatment",
            kind="treatment",
            visit="patientunitstayid",
            code="treatmentstring",
            when=When("treatmentoffset", "minutes"),
        ),
    )
}


def eicu_source(codes: Sequence[str] = ("diagnosis",)) -> Source:
    """The source with these kinds of codes; raises `UsageError` for one that it does not have."""
    for kind in codes:
        if kind not in CODES:
            raise UsageError(f"eicu has no codes of kind {kind!r}; there are {', '.join(CODES)}")
    return Source(
        name="eicu",
        # The open demo's tables lie in the root, and its labs in a folder of their own.
        folders=(".", "lab_derived"),
        stay_tables=("patient",),
        read_stays=read_stays,
        codes=tuple(CODES[kind] for kind in dict.fromkeys(codes)),
        values=(
            ValueEvents(
                table="lab",
                visit="patientunitstayid",
                lab=("labname", "labmeasurenamesystem"),
                value="labresult",
                when=When("labresultoffset", "minutes"),
            ),
        ),
    )
