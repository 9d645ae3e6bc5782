"""Versions of ICD however they are written: `10`, or `10.0` as pandas leaves a column with gaps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import equipoise as eq

ARRAYS = ("visit_offsets", "code_offsets", "codes")
KINDS = ("diagnosis", "procedure")
ADMISSIONS = "subject_id,hadm_id,admittime,dischtime,insurance,race,hospital_expire_flag"
#: (hadm_id, code, version), with codes that both versions have and one of no known version.
CODED = [
    (visit, code, version)
    for visit in range(10, 18)
    for code, version in (("E119", 10), ("E119", 9), (f"I1{visit % 3}", 10), ("4019", 9), ("X", 8))
    if (visit + len(code) + version) % 4
]
TITLES = [("E119", 10, "Diabetes"), ("E119", 9, "An accident"), ("I10", 10, "Hypertension")]


def hospital(root: Path, coded: list[tuple[int, str, str]], suffix: str) -> Path:
    """Diagnoses and procedures with versions as given; the dictionaries' end with `suffix`."""
    day = "2150-01-01 10:00:00,2150-01-05 10:00:00,Medicare,WHITE,0"
    visits = range(10, 18)
    codes = [f"{visit},{code},{version},2150-01-02" for visit, code, version in coded]
    titles = [f"{code},{version}{suffix},{title}" for code, version, title in TITLES]
    tables = {
        "patients": [
            "subject_id,gender,anchor_age,anchor_year,dod",
            *(f"{v},F,50,2150," for v in visits),
        ],
        "admissions": [ADMISSIONS, *(f"{visit},{visit},{day}" for visit in visits)],
        "diagnoses_icd": ["hadm_id,icd_code,icd_version,chartdate", *codes],
        "procedures_icd": ["hadm_id,icd_code,icd_version,chartdate", *codes],
        "labevents": ["subject_id,hadm_id,itemid,charttime,valuenum", "10,10,7,,1.5"],
        "d_labitems": ["itemid,label,fluid", f"7{suffix},Sodium,Blood"],
        "d_icd_diagnoses": ["icd_code,icd_version,long_title", *titles],
        "d_icd_procedures": ["icd_code,icd_version,long_title", *titles],
    }
    root.mkdir()
    for name, lines in tables.items():
        (root / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return root


def spelled(suffixes: list[str]) -> list[tuple[int, str, str]]:
    """`CODED`, each row once for each suffix of its version, shuffled."""
    rows = [(v, code, f"{version}{end}") for v, code, version in CODED for end in suffixes]
    return [rows[place] for place in np.random.default_rng(0).permutation(len(rows))]


@pytest.mark.parametrize("of_titles", ["", ".0"])
@pytest.mark.parametrize("suffixes", [[""], [".0"], ["."], ["", ".0"], [".00", "", ".0"]])
def test_a_version_is_one_however_it_is_written(
    tmp_path: Path, suffixes: list[str], of_titles: str
) -> None:
    wanted = eq.read_mimic_iv(hospital(tmp_path / "plain", spelled([""]), ""), codes=KINDS)
    got = eq.read_mimic_iv(hospital(tmp_path / "odd", spelled(suffixes), of_titles), codes=KINDS)
    for name in ARRAYS:
        assert getattr(got, name).tobytes() == getattr(wanted, name).tobytes(), name
    assert got.code_table.equals(wanted.code_table)
    assert got.lab_table.equals(wanted.lab_table)
    assert got.oddities == wanted.oddities


def test_titles_and_systems_are_those_of_the_version(tmp_path: Path) -> None:
    records = eq.read_mimic_iv(hospital(tmp_path / "odd", spelled(["", ".0"]), ""), codes=KINDS)
    named = records.code_table.select("kind", "system", "code")
    assert not named.is_duplicated().any()
    diagnoses = records.code_table.filter(kind="diagnosis")
    titles = {(system, code): title for _, system, code, title in diagnoses.iter_rows()}
    assert titles["ICD10", "E119"] == "Diabetes"
    assert titles["ICD9", "E119"] == "An accident"
    assert titles["8", "X"] == "X, 8"
    assert set(records.code_table.filter(kind="procedure")["system"]) == {
        "ICD9PROC",
        "ICD10PCS",
        "8",
    }
    for start, end in zip(records.code_offsets[:-1], records.code_offsets[1:], strict=True):
        assert (np.diff(records.codes[start:end]) > 0).all()
    visit = np.repeat(records.visits["visit_id"].to_numpy(), np.diff(records.code_offsets))
    pairs = records.code_table[records.codes].with_columns(visit=pl.Series(visit))
    pairs = pairs.filter(kind="diagnosis").select("visit", "code", "system")
    systems = {8: "8", 9: "ICD9", 10: "ICD10"}
    assert sorted(pairs.rows()) == sorted((v, code, systems[version]) for v, code, version in CODED)
