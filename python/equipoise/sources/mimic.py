"""What MIMIC-III and MIMIC-IV have in common: patients, admissions, and what is odd in them.

`hadm_id` is empty in many lab events (MIMIC-IV: 43 %); ICD codes have no decimal point; some
subjects have two values of race; some admissions end before they begin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

import polars as pl

from equipoise import schema
from equipoise.errors import UsageError
from equipoise.sources.declaration import (
    CodeEvents,
    ColumnKind,
    Dictionary,
    Reader,
    Stays,
    ValueEvents,
    When,
    count_outcomes,
    is_first,
)
from equipoise.tasks import OTHER_RACE, GroupSettings

ADMISSIONS: Final[Mapping[str, ColumnKind]] = {
    "subject_id": "id",
    "hadm_id": "id",
    "admittime": "time",
    "dischtime": "time",
    "insurance": "text",
    "hospital_expire_flag": "integer",
}
TIMES: Final = {"admittime": "start", "dischtime": "end"}
LABS: Final = ValueEvents(
    table="labevents",
    visit="hadm_id",
    lab=("itemid",),
    value="valuenum",
    integer_labs=True,
    subject="subject_id",
    when=When("charttime"),
    dictionary=Dictionary("d_labitems", ("itemid",), ("label", "fluid"), versions=("itemid",)),
)
#: Whether a row is of the same subject as that before it.
_AS_BEFORE: Final = pl.col(schema.SUBJECT_ID) == pl.col(schema.SUBJECT_ID).shift()
_FLAG: Final = pl.col("hospital_expire_flag")
ITEM: Final = ("item",)
ITEM_UNIT: Final = ("item", "unit")


@dataclass(frozen=True)
class Layout:
    """How a version of MIMIC writes its patients and admissions.

    patients: the columns of the table of patients. race: the column of admissions that holds it.
    age: whole years at an admission, from a row of a visit and its patient. oddities: counts over
    subjects' first visits, by name.
    """

    patients: Mapping[str, ColumnKind]
    race: str
    age: pl.Expr
    oddities: Mapping[str, pl.Expr]


def labs_by(lab_key: Sequence[str]) -> ValueEvents:
    """The lab events, an item alone or with its unit being a lab; raises `UsageError`."""
    if tuple(lab_key) == ITEM:
        return LABS
    if tuple(lab_key) == ITEM_UNIT:
        return replace(LABS, lab=("itemid", "valueuom"), integer_labs=False)
    raise UsageError(f"lab key: want item or item,unit, got {','.join(lab_key)}")


def codes_named(
    source: str, kinds: Sequence[str], there: Mapping[str, CodeEvents]
) -> tuple[CodeEvents, ...]:
    """The codes of these kinds; raises `UsageError` for one that the source does not have."""
    for kind in kinds:
        if kind not in there:
            raise UsageError(f"{source} has no codes of kind {kind!r}; want {', '.join(there)}")
    return tuple(there[kind] for kind in dict.fromkeys(kinds))


def read_stays(layout: Layout, read: Reader) -> Stays:
    """Patients and admissions: one visit per admission, groups by the first admission."""
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read, "admissions", {**ADMISSIONS, layout.race: "text"})
        patients = read("patients", layout.patients)
        known = patients.filter(is_first(patients[schema.SUBJECT_ID]))
        admissions = reading.result()
        admissions = admissions.rename({"hadm_id": schema.VISIT_ID, layout.race: "race", **TIMES})
        admissions = admissions.with_columns(_fate_of_admission(admissions, known))
        visits = (
            admissions.filter(pl.col("outcome") == schema.USED)
            .sort(schema.SUBJECT_ID, "start", schema.VISIT_ID)
            .join(known, on=schema.SUBJECT_ID, how="left", maintain_order="left")
            .with_columns(died=_FLAG.replace_strict({0: False, 1: True}, default=None))
        )
        grouping = pool.submit(_groups, layout, visits, read.groups)
        patients = patients.with_columns(_fate_of_patient(patients, visits))
        ledger = [count_outcomes("patients", patients), count_outcomes("admissions", admissions)]
        subjects, oddities = grouping.result()
        odd = visits.select((_FLAG.is_not_null() & pl.col("died").is_null()).sum()).item()
        oddities["admissions whose hospital_expire_flag is neither true nor false (unknown)"] = odd
    return Stays(
        visits=visits.select(schema.SUBJECT_ID, schema.VISIT_ID, "start", "end", "died", "dod"),
        subjects=subjects,
        ledger=pl.concat(ledger),
        oddities=oddities,
    )


def _fate_of_admission(admissions: pl.DataFrame, patients: pl.DataFrame) -> pl.Expr:
    return (
        pl.when(pl.col("start").is_null())
        .then(pl.lit("no admission time"))
        .when(pl.col("end") < pl.col("start"))
        .then(pl.lit("discharge before admission"))
        .when(~pl.col(schema.SUBJECT_ID).is_in(patients[schema.SUBJECT_ID].implode()))
        .then(pl.lit("unknown subject"))
        .when(~is_first(admissions[schema.VISIT_ID]))
        .then(pl.lit("visit id twice"))
        .otherwise(pl.lit(schema.USED))
        .alias("outcome")
    )


def _fate_of_patient(patients: pl.DataFrame, visits: pl.DataFrame) -> pl.Expr:
    admitted = pl.col(schema.SUBJECT_ID).is_in(visits[schema.SUBJECT_ID].unique().implode())
    return (
        pl.when(~is_first(patients[schema.SUBJECT_ID]))
        .then(pl.lit("subject id twice"))
        .when(admitted)
        .then(pl.lit(schema.USED))
        .otherwise(pl.lit("no admission used"))
        .alias("outcome")
    )


def _groups(
    layout: Layout, visits: pl.DataFrame, groups: GroupSettings
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Each subject's groups at the first admission, and how many have another value later."""
    first = visits.filter(~_AS_BEFORE.fill_null(value=False))
    race, unknown = groups.race_group(first["race"])
    subjects = first.select(
        schema.SUBJECT_ID,
        sex=pl.col("gender").fill_null("Unknown"),
        race=race,
        age_band=groups.age_band(layout.age),
        insurance=pl.col("insurance").fill_null("Unknown"),
    )
    oddities = {
        f"subjects with two values of {name} (the first admission's is used)": _changing(
            visits, name
        )
        for name in ("race", "insurance")
    }
    oddities[f"subjects whose race is not in the table of races ({OTHER_RACE})"] = unknown
    more = {name: int(first.select(odd.sum()).item()) for name, odd in layout.oddities.items()}
    return subjects, oddities | more


def _changing(visits: pl.DataFrame, column: str) -> int:
    """How many subjects have two values of a column; their visits stand together."""
    known = visits.select(schema.SUBJECT_ID, column).drop_nulls()
    changed = known.filter(_AS_BEFORE & (pl.col(column) != pl.col(column).shift()))
    return changed[schema.SUBJECT_ID].n_unique()
