"""Procedures and prescriptions: few, and without a bearing on anything; present for the layout."""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from equipoise.simulate.people import People
from equipoise.simulate.tables import times
from equipoise.simulate.visits import Stays, Visits, starts_of

PROCEDURES_PER_VISIT: Final = 1.5
DRUGS_PER_VISIT: Final = 4.0
#: ICD-9 code and title, ICD-10 code and title.
PROCEDURES: Final = (
    (
        "3893",
        "Venous catheterization, not elsewhere classified",
        "02HV33Z",
        "Insertion of Infusion Device into Superior Vena Cava, Percutaneous Approach",
    ),
    (
        "9604",
        "Insertion of endotracheal tube",
        "0BH17EZ",
        "Insertion of Endotracheal Airway into Trachea, Via Natural or Artificial Opening",
    ),
    (
        "9671",
        "Continuous invasive mechanical ventilation for less than 96 consecutive hours",
        "5A1945Z",
        "Respiratory Ventilation, 24-96 Consecutive Hours",
    ),
    (
        "3995",
        "Hemodialysis",
        "5A1D70Z",
        "Performance of Urinary Filtration, Intermittent, Less than 6 Hours Per Day",
    ),
    (
        "5491",
        "Percutaneous abdominal drainage",
        "0W9G3ZZ",
        "Drainage of Peritoneal Cavity, Percutaneous Approach",
    ),
    (
        "4513",
        "Other endoscopy of small intestine",
        "0DJ08ZZ",
        "Inspection of Upper Intestinal Tract, Via Natural or Artificial Opening Endoscopic",
    ),
)
#: Drug, formulary code, GSN, NDC, strength, dose, its unit, the unit dispensed, doses a day.
DRUGS: Final = (
    ("Insulin", "INRHI", "001723", "2821501", "100 Units / mL - 10 mL Vial", "0", "UNIT", "mL", 4),
    ("Furosemide", "FURO40", "008209", "51079007320", "40mg Tablet", "40", "mg", "TAB", 1),
    ("Acetaminophen", "ACET325", "004489", "182844789", "325mg Tablet", "325-650", "mg", "TAB", 4),
    ("Metoprolol Tartrate", "METO25", "050631", "51079025520", "25mg Tablet", "25", "mg", "TAB", 2),
    ("Heparin", "HEPA5I", "006549", "63323026201", "5000 Units / mL", "5000", "UNIT", "mL", 3),
    ("Potassium Chloride", "MICROK10", "001275", "58177000111", "10mEq ER", "40", "mEq", "CAP", 1),
    ("Vancomycin", "VANC1F", "043952", "338355248", "1g Frozen Bag", "1000", "mg", "BAG", 2),
    ("Aspirin", "ASA81", "016995", "63739043401", "81mg Tab", "81", "mg", "TAB", 1),
    ("Pantoprazole", "PANT40", "027462", "8084181", "40mg Tablet", "40", "mg", "TAB", 1),
)


def procedures_frame(rng: np.random.Generator, people: People, stays: Stays) -> pl.DataFrame:
    """The table `procedures_icd`."""
    visits = stays.visits
    visit = np.repeat(np.arange(len(visits)), rng.poisson(PROCEDURES_PER_VISIT, len(visits)))
    which = rng.integers(0, len(PROCEDURES), len(visit))
    ten = visits.is_icd10[visit]
    place = np.arange(len(visit))
    date = times(_within(rng, visits, visit)).cast(pl.Date)
    nine_codes, _, ten_codes, _ = zip(*PROCEDURES, strict=True)
    return pl.DataFrame(
        {
            "subject_id": people.subject_id[visits.subject[visit]],
            "hadm_id": stays.hadm_id[visit],
            "seq_num": place - np.maximum.accumulate(np.where(starts_of(visit), place, 0)) + 1,
            "chartdate": date,
            "icd_code": np.where(ten, np.array(ten_codes)[which], np.array(nine_codes)[which]),
            "icd_version": np.where(ten, 10, 9),
        }
    )


def prescriptions_frame(rng: np.random.Generator, people: People, stays: Stays) -> pl.DataFrame:
    """The table `prescriptions`."""
    visits = stays.visits
    visit = np.repeat(np.arange(len(visits)), rng.poisson(DRUGS_PER_VISIT, len(visits)))
    subject = pl.Series(people.subject_id[visits.subject[visit]])
    start = _within(rng, visits, visit) // 60 * 60
    names = ("drug", "formulary_drug_cd", "gsn", "ndc", "prod_strength", "dose_val_rx")
    drugs = pl.DataFrame(
        DRUGS, orient="row", schema=[*names, "dose_unit_rx", "form_unit_disp", "doses_per_24_hrs"]
    )
    chosen = drugs[rng.integers(0, len(DRUGS), len(visit))]
    text = pl.lit(None, pl.String)
    return chosen.with_columns(
        pl.col("ndc", "doses_per_24_hrs").cast(pl.Int64),
        subject_id=subject,
        hadm_id=pl.Series(stays.hadm_id[visit]),
        pharmacy_id=pl.Series(rng.integers(10**6, 10**8, len(visit))),
        poe_seq=pl.int_range(1, pl.len() + 1, dtype=pl.Int64).over(subject.alias("subject")),
        order_provider_id=text,
        starttime=times(start),
        stoptime=times(start + rng.integers(1, 5 * 24, len(visit)) * 60),
        drug_type=pl.lit("MAIN"),
        form_rx=text,
        form_val_disp=pl.lit("1"),
        route=pl.lit("PO/NG"),
    ).select(
        "subject_id",
        "hadm_id",
        "pharmacy_id",
        pl.format("{}-{}", "subject_id", "poe_seq").alias("poe_id"),
        "poe_seq",
        "order_provider_id",
        "starttime",
        "stoptime",
        "drug_type",
        "drug",
        "formulary_drug_cd",
        "gsn",
        "ndc",
        "prod_strength",
        "form_rx",
        "dose_val_rx",
        "dose_unit_rx",
        "form_val_disp",
        "form_unit_disp",
        "doses_per_24_hrs",
        "route",
    )


def d_icd_procedures_frame() -> pl.DataFrame:
    """The dictionary of procedure codes."""
    rows = [
        (code, version, title)
        for nine, nine_title, ten, ten_title in PROCEDURES
        for code, version, title in ((nine, 9, nine_title), (ten, 10, ten_title))
    ]
    schema = {"icd_code": pl.String, "icd_version": pl.Int64, "long_title": pl.String}
    return pl.DataFrame(rows, orient="row", schema=schema).sort("icd_code")


def _within(
    rng: np.random.Generator, visits: Visits, visit: NDArray[np.int64]
) -> NDArray[np.int64]:
    stay = (visits.discharged - visits.admitted)[visit]
    return np.asarray(visits.admitted[visit] + (rng.random(len(visit)) * stay).astype(np.int64))
