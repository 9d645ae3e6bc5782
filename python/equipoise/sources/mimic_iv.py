"""MIMIC-IV 2.x and 3.x, module `hosp`; what is odd in it stands in `sources.mimic`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

import polars as pl

from equipoise.sources.declaration import CodeEvents, Dictionary, Source, When
from equipoise.sources.mimic import ITEM, Layout, codes_named, labs_by, read_stays


def _titles(table: str) -> Dictionary:
    key = ("icd_code", "icd_version")
    return Dictionary(table, key, ("long_title",), versions=("icd_version",))


LAYOUT: Final = Layout(
    patients={
        "subject_id": "id",
        "gender": "text",
        "anchor_age": "integer",
        "anchor_year": "integer",
        "dod": "time",
    },
    race="race",
    age=pl.col("anchor_age") + pl.col("start").dt.year() - pl.col("anchor_year"),
    oddities={},
)
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
            dictionary=_titles("d_icd_diagnoses"),
        ),
        CodeEvents(
            table="procedures_icd",
            kind="procedure",
            visit="hadm_id",
            code="icd_code",
            system="icd_version",
            systems={"9": "ICD9PROC", "10": "ICD10PCS"},
            dictionary=_titles("d_icd_procedures"),
            when=When("chartdate", "date"),
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


def mimic_iv_source(codes: Sequence[str] = ("diagnosis",), lab_key: Sequence[str] = ITEM) -> Source:
    """The source with these kinds of codes, its labs named by item or by item and unit.

    Raises `UsageError` for a kind of codes or a key of labs that it does not have.
    """
    return Source(
        name="mimic-iv",
        folders=("hosp", "."),
        stay_tables=("patients", "admissions"),
        read_stays=partial(read_stays, LAYOUT),
        codes=codes_named("mimic-iv", codes, CODES),
        values=(labs_by(lab_key),),
    )
