"""MIMIC-IV 2.x and 3.x, module `hosp`.

What is odd: `hadm_id` is empty in about 43 % of the lab events; `icd_code` has no decimal point;
some subjects have two values of `race`; some admissions end before they begin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import polars as pl

from equipoise import schema
from equipoise.errors import UsageError
from equipoise.sources.declaration import (
    CodeEvents,
    ColumnKind,
    Dictionary,
    Reader,
    Source,
    Stays,
    ValueEvents,
    When,
    count_outcomes,
)
from equipoise.tasks import OTHER_RACE, GroupSettings

PATIENTS: Final[Mapping[str, ColumnKind]] = {
    "subject_id": "id",
    "gender": "text",
    "anchor_age": "integer",
    "anchor_year": "integer",
    "dod": "time",
}
ADMISSIONS: Final[Mapping[str, ColumnKind]] = {
    "subject_id": "id",
    "hadm_id": "id",
    "admittime": "time",
    "dischtime": "time",
    "insurance": "text",
    "race": "text",
    "hospital_expire_flag": "integer",
}
TIMES: Final = {"admittime": "start", "dischtime": "end"}


def read_stays(read: Reader) -> Stays:
    """Patients and admissions: one visit per admission, groups by the first admission."""
    patients = read("patients", PATIENTS)
    admissions = read("admissions", ADMISSIONS).rename({"hadm_id": schema.VISIT_ID, **TIMES})
    admissions = admissions.with_columns(_fate_of_admission(patients).alias("outcome"))
    visits = (
        admissions.filter(pl.col("outcome") == schema.USED)
        .sort(schema.SUBJECT_ID, "start", schema.VISIT_ID)
        .join(patients.unique(schema.SUBJECT_ID, keep="first"), on=schema.SUBJECT_ID, how="left")
        .with_columns(died=pl.col("hospital_expire_flag").cast(pl.Boolean))
    )
    subjects, oddities = _groups(visits, read.groups)
    patients = patients.with_columns(_fate_of_patient(visits).alias("outcome"))
    return Stays(
        visits=visits.select(schema.SUBJECT_ID, schema.VISIT_ID, "start", "end", "died", "dod"),
        subjects=subjects,
        ledger=pl.concat(
            [count_outcomes("patients", patients), count_outcomes("admissions", admissions)]
        ),
        oddities=oddities,
    )


def _fate_of_admission(patients: pl.DataFrame) -> pl.Expr:
    return (
        pl.when(pl.col("start").is_null())
        .then(pl.lit("no admission time"))
        .when(pl.col("end") < pl.col("start"))
        .then(pl.lit("discharge before admission"))
        .when(~pl.col(schema.SUBJECT_ID).is_in(patients[schema.SUBJECT_ID].implode()))
        .then(pl.lit("unknown subject"))
        .when(pl.col(schema.VISIT_ID).cum_count().over(schema.VISIT_ID) > 1)
        .then(pl.lit("visit id twice"))
        .otherwise(pl.lit(schema.USED))
    )


def _fate_of_patient(visits: pl.DataFrame) -> pl.Expr:
    admitted = pl.col(schema.SUBJECT_ID).is_in(visits[schema.SUBJECT_ID].unique().implode())
    return (
        pl.when(pl.col(schema.SUBJECT_ID).cum_count().over(schema.SUBJECT_ID) > 1)
        .then(pl.lit("subject id twice"))
        .when(admitted)
        .then(pl.lit(schema.USED))
        .otherwise(pl.lit("no admission used"))
    )


def _groups(visits: pl.DataFrame, groups: GroupSettings) -> tuple[pl.DataFrame, dict[str, int]]:
    """Each subject's groups at the first admission, and how many have another value later."""
    first = visits.group_by(schema.SUBJECT_ID, maintain_order=True).first()
    age = pl.col("anchor_age") + pl.col("start").dt.year() - pl.col("anchor_year")
    race, unknown = groups.race_group(first["race"])
    subjects = first.select(
        schema.SUBJECT_ID,
        sex=pl.col("gender").fill_null("Unknown"),
        race=race,
        age_band=groups.age_band(age),
        insurance=pl.col("insurance").fill_null("Unknown"),
    )
    distinct = visits.group_by(schema.SUBJECT_ID).agg(
        pl.col("race").drop_nulls().n_unique(), pl.col("insurance").drop_nulls().n_unique()
    )
    oddities = {
        "subjects with two values of race (the first admission's is used)": int(
            (distinct["race"] > 1).sum()
        ),
        "subjects with two values of insurance (the first admission's is used)": int(
            (distinct["insurance"] > 1).sum()
        ),
        f"subjects whose race is not in the table of races ({OTHER_RACE})": unknown,
    }
    return subjects, oddities


CODES: Final[Mapping[str, CodeEvents]] = {
    events.kind: events
    for events in (
        CodeEvents(
            table="diagnoses_icd",
            kind="diagnosis",
            visit="hadm_id",
            code="icd_code",
            system="icd_version",
            systems={"9": "ICD9", "10": "ICD10"},
            dictionary=Dictionary("d_icd_diagnoses", ("icd_code", "icd_version"), ("long_title",)),
        ),
        CodeEvents(
            table="procedures_icd",
            kind="procedure",
            visit="hadm_id",
            code="icd_code",
            system="icd_version",
            systems={"9": "ICD9PROC", "10": "ICD10PCS"},
            dictionary=Dictionary("d_icd_procedures", ("icd_code", "icd_version"), ("long_title",)),
            when=When("chartdate"),
        ),
        CodeEvents(
            table="prescriptions",
            kind="medication",
            visit="hadm_id",
            code="drug",
            when=When("starttime"),
        ),
    )
}
LABS: Final = ValueEvents(
    table="labevents",
    visit="hadm_id",
    lab=("itemid",),
    value="valuenum",
    integer_labs=True,
    subject="subject_id",
    when=When("charttime"),
    dictionary=Dictionary("d_labitems", ("itemid",), ("label", "fluid")),
)


def mimic_iv_source(codes: Sequence[str] = ("diagnosis",)) -> Source:
    """The source with these kinds of codes; raises `UsageError` for one that it does not have."""
    for kind in codes:
        if kind not in CODES:
            raise UsageError(f"mimic-iv has no codes of kind {kind!r}; want {', '.join(CODES)}")
    return Source(
        name="mimic-iv",
        folders=("hosp", "."),
        stay_tables=("patients", "admissions"),
        read_stays=read_stays,
        codes=tuple(CODES[kind] for kind in codes),
        values=(LABS,),
    )
