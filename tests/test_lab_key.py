"""Labs by item and unit, against polars."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import equipoise as eq
from command import cli
from equipoise import schema
from equipoise.sources.meds import MedsSettings

UNITS = ("item", "unit")


def as_frame(records: eq.VisitRecords) -> pl.DataFrame:
    owner = np.repeat(records.visits[schema.VISIT_ID].to_numpy(), np.diff(records.lab_offsets))
    labs = records.lab_table["lab"].gather(records.labs)
    frame = pl.DataFrame({"visit": owner, "lab": labs, "mean": records.lab_values})
    return frame.sort("visit", "lab")


def test_an_item_in_two_units_is_two_labs(shared_data: Path) -> None:
    demo = shared_data / "mimic-iv-demo"
    records = eq.read_mimic_iv(demo, lab_key=UNITS)
    labs = pl.read_csv(demo / "hosp" / "labevents.csv.gz", infer_schema=False)
    labs = labs.drop_nulls(["hadm_id", "valuenum"]).select(
        pl.col("hadm_id").cast(pl.Int64).alias("visit"),
        pl.concat_str(
            "itemid", pl.col("valueuom").str.strip_chars(), separator=", ", ignore_nulls=True
        )
        .str.strip_suffix(", ")
        .alias("lab"),
        (pl.col("valuenum").cast(pl.Float64) * 10_000).round().cast(pl.Int64).alias("scaled"),
    )
    sums = labs.group_by("visit", "lab").agg(pl.col("scaled").sum(), pl.len())
    means = sums["scaled"].to_numpy() / (sums["len"].to_numpy() * 10_000.0)
    wanted = sums.select("visit", "lab", pl.Series("mean", means)).sort("visit", "lab")
    assert as_frame(records).equals(wanted)
    alone = eq.read_mimic_iv(demo)
    items = records.lab_table["lab"].str.split(", ").list.first()
    assert set(items) == set(alone.lab_table["lab"])
    split = items.filter(items.is_duplicated()).unique()
    assert len(split) > 5, "the demo has items in several units"
    assert records.ledger.equals(alone.ledger)


def test_titles_carry_the_unit(shared_data: Path) -> None:
    demo = shared_data / "mimic-iv-demo"
    records = eq.read_mimic_iv(demo, lab_key=UNITS)
    titles = dict(records.lab_table.iter_rows())
    assert titles["50912, mg/dL"] == "Creatinine, Blood, mg/dL"
    names = pl.read_csv(demo / "hosp" / "d_labitems.csv.gz", infer_schema=False)
    known = {
        item: ", ".join(part for part in (label, fluid) if part)
        for item, label, fluid in names.select("itemid", "label", "fluid").iter_rows()
    }
    for lab, title in titles.items():
        item, _, unit = lab.partition(", ")
        parts = [known.get(item) or item, *([unit] if unit else [])]
        assert title == ", ".join(parts)
    alone = dict(eq.read_mimic_iv(demo).lab_table.iter_rows())
    assert alone["50912"] == "Creatinine, Blood"


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    tables = {
        "patients": "subject_id,gender,anchor_age,anchor_year,dod\n1,F,50,2150,\n",
        "admissions": "subject_id,hadm_id,admittime,dischtime,insurance,race,hospital_expire_flag\n"
        "1,11,2150-01-01 10:00:00,2150-01-05 10:00:00,Medicare,WHITE,0\n",
        "diagnoses_icd": "subject_id,hadm_id,icd_code,icd_version\n1,11,I5023,10\n",
        "labevents": "labevent_id,subject_id,hadm_id,itemid,valuenum,valueuom\n"
        "1,1,11,7,1.0,mg/dL\n2,1,11,7,3.0,mg/dL\n3,1,11,7,5.0,mmol/L\n4,1,11,7,9.0,\n"
        '5,1,11,8,2.0," "\n',
        "d_labitems": "itemid,label,fluid\n7,Glucose,Blood\n",
        "d_icd_diagnoses": "icd_code,icd_version,long_title\nI5023,10,Heart failure\n",
    }
    root = tmp_path / "hospital"
    root.mkdir()
    for name, text in tables.items():
        (root / f"{name}.csv").write_text(text)
    return root


def test_a_missing_unit_is_a_lab_of_its_own(hospital: Path) -> None:
    records = eq.read_mimic_iv(hospital, lab_key=UNITS)
    assert records.lab_table.rows() == [
        ("7", "Glucose, Blood"),
        ("7, mg/dL", "Glucose, Blood, mg/dL"),
        ("7, mmol/L", "Glucose, Blood, mmol/L"),
        ("8", "8"),
    ]
    assert records.lab_values.tolist() == [9.0, 2.0, 5.0, 2.0]
    assert eq.read_mimic_iv(hospital).lab_values.tolist() == [4.5, 2.0]


def test_the_command_line_takes_the_key(hospital: Path, tmp_path: Path) -> None:
    out = tmp_path / "records"
    done = cli("extract", "mimic-iv", hospital, "--out", out, "--lab-key", "item,unit")
    assert done.returncode == 0, done.stderr
    assert len(eq.VisitRecords.load(out).lab_table) == 4
    for source, key, message in (
        ("mimic-iv", "unit", "lab key: want item or item,unit, got unit"),
        ("mimic-iv", ",", "at least one name"),
        ("eicu", "item,unit", "the source eicu does not take lab_key"),
    ):
        done = cli("extract", source, hospital, "--out", tmp_path / "x", "--lab-key", key)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "x").exists()


def meds(root: Path, labs: list[tuple[str, str | None]]) -> Path:
    """One visit with a number for each of these codes and units."""
    start, end = ("HOSPITAL_ADMISSION", None, None), ("HOSPITAL_DISCHARGE//HOME", None, None)
    rows = [start, *((code, unit, 140.0) for code, unit in labs), end]
    frame = pl.DataFrame(
        rows,
        schema={"code": pl.String, "unit": pl.String, "numeric_value": pl.Float32},
        orient="row",
    ).with_columns(
        subject_id=pl.lit(1, pl.Int64),
        hadm_id=pl.lit(11, pl.Int64),
        time=pl.datetime(2150, 1, 1) + pl.duration(days=pl.int_range(pl.len())),
    )
    (root / "data").mkdir(parents=True)
    frame.write_parquet(root / "data" / "0.parquet")
    return root


def test_two_labs_of_one_name_are_refused_in_meds_too(tmp_path: Path) -> None:
    same = meds(tmp_path, [("Na, mmol/L", None), ("Na", "mmol/L"), ("K", "mmol/L")])
    message = r"data, column code, unit: want labs .* got two that are called 'Na, mmol/L'"
    with pytest.raises(eq.DataError, match=message):
        eq.read_meds(same)
    # Of labs that are left out nobody wants to know.
    records = eq.read_meds(same, settings=MedsSettings(left_out={"Na,": "not a lab"}))
    assert records.lab_table["lab"].to_list() == ["K, mmol/L", "Na, mmol/L"]
