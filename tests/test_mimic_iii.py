"""MIMIC-III: MIMIC-IV's demo, written as MIMIC-III is, gives the same records."""

from __future__ import annotations

import gzip
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

import equipoise as eq
from command import cli
from equipoise import schema

ARRAYS = ("visit_offsets", "code_offsets", "codes", "lab_offsets", "labs", "lab_values")
KINDS = ("diagnosis", "procedure", "medication")
TABLES = (
    "patients",
    "admissions",
    "diagnoses_icd",
    "procedures_icd",
    "prescriptions",
    "labevents",
    "d_labitems",
    "d_icd_diagnoses",
    "d_icd_procedures",
)


def icd9(table: pl.DataFrame) -> pl.DataFrame:
    return table.filter(pl.col("icd_version") == "9")


def tables_of(demo: Path) -> dict[str, pl.DataFrame]:
    """The demo's tables as text, with ICD-9 only, as MIMIC-III has."""
    tables = {
        name: pl.read_csv(demo / "hosp" / f"{name}.csv.gz", infer_schema=False) for name in TABLES
    }
    return {
        name: icd9(table) if "icd_version" in table.columns else table
        for name, table in tables.items()
    }


def born(tables: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """Patients with a date of birth: above 89 years, 300 years before the first admission."""
    first = tables["admissions"].group_by("subject_id").agg(pl.col("admittime").min())
    year = pl.col("anchor_year").cast(pl.Int64) - pl.col("anchor_age").cast(pl.Int64)
    before = pl.col("admittime").str.to_datetime().dt.offset_by("-300y")
    patients = tables["patients"].join(first, on="subject_id", how="left")
    hidden = pl.col("admittime").str.slice(0, 4).cast(pl.Int64) - year > 89
    dob = pl.when(hidden).then(before).otherwise(pl.datetime(year, 1, 1))
    return patients.with_columns(dob=dob.dt.strftime("%Y-%m-%d 00:00:00"), hidden=hidden)


def as_mimic_iii(tables: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    codes = {"icd_code": "icd9_code"}
    people = born(tables).select("subject_id", "gender", "dob", "dod")
    labs = tables["labevents"].select(
        "subject_id",
        # As writers leave it that know nulls only in floating point.
        (pl.col("hadm_id") + ".0").alias("hadm_id"),
        "itemid",
        "charttime",
        "value",
        pl.col("valuenum").str.replace(r"^0\.", "."),
        "valueuom",
        "flag",
    )
    assert labs["valuenum"].str.starts_with(".").any()
    return {
        "patients": people.with_columns(expire_flag=pl.col("dod").is_not_null().cast(pl.Int8)),
        "admissions": tables["admissions"].rename({"race": "ethnicity"}),
        "diagnoses_icd": tables["diagnoses_icd"].drop("icd_version").rename(codes),
        "procedures_icd": tables["procedures_icd"].drop("icd_version", "chartdate").rename(codes),
        "prescriptions": tables["prescriptions"].rename({"starttime": "startdate"}),
        "labevents": labs,
        "d_labitems": tables["d_labitems"],
        "d_icd_diagnoses": tables["d_icd_diagnoses"].drop("icd_version").rename(codes),
        "d_icd_procedures": tables["d_icd_procedures"].drop("icd_version").rename(codes),
    }


def write(root: Path, tables: dict[str, pl.DataFrame], capitals: bool) -> None:
    root.mkdir()
    for name, table in tables.items():
        table = table.with_row_index("row_id")
        if capitals:
            name, table = name.upper(), table.rename(str.upper)
        text = table.write_csv(None, quote_style="non_numeric" if capitals else "necessary")
        (root / f"{name}.csv.gz").write_bytes(gzip.compress(text.encode(), 1))


@pytest.fixture(scope="module")
def roots(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """MIMIC-IV with ICD-9 only; MIMIC-III as published; and as its demo, in small letters."""
    folder = tmp_path_factory.mktemp("mimic")
    iv, iii, small = folder / "iv", folder / "iii", folder / "small"
    tables = tables_of(shared_data / "mimic-iv-demo")
    write(iv, tables, capitals=False)
    write(iii, as_mimic_iii(tables), capitals=True)
    write(small, as_mimic_iii(tables), capitals=False)
    return iv, iii, small


@pytest.mark.parametrize("which", [1, 2])
def test_mimic_iii_is_what_mimic_iv_is(roots: tuple[Path, Path, Path], which: int) -> None:
    wanted = eq.read_mimic_iv(roots[0], codes=KINDS, threads=1)
    records = eq.read_mimic_iii(roots[which], codes=KINDS, threads=2)
    assert len(records) == 100
    for name in ARRAYS:
        assert getattr(records, name).tobytes() == getattr(wanted, name).tobytes(), name
    for name in ("subjects", "visits", "code_table", "lab_table", "ledger"):
        assert getattr(records, name).equals(getattr(wanted, name)), name
    assert set(records.code_table["system"]) == {"ICD9", "ICD9PROC", "medication"}
    assert records.subjects["age_band"].n_unique() == 2
    assert records.config["source"] == "mimic-iii"


@pytest.mark.parametrize("task", ["mortality_30d", "readmission_30d"])
def test_tasks_have_the_same_labels(roots: tuple[Path, Path, Path], task: str) -> None:
    wanted, records = eq.read_mimic_iv(roots[0], task), eq.read_mimic_iii(roots[1], task)
    assert records.visits.equals(wanted.visits)
    assert records.visits[schema.LABEL].sum() > 0


def test_windows_and_attaching_by_time(roots: tuple[Path, Path, Path]) -> None:
    options = {"until": "admission+24h", "attach_by_time": True}
    wanted = eq.read_mimic_iv(roots[0], **options)
    records = eq.read_mimic_iii(roots[1], **options)
    assert records.lab_values.tobytes() == wanted.lab_values.tobytes()
    assert records.ledger.equals(wanted.ledger)


def test_ages_are_whole_years_and_those_above_89_are_old(tmp_path: Path) -> None:
    rows = [
        # Born, admitted, and the band that wants 18 and 74 as last years.
        ("2081-05-06", datetime(2100, 5, 5, 23), "<=18"),
        ("2081-05-06", datetime(2100, 5, 6, 0), "19-74"),
        ("2025-05-06", datetime(2100, 5, 5, 23), "19-74"),
        ("2025-05-06", datetime(2100, 5, 6, 0), ">=75"),
        ("2100-05-06", datetime(2100, 5, 6, 0), "<=18"),
        ("1800-05-06", datetime(2100, 5, 6, 0), ">=75"),
        (None, datetime(2100, 5, 6, 0), "Unknown"),
    ]
    patients = pl.DataFrame(
        {
            "SUBJECT_ID": range(len(rows)),
            "GENDER": ["F"] * len(rows),
            "DOB": [day and f"{day} 00:00:00" for day, *_ in rows],
            "DOD": [None] * len(rows),
        },
        schema_overrides={"DOD": pl.String},
    )
    admissions = pl.DataFrame(
        {
            "SUBJECT_ID": range(len(rows)),
            "HADM_ID": range(100, 100 + len(rows)),
            "ADMITTIME": [start for _, start, _ in rows],
            "DISCHTIME": [start.replace(month=6) for _, start, _ in rows],
            "INSURANCE": ["Medicare"] * len(rows),
            "ETHNICITY": ["WHITE"] * len(rows),
            "HOSPITAL_EXPIRE_FLAG": [0] * len(rows),
        }
    )
    patients.write_csv(tmp_path / "PATIENTS.csv")
    admissions.write_csv(tmp_path / "ADMISSIONS.csv", datetime_format="%Y-%m-%d %H:%M:%S")
    (tmp_path / "DIAGNOSES_ICD.csv").write_text("SUBJECT_ID,HADM_ID,ICD9_CODE\n0,100,4019\n0,,41\n")
    (tmp_path / "D_ICD_DIAGNOSES.csv").write_text("ICD9_CODE,LONG_TITLE\n4019,Hypertension\n")
    (tmp_path / "D_LABITEMS.csv").write_text("ITEMID,LABEL,FLUID\n50912,Creatinine,Blood\n")
    (tmp_path / "LABEVENTS.csv").write_text(
        "SUBJECT_ID,HADM_ID,ITEMID,CHARTTIME,VALUENUM,VALUEUOM\n"
        "0,100,50912,2100-05-05 23:30:00,.08,mg/dL\n0,,50912,2100-05-05 23:30:00,7,mg/dL\n"
    )
    records = eq.read_mimic_iii(tmp_path)
    assert records.subjects["age_band"].to_list() == [band for *_, band in rows]
    assert records.lab_values.tolist() == [0.08]
    assert records.code_table.rows() == [("diagnosis", "ICD9", "4019", "Hypertension")]
    hidden = "subjects above 89 years, whose age is hidden (taken for 91)"
    assert records.oddities[hidden] == 1
    old = eq.read_mimic_iii(tmp_path, age_cuts=(89,)).subjects["age_band"].to_list()
    assert old.count(">=90") == 1


def test_the_command_line_reads_mimic_iii(roots: tuple[Path, Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "records"
    done = cli("extract", "mimic-iii", roots[1], "--out", out, "--codes", "diagnosis,procedure")
    assert done.returncode == 0, done.stderr
    assert len(eq.VisitRecords.load(out)) == 100
    done = cli("extract", "mimic-iii", roots[0], "--out", tmp_path / "other")
    assert done.returncode == 1
    assert "patients.csv.gz, column dob: want this column" in done.stderr
    with pytest.raises(eq.UsageError, match="mimic-iii has no codes of kind 'poems'"):
        eq.read_mimic_iii(roots[1], codes=["poems"])
