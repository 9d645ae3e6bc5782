"""MIMIC-III 1.4: one folder, names in capitals (or not), ICD-9 only.

What is odd beside what `sources.mimic` says: those above 89 years were born 300 years before their
first admission; prescriptions are dated by the day.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

import polars as pl

from equipoise.sources.declaration import CodeEvents, Dictionary, Source, When
from equipoise.sources.mimic import ITEM, Layout, codes_named, labs_by, read_stays

#: What an age above 89 is taken for, as in MIMIC-IV.
OLDEST: Final = 91


def _years() -> pl.Expr:
    """Whole years from birth to admission."""
    born, day = pl.col("dob"), pl.col("start")
    birthday_to_come = (day.dt.month() < born.dt.month()) | (
        (day.dt.month() == born.dt.month()) & (day.dt.day() < born.dt.day())
    )
    return day.dt.year() - born.dt.year() - birthday_to_come.cast(pl.Int32)


LAYOUT: Final = Layout(
    patients={"subject_id": "id", "gender": "text", "dob": "time", "dod": "time"},
    race="ethnicity",
    age=pl.when(_years() > 89).then(pl.lit(OLDEST)).otherwise(_years()),
    oddities={f"subjects above 89 years, whose age is hidden (taken for {OLDEST})": _years() > 89},
)
CODES: Final[Mapping[str, CodeEvents]] = {
    events.kind: events
    for events in (
        CodeEvents(
            table="diagnoses_icd",
            kind="diagnosis",
            visit="hadm_id",
            code="icd9_code",
            only_system="ICD9",
            dictionary=Dictionary("d_icd_diagnoses", ("icd9_code",), ("long_title",)),
        ),
        CodeEvents(
            table="procedures_icd",
            kind="procedure",
            visit="hadm_id",
            code="icd9_code",
            only_system="ICD9PROC",
            dictionary=Dictionary("d_icd_procedures", ("icd9_code",), ("long_title",)),
        ),
        CodeEvents(
            table="prescriptions",
            kind="medication",
            visit="hadm_id",
            code="drug",
            when=When("startdate", "date"),
        ),
    )
}


def mimic_iii_source(
    codes: Sequence[str] = ("diagnosis",), lab_key: Sequence[str] = ITEM
) -> Source:
    """The source with these kinds of codes, its labs named by item or by item and unit.

    Raises `UsageError` for a kind of codes or a key of labs that it does not have.
    """
    return Source(
        name="mimic-iii",
        folders=(".",),
        stay_tables=("patients", "admissions"),
        read_stays=partial(read_stays, LAYOUT),
        codes=codes_named("mimic-iii", codes, CODES),
        values=(labs_by(lab_key),),
    )
