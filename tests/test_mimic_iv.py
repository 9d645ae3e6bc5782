"""MIMIC-IV's own files: the real demo against polars, and what goes wrong with files."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import equipoise as eq
from command import cli
from equipoise import schema


@pytest.fixture(scope="module")
def demo(shared_data: Path) -> Path:
    return shared_data / "mimic-iv-demo"


@pytest.fixture(scope="module")
def records(demo: Path) -> eq.VisitRecords:
    return eq.read_mimic_iv(demo)


def table(demo: Path, name: str) -> pl.DataFrame:
    return pl.read_csv(demo / "hosp" / f"{name}.csv.gz", infer_schema_length=None)


def test_inspect_counts_what_polars_counts(demo: Path, tmp_path: Path) -> None:
    done = cli("extract", "mimic-iv", demo, "--out", tmp_path / "records")
    assert done.returncode == 0, done.stderr
    found = json.loads(cli("inspect", tmp_path / "records", "--json").stdout)
    admissions, labs = table(demo, "admissions"), table(demo, "labevents")
    known = labs["hadm_id"].is_in(admissions["hadm_id"].implode())
    no_id, numeric = labs["hadm_id"].is_null(), labs["valuenum"].is_finite().fill_null(False)
    assert found["visits"] == len(admissions) == 275
    assert found["subjects"] == admissions["subject_id"].n_unique() == 100
    assert found["positive_visits"] == admissions["hospital_expire_flag"].sum() == 15
    assert found["positives"] == 15
    assert found["diagnoses"] == len(table(demo, "diagnoses_icd")) == 4506
    assert found["lab_events"] == {
        "read": len(labs),
        "used": int((known & numeric).sum()),
        "dropped": {
            "no visit id": int(no_id.sum()),
            "no numeric value": int((known & labs["valuenum"].is_null()).sum()),
        },
    }
    assert found["lab_events"]["read"] == 107_727
    assert (
        found["oddities"]["subjects with two values of race (the first admission's is used)"] == 4
    )


def test_means_equal_an_exact_sum(demo: Path, records: eq.VisitRecords) -> None:
    labs = table(demo, "labevents").drop_nulls(["hadm_id", "valuenum"])
    values = labs["valuenum"].to_numpy()
    scaled = np.rint(values * 10_000)
    # NumPy divides; polars multiplies by the reciprocal, which is not the same.
    assert np.array_equal(scaled / 10_000, values)
    sums = labs.with_columns(pl.Series("scaled", scaled.astype(np.int64)))
    exact = sums.group_by("hadm_id", "itemid").agg(pl.col("scaled").sum(), pl.len())
    mean = exact["scaled"].to_numpy() / (exact["len"].to_numpy() * 10_000.0)
    exact = exact.select("hadm_id", "itemid", pl.Series("mean", mean))
    owner = np.repeat(records.visits[schema.VISIT_ID].to_numpy(), np.diff(records.lab_offsets))
    ours = pl.DataFrame(
        {
            "hadm_id": owner,
            "itemid": records.lab_table["lab"].cast(pl.Int64)[records.labs],
            "mean": records.lab_values,
        }
    )
    assert ours.sort("hadm_id", "itemid").equals(exact.sort("hadm_id", "itemid"))


def test_subjects_and_visits_are_in_order(demo: Path, records: eq.VisitRecords) -> None:
    assert records.subjects[schema.SUBJECT_ID].is_sorted()
    admissions = table(demo, "admissions").sort("subject_id", "admittime", "hadm_id")
    assert records.visits[schema.VISIT_ID].to_list() == admissions["hadm_id"].to_list()
    first = admissions.group_by("subject_id", maintain_order=True).first()
    assert (records.subjects["insurance"] == first["insurance"]).all()
    assert set(records.subjects["sex"]) == {"F", "M"}


def test_encoding_equals_plain_python(records: eq.VisitRecords) -> None:
    train, test = records.split(fraction=0.7, seed=3)
    vocabulary = train.fit_vocabulary()
    cohort = test.encode(vocabulary)
    columns = {
        (kind, code, bin_): i
        for i, (kind, code, bin_) in enumerate(
            vocabulary.columns.select("kind", "code", "bin").iter_rows()
        )
    }
    labs = vocabulary.labs
    for visit in range(0, len(test.visits), 7):
        wanted = set()
        for number in test.codes[test.code_offsets[visit] : test.code_offsets[visit + 1]]:
            kind, system, code, _ = test.code_table.row(number)
            length = 4 if system == "ICD9" and code.startswith("E") else 3
            wanted.add(columns.get((kind, f"{system}:{code[:length]}", None)))
        for place in range(test.lab_offsets[visit], test.lab_offsets[visit + 1]):
            name = test.lab_table["lab"][int(test.labs[place])]
            if name in labs:
                bin_ = sum(
                    test.lab_values[place] >= cut for cut in vocabulary.cuts[labs.index(name)]
                )
                wanted.add(columns.get((("lab"), name, int(bin_))))
        got = cohort.codes[cohort.code_offsets[visit] : cohort.code_offsets[visit + 1]]
        assert list(got) == sorted(wanted - {None})


def test_the_vocabulary_learns_from_its_own_subjects_only(records: eq.VisitRecords) -> None:
    train, _ = records.split(fraction=0.5, seed=0)
    vocabulary = train.fit_vocabulary()
    assert vocabulary.fitted_on is not None
    assert set(vocabulary.fitted_on) == set(train.subjects[schema.SUBJECT_ID])
    whole = records.fit_vocabulary()
    assert len(vocabulary) < len(whole)
    counts = np.bincount(train.labs, minlength=len(train.lab_table))
    ranked = sorted(range(len(counts)), key=lambda lab: (-counts[lab], lab))[:50]
    assert set(vocabulary.labs) == set(train.lab_table["lab"][ranked])
    prevalence = np.asarray(train.encode(vocabulary).matrix().sum(axis=0)).ravel()
    assert (prevalence > 0).all(), "a column that no training visit has"


def test_records_and_cohorts_come_back_from_disk(records: eq.VisitRecords, tmp_path: Path) -> None:
    records.save(tmp_path / "records", config={"source": "mimic-iv"})
    again = eq.VisitRecords.load(tmp_path / "records")
    assert again.subjects.equals(records.subjects)
    assert again.ledger.equals(records.ledger)
    for name in ("visit_offsets", "code_offsets", "codes", "lab_offsets", "labs", "lab_values"):
        assert np.array_equal(getattr(again, name), getattr(records, name))
    cohort = again.encode(again.fit_vocabulary())
    cohort.save(tmp_path / "cohort")
    back = eq.Cohort.load(tmp_path / "cohort")
    assert back.vocabulary.equals(cohort.vocabulary)
    assert (back.matrix() != cohort.matrix()).nnz == 0
    with pytest.raises(eq.DataError, match="kind records"):
        eq.VisitRecords.load(tmp_path / "cohort")
    (tmp_path / "cohort" / "codes.arrow").write_bytes(b"ARROW1 but not really")
    with pytest.raises(eq.DataError, match="codes.arrow"):
        eq.Cohort.load(tmp_path / "cohort")


def test_every_format_and_thread_count_gives_the_same_records(demo: Path, tmp_path: Path) -> None:
    for kind in ("csv", "parquet"):
        (tmp_path / kind).mkdir()
        for file in (demo / "hosp").glob("*.csv.gz"):
            name = file.name.removesuffix(".csv.gz")
            if kind == "csv":
                text = gzip.decompress(file.read_bytes())
                (tmp_path / kind / f"{name}.csv").write_bytes(text)
            else:
                frame = pl.read_csv(file, infer_schema_length=None, try_parse_dates=True)
                frame.write_parquet(tmp_path / kind / f"{name}.parquet", row_group_size=10_000)
    first = eq.read_mimic_iv(demo, threads=1)
    for root in (demo, tmp_path / "csv", tmp_path / "parquet"):
        other = eq.read_mimic_iv(root, threads=2)
        for name in ("code_offsets", "codes", "lab_offsets", "labs", "lab_values"):
            assert getattr(first, name).tobytes() == getattr(other, name).tobytes(), name
        assert first.subjects.equals(other.subjects)
        assert first.visits.equals(other.visits)
        assert first.ledger.equals(other.ledger)


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """A hospital of four subjects as plain csv, to be broken."""
    root = tmp_path / "hospital" / "hosp"
    root.mkdir(parents=True)
    tables = {
        "patients": "subject_id,gender,anchor_age,anchor_year,dod\n"
        "1,F,50,2150,\n2,M,80,2150,2151-01-01\n3,F,18,2150,\n4,M,,2150,\n",
        "admissions": "subject_id,hadm_id,admittime,dischtime,insurance,race,hospital_expire_flag\n"
        "1,11,2150-01-01 10:00:00,2150-01-05 10:00:00,Medicare,WHITE,0\n"
        "2,21,2150-02-01 10:00:00,2150-02-05 10:00:00,Medicaid,ASIAN - CHINESE,0\n"
        "2,22,2150-12-01 10:00:00,2151-01-01 10:00:00,Other,WHITE,1\n"
        "3,31,2150-01-01 10:00:00,2150-01-05 10:00:00,,MARTIAN,0\n"
        "4,41,2150-01-01 10:00:00,2150-01-05 10:00:00,Other,,0\n",
        "diagnoses_icd": "subject_id,hadm_id,seq_num,icd_code,icd_version\n"
        "1,11,1,I5023,10\n2,21,1,E8889,9\n2,22,1,4019,9\n",
        "labevents": "labevent_id,subject_id,hadm_id,itemid,valuenum\n"
        "1,1,11,50912,1.1\n2,1,11,50912,1.3\n3,2,,50912,9\n4,2,22,50912,\n",
        "d_labitems": "itemid,label,fluid,category\n50912,Creatinine,Blood,Chemistry\n",
        "d_icd_diagnoses": "icd_code,icd_version,long_title\nI5023,10,Heart failure\n",
    }
    for name, text in tables.items():
        (root / f"{name}.csv").write_text(text)
    return root.parent


def edit(hospital: Path, name: str, old: str, new: str) -> None:
    path = hospital / "hosp" / f"{name}.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_small_hospital_is_read(hospital: Path) -> None:
    records = eq.read_mimic_iv(hospital)
    assert records.subjects["race"].to_list() == [
        "White",
        "Asian",
        "Other/Unknown",
        "Other/Unknown",
    ]
    assert records.subjects["age_band"].to_list() == ["19-74", ">=75", "<=18", "Unknown"]
    assert records.subjects["insurance"].to_list() == ["Medicare", "Medicaid", "Unknown", "Other"]
    assert records.subjects[schema.LABEL].to_list() == [False, True, False, False]
    assert records.visits[schema.LABEL].to_list() == [False, False, True, False, False]
    assert records.lab_values.tolist() == [1.2]
    assert list(records.oddities.values()) == [1, 1, 1, 0]
    columns = records.fit_vocabulary().columns["code"].to_list()
    assert columns[:3] == ["ICD10:I50", "ICD9:401", "ICD9:E888"]


def test_odd_rows_are_counted(hospital: Path) -> None:
    edit(hospital, "admissions", "1,11,2150-01-01", "1,11,2150-01-09")
    edit(hospital, "diagnoses_icd", "2,22,1,4019,9", "2,99,1,4019,9")
    ledger = {(t, o): n for t, o, n in eq.read_mimic_iv(hospital).ledger.iter_rows()}
    assert ledger["admissions", "discharge before admission"] == 1
    assert ledger["patients", "no admission used"] == 1
    assert ledger["diagnoses_icd", "unknown visit"] == 2
    assert ledger["labevents", "unknown visit"] == 2
    assert ledger["labevents", "no visit id"] == 1
    assert ledger["labevents", "no numeric value"] == 1


def truncate(path: Path) -> None:
    whole = gzip.compress(path.read_bytes())
    path.with_name(path.name + ".gz").write_bytes(whole[: len(whole) - 6])
    path.unlink()


BAD = {
    "missing file": (lambda h: (h / "hosp" / "labevents.csv").unlink(), "labevents.csv.gz"),
    "missing column": (
        lambda h: edit(h, "labevents", "itemid", "item"),
        "labevents.csv, column itemid: want this column; got labevent_id",
    ),
    "text as an id": (
        lambda h: edit(h, "labevents", "2,1,11", "2,1,eleven"),
        'labevents.csv, column hadm_id, row 3: want a whole number; got "eleven"',
    ),
    "no subject id": (
        lambda h: edit(h, "admissions", "\n1,11,", "\n,11,"),
        'admissions.csv, column subject_id, row 2: want a whole number; got ""',
    ),
    "no time": (
        lambda h: edit(h, "admissions", "2150-02-01 10:00:00", "yesterday"),
        "admissions.csv, column admittime, row 3: want a time",
    ),
    "empty table": (
        lambda h: (h / "hosp" / "labevents.csv").write_text(
            "labevent_id,subject_id,hadm_id,itemid,valuenum\n"
        ),
        "labevents.csv: want at least one row",
    ),
    "empty file": (
        lambda h: (h / "hosp" / "admissions.csv").write_text(""),
        "admissions.csv: want a header and rows; got an empty file",
    ),
    "no tables": (lambda h: shutil.rmtree(h / "hosp"), "got none of them"),
    "no root": (lambda h: shutil.rmtree(h), "want a folder of tables; got nothing there"),
    "truncated gzip": (
        lambda h: truncate(h / "hosp" / "labevents.csv"),
        "labevents.csv.gz: want a whole file; got a gzip stream that ends early",
    ),
    "not gzip": (
        lambda h: (h / "hosp" / "labevents.csv").rename(h / "hosp" / "labevents.csv.gz"),
        "bytes that are not gzip",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_ends_with_one_message(hospital: Path, tmp_path: Path, what: str) -> None:
    spoil, message = BAD[what]
    spoil(hospital)
    done = cli("extract", "mimic-iv", hospital, "--out", tmp_path / "out")
    assert done.returncode == 1, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    left = [path.name for path in tmp_path.iterdir() if path.name != "hospital"]
    assert left == []


def test_bad_runs_end_with_one_message(hospital: Path, tmp_path: Path) -> None:
    cases = [
        (["--by", "colour"], 1, "column colour: want a group column, one of sex, race"),
        (["--by", "sex", "--methods", "magic"], 2, "magic is no balancing method"),
        (["--by", "sex", "--task", "joy"], 2, "no task is called 'joy'"),
        (["--by", ""], 2, "at least one name"),
    ]
    for arguments, status, message in cases:
        done = cli("run", "mimic-iv", hospital, "--out", tmp_path / "out", *arguments)
        assert (done.returncode, done.stdout) == (status, "")
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    edit(hospital, "admissions", "WHITE,1", "WHITE,0")
    done = cli("run", "mimic-iv", hospital, "--out", tmp_path / "out", "--by", "sex")
    assert done.returncode == 1
    assert "one class only" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["hospital"]


def test_a_finished_folder_is_not_overwritten(hospital: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli("extract", "mimic-iv", hospital, "--out", out).returncode == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    refused = cli("extract", "mimic-iv", hospital, "--out", out)
    assert refused.returncode == 2
    assert "--force" in refused.stderr
    assert cli("extract", "mimic-iv", hospital, "--out", out, "--force").returncode == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_procedures_and_medications_are_codes_too(demo: Path) -> None:
    kinds = ["diagnosis", "procedure", "medication"]
    records = eq.read_mimic_iv(demo, codes=kinds)
    used = {t: n for t, o, n in records.ledger.iter_rows() if o == schema.USED}
    prescriptions = table(demo, "prescriptions")
    assert used["procedures_icd"] == len(table(demo, "procedures_icd"))
    assert used["prescriptions"] == len(prescriptions.drop_nulls("drug"))
    counts = records.code_table["kind"][records.codes].value_counts()
    pairs = prescriptions.drop_nulls("drug").select("hadm_id", pl.col("drug").str.strip_chars())
    assert dict(counts.iter_rows())["medication"] == len(pairs.unique())
    with pytest.raises(eq.UsageError, match="no codes of kind 'poems'"):
        eq.read_mimic_iv(demo, codes=["poems"])


def test_a_window_cuts_later_events(demo: Path) -> None:
    records = eq.read_mimic_iv(demo, until="admission+24h")
    start = table(demo, "admissions").select("hadm_id", pl.col("admittime").str.to_datetime())
    labs = table(demo, "labevents").with_columns(pl.col("charttime").str.to_datetime())
    joined = labs.join(start, on="hadm_id").filter(pl.col("valuenum").is_not_null())
    early = joined.filter(pl.col("charttime") <= pl.col("admittime") + pl.duration(hours=24))
    used = {t: n for t, o, n in records.ledger.iter_rows() if o == schema.USED}
    assert used["labevents"] == len(early)


def test_labs_attached_by_time_equal_an_interval_join(demo: Path, records: eq.VisitRecords) -> None:
    attached = eq.read_mimic_iv(demo, attach_by_time=True)
    labs = table(demo, "labevents").with_row_index("row")
    labs = labs.with_columns(pl.col("charttime").str.to_datetime("%Y-%m-%d %H:%M:%S"))
    stays = table(demo, "admissions").select(
        "subject_id",
        pl.col("hadm_id").alias("stay"),
        pl.col("admittime", "dischtime").str.to_datetime("%Y-%m-%d %H:%M:%S"),
    )
    homeless = labs.filter(pl.col("hadm_id").is_null())
    inside = homeless.join(stays, on="subject_id").filter(
        pl.col("charttime").is_between("admittime", "dischtime")
    )
    inside = inside.sort("row", "admittime").unique("row", keep="last")
    ledger = {
        outcome: rows for name, outcome, rows in attached.ledger.iter_rows() if name == "labevents"
    }
    assert len(inside) > 100
    assert ledger["outside every visit"] == len(homeless) - len(inside)
    assert "no visit id" not in ledger
    numeric = inside.filter(pl.col("valuenum").is_not_null())
    before = records.ledger.filter(table="labevents", outcome="used")["rows"][0]
    assert ledger["used"] == before + len(numeric)
    placed = pl.concat(
        [
            labs.drop_nulls(["hadm_id", "valuenum"]).select("hadm_id", "itemid", "valuenum"),
            numeric.select(pl.col("stay").alias("hadm_id"), "itemid", "valuenum"),
        ]
    )
    wanted = placed.group_by("hadm_id", "itemid").agg(pl.col("valuenum").mean())
    owner = np.repeat(attached.visits[schema.VISIT_ID].to_numpy(), np.diff(attached.lab_offsets))
    items = attached.lab_table["lab"].cast(pl.Int64)[attached.labs]
    ours = pl.DataFrame({"hadm_id": owner, "itemid": items, "mean": attached.lab_values})
    both = ours.join(wanted, on=["hadm_id", "itemid"])
    assert len(both) == len(ours) == len(wanted)
    assert np.allclose(both["mean"], both["valuenum"], rtol=1e-12)


def test_only_labs_that_lack_ids_can_be_attached(demo: Path, tmp_path: Path) -> None:
    done = cli("extract", "eicu", demo, "--attach-by-time", "--out", tmp_path / "records")
    assert done.returncode == 2
    assert "attach by time" in done.stderr
