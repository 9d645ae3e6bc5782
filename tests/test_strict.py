"""Strict reading: bad data are refused, and named; what is normal stays counted."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import equipoise as eq
from command import cli
from equipoise import schema, strict

TABLES = {
    "patients": "subject_id,gender,anchor_age,anchor_year,dod\n"
    "1,F,50,2150,\n2,M,80,2150,2151-01-01\n3,F,18,2150,\n",
    "admissions": "subject_id,hadm_id,admittime,dischtime,insurance,race,hospital_expire_flag\n"
    "1,11,2150-01-01 10:00:00,2150-01-05 10:00:00,Medicare,WHITE,0\n"
    "2,21,2150-02-01 10:00:00,2150-02-05 10:00:00,Medicaid,ASIAN - CHINESE,0\n"
    "2,22,2150-02-21 10:00:00,2150-02-25 10:00:00,Other,WHITE,1\n",
    "diagnoses_icd": "subject_id,hadm_id,seq_num,icd_code,icd_version\n"
    "1,11,1,I5023,10\n2,21,1,E8889,9\n2,22,1,4019,9\n2,,1,4019,9\n1,11,2,,9\n",
    # Row 4 has a comment with a newline within; rows are what is counted.
    "labevents": "labevent_id,subject_id,hadm_id,itemid,valuenum,comments\n"
    '1,1,11,50912,1.1,\n2,1,11,50912,1.3,"a,\nb"\n3,2,,50912,9,\n4,2,22,50912,,\n5,2,22,50912,2,\n',
    "d_labitems": "itemid,label,fluid,category\n50912,Creatinine,Blood,Chemistry\n",
    "d_icd_diagnoses": "icd_code,icd_version,long_title\nI5023,10,Heart failure\n",
}
LAB = "5,2,22,50912,2,\n"


def write(root: Path, tables: dict[str, str]) -> Path:
    root.mkdir(exist_ok=True)
    for name, text in tables.items():
        (root / f"{name}.csv").write_text(text)
    return root


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    return write(tmp_path / "hospital", TABLES)


def spoil(root: Path, table: str, old: str, new: str) -> None:
    path = root / f"{table}.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


#: What is spoiled, and what strict says of it.
BAD: dict[str, tuple[str, str, str, str]] = {
    "not a number": (
        "labevents",
        LAB,
        LAB + "6,2,22,50912,___,\n7,2,22,50912,< 5,\n",
        "labevents.csv, column valuenum, row 7: 2 rows are left out (value is not a number) and "
        'strict refuses that; want a number; got "___"',
    ),
    "not finite": (
        "labevents",
        LAB,
        LAB + "6,2,22,50912,inf,\n",
        "labevents.csv, column valuenum, row 7: 1 row is left out (value is not finite) and strict "
        'refuses that; want a finite number; got "inf"',
    ),
    "unknown visit of a lab": (
        "labevents",
        LAB,
        LAB + "6,2,99,50912,1,\n",
        "labevents.csv, column hadm_id, row 7: 1 row is left out (unknown visit)",
    ),
    "unknown visit of a diagnosis": (
        "diagnoses_icd",
        "2,21,1,E8889,9\n",
        "2,99,1,E8889,9\n",
        "diagnoses_icd.csv, column hadm_id, row 3: 1 row is left out (unknown visit) and strict "
        'refuses that; want the id of a visit that is known; got "99"',
    ),
    "discharge before admission": (
        "admissions",
        "2,22,2150-02-21",
        "2,22,2150-03-21",
        "admissions.csv, row 4: 1 row is left out (discharge before admission)",
    ),
    "visit id twice": (
        "admissions",
        "2,22,",
        "2,21,",
        "admissions.csv, row 4: 1 row is left out (visit id twice)",
    ),
    "no admission time": (
        "admissions",
        "2,21,2150-02-01 10:00:00",
        "2,21,",
        "admissions.csv, row 3: 1 row is left out (no admission time)",
    ),
    "subject id twice": (
        "patients",
        "3,F,18",
        "2,F,18",
        "patients.csv, row 4: 1 row is left out (subject id twice)",
    ),
    "unknown subject": (
        "patients",
        "1,F,50,2150,\n",
        "",
        "admissions.csv, row 2: 1 row is left out (unknown subject)",
    ),
    "unknown race": (
        "admissions",
        "Medicare,WHITE",
        "Medicare,MARTIAN",
        "1 subjects whose race is not in the table of races (Other/Unknown) and strict refuses",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_data_are_refused_and_nothing_is_written(
    hospital: Path, tmp_path: Path, what: str
) -> None:
    table, old, new, message = BAD[what]
    spoil(hospital, table, old, new)
    assert len(eq.read_mimic_iv(hospital)) >= 1
    with pytest.raises(eq.DataError) as caught:
        eq.read_mimic_iv(hospital, strict=True)
    assert message in str(caught.value)
    assert "Without strict they are counted" in str(caught.value)
    done = cli("extract", "mimic-iv", hospital, "--out", tmp_path / "out", "--strict")
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["hospital"]


def to_gzip(path: Path) -> Path:
    out = path.with_name(path.name + ".gz")
    out.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return out


def to_parquet(path: Path) -> Path:
    out = path.with_suffix(".parquet")
    pl.read_csv(path, infer_schema=False).write_parquet(out, row_group_size=40)
    path.unlink()
    return out


@pytest.mark.parametrize("convert", [lambda path: path, to_gzip, to_parquet])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("lab_key", [("item",), ("item", "unit")])
def test_the_first_bad_row_is_named_in_every_format(
    hospital: Path, convert: Callable[[Path], Path], threads: int, lab_key: tuple[str, ...]
) -> None:
    rows = [f"{n},1,11,50912,{'x' if n in (170, 171, 299) else n},mg" for n in range(400)]
    text = "labevent_id,subject_id,hadm_id,itemid,valuenum,valueuom\n" + "\n".join(rows) + "\n"
    (hospital / "labevents.csv").write_text(text)
    name = convert(hospital / "labevents.csv").name
    with pytest.raises(eq.DataError) as caught:
        eq.read_mimic_iv(hospital, strict=True, threads=threads, lab_key=lab_key)
    error = caught.value
    assert (error.table, error.column, error.row) == (name, "valuenum", 172)
    assert "3 rows are left out" in error.message


def test_other_reasons_are_named_too(hospital: Path) -> None:
    spoil(hospital, "labevents", LAB, LAB + "6,2,99,50912,1,\n7,1,11,50912,inf,\n")
    with pytest.raises(
        eq.DataError, match=r"Also labevents: 1 row is left out \(value is not finite\)"
    ):
        eq.read_mimic_iv(hospital, strict=True)


@pytest.mark.parametrize("task", ["in_hospital_mortality", "readmission_30d", "mortality_30d"])
def test_what_is_normal_stays_counted(hospital: Path, task: str) -> None:
    options = {"until": "admission+48h", "lab_key": ("item",)}
    spoil(hospital, "labevents", ",comments\n", ",charttime\n")
    spoil(hospital, "labevents", '"a,\nb"', "2150-01-02 10:00:00")
    plain = eq.read_mimic_iv(hospital, task, **options)
    records = eq.read_mimic_iv(hospital, task, strict=True, **options)
    assert records.ledger.equals(plain.ledger)
    reasons = set(records.ledger["outcome"])
    assert {"no visit id", "no event time", "no admission used"} <= reasons
    left_out = ("visit left out by the task" in reasons, len(records.visits))
    assert left_out == ((True, 2) if task == "readmission_30d" else (False, 3))
    assert records.config["strict"] is True


@pytest.mark.parametrize("convert", [lambda path: path, to_gzip, to_parquet])
@pytest.mark.parametrize("options", [{"until": "admission+48h"}, {"attach_by_time": True}])
def test_times_that_cannot_be_read_are_refused(
    hospital: Path, convert: Callable[[Path], Path], options: dict[str, Any]
) -> None:
    row = "3,2,,50912,9,"
    spoil(hospital, "labevents", ",comments\n", ",charttime\n")
    spoil(hospital, "labevents", '"a,\nb"', "2150-01-02 10:00:00")
    spoil(hospital, "labevents", LAB, f"5,2,22,50912,2,\n6,2,22,50912,2,22/02/2150\n{row}\n")
    spoil(hospital, "labevents", row, f"{row}22/02/2150")
    name = convert(hospital / "labevents.csv").name
    counted = eq.read_mimic_iv(hospital, **options).ledger
    assert "no event time" in set(counted["outcome"])
    with pytest.raises(eq.DataError, match="strict refuses that") as caught:
        eq.read_mimic_iv(hospital, strict=True, **options)
    error = caught.value
    assert (error.table, error.column, error.row) == (name, "charttime", 4)
    assert error.got == '"22/02/2150"'
    # Where no time is asked for, none is looked at.
    assert len(eq.read_mimic_iv(hospital, strict=True)) == 2


def test_visits_that_a_task_leaves_out_hide_no_unknown_ones(hospital: Path) -> None:
    spoil(hospital, "labevents", LAB, LAB + "6,2,99,50912,1,\n")
    with pytest.raises(eq.DataError, match=r"row 7: 1 row is left out \(unknown visit\)"):
        eq.read_mimic_iv(hospital, "readmission_30d", strict=True)


def test_the_real_demo_is_clean(shared_data: Path) -> None:
    records = eq.read_mimic_iv(shared_data / "mimic-iv-demo", strict=True)
    assert len(records) == 100


def test_run_refuses_too(hospital: Path, tmp_path: Path) -> None:
    spoil(hospital, "labevents", LAB, LAB + "6,2,22,50912,___,\n")
    out = tmp_path / "out"
    done = cli("run", "mimic-iv", hospital, "--by", "sex", "--out", out, "--strict")
    assert done.returncode == 1
    assert "column valuenum, row 7" in done.stderr
    assert not out.exists()


def test_streams_are_refused_without_a_row() -> None:
    visits = pl.DataFrame({"subject_id": [1], "visit_id": [10], "label": [True]})
    values = pl.DataFrame({"visit_id": [10, 10], "code": "Na", "numeric_value": ["1", "x"]})
    assert len(eq.read_events(visits, values=values)) == 1
    with pytest.raises(eq.DataError, match=r"^values: 1 row is left out \(value is not a number\)"):
        eq.read_events(visits, values=values, strict=True)
    with pytest.raises(eq.DataError, match=r"^visits, row 3: 1 row is left out \(visit id twice\)"):
        eq.read_events(pl.concat([visits, visits]), values=values[:1], strict=True)


def test_every_reason_is_judged() -> None:
    """A new reason has to be listed as bad, or here as normal."""
    package = Path(strict.__file__).parent
    core = package.parents[1] / "rust_ext" / "core" / "src" / "records" / "mod.rs"
    words = [line.split('"')[1] for line in core.read_text().splitlines() if '=> "' in line]
    assert "value is not a number" in words
    normal = {
        schema.USED,
        "no visit id",
        "visit left out by the task",
        "no event time",
        "outside every visit",
        "after the window",
        "no code",
        "no numeric value",
    }
    outcomes = {word for word in words if not word.startswith(("a ", "the "))}
    assert outcomes == normal | (outcomes & set(strict.BAD_ROWS))
    assert {"unknown visit", "value is not a number", "value is not finite"} == outcomes - normal
