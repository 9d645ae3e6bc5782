"""eICU's open demo against polars, and what is odd in it."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import equipoise as eq
from equipoise import schema
from equipoise.evaluate.folds import make_folds
from equipoise.evaluate.leakage import check_leakage
from equipoise.sources.eicu import split_icd


@pytest.fixture(scope="module")
def demo(shared_data: Path) -> Path:
    return shared_data / "eicu-demo"


@pytest.fixture(scope="module")
def records(demo: Path) -> eq.VisitRecords:
    return eq.read_eicu(demo)


def table(path: Path) -> pl.DataFrame:
    return pl.read_csv(path, infer_schema=False)


@pytest.fixture(scope="module")
def patients(demo: Path) -> pl.DataFrame:
    ids = ("patientunitstayid", "patienthealthsystemstayid", "unitvisitnumber")
    return table(demo / "patient.csv.gz").with_columns(pl.col(ids).cast(pl.Int64))


def outcomes(records: eq.VisitRecords, name: str) -> dict[str, int]:
    rows = records.ledger.filter(pl.col("table") == name)
    return dict(rows.select("outcome", "rows").iter_rows())


def test_counts_are_those_of_polars(
    demo: Path, records: eq.VisitRecords, patients: pl.DataFrame
) -> None:
    diagnosis = table(demo / "diagnosis.csv.gz")
    empty = diagnosis["icd9code"].fill_null("") == ""
    assert len(records) == patients["patienthealthsystemstayid"].n_unique() == 2174
    assert len(records.visits) == len(patients) == 2520
    assert records.subjects[schema.PERSON_ID].n_unique() == patients["uniquepid"].n_unique() == 1841
    assert outcomes(records, "diagnosis") == {"used": 21_206, "no code": 3772}
    assert (int((~empty).sum()), int(empty.sum())) == (21_206, 3772)
    assert outcomes(records, "lab") == {"used": 134_504}


def test_an_unknown_outcome_stays_unknown(records: eq.VisitRecords, patients: pl.DataFrame) -> None:
    status = patients["hospitaldischargestatus"].value_counts()
    assert dict(status.iter_rows()) == {"Alive": 2280, "Expired": 212, "": 28}
    last = patients.sort("patienthealthsystemstayid", "unitvisitnumber").group_by(
        "patienthealthsystemstayid", maintain_order=True
    )
    wanted = last.last()["hospitaldischargestatus"].replace_strict(
        {"Expired": True, "Alive": False}, default=None, return_dtype=pl.Boolean
    )
    assert records.subjects[schema.LABEL].equals(wanted, null_equal=True)
    assert (wanted.sum(), wanted.null_count()) == (182, 25)
    # 212 unit stays are of hospital stays that ended in death; 30 of them were followed by another.
    assert records.visits[schema.LABEL].sum() == 182
    assert list(records.oddities.values()) == [28, 25, 30, 0, 0, 0, 0, 0, 0]


def test_unit_stays_are_in_order(records: eq.VisitRecords, patients: pl.DataFrame) -> None:
    ordered = patients.sort("patienthealthsystemstayid", "unitvisitnumber")
    assert records.visits[schema.VISIT_ID].to_list() == ordered["patientunitstayid"].to_list()


def test_groups_can_be_read(records: eq.VisitRecords, patients: pl.DataFrame) -> None:
    counts = {name: dict(records.subjects[name].value_counts().iter_rows()) for name in ("sex",)}
    first = patients.sort("patienthealthsystemstayid", "unitvisitnumber").unique(
        "patienthealthsystemstayid", keep="first", maintain_order=True
    )
    sexes = dict(first["gender"].replace("", "Unknown").value_counts().iter_rows())
    assert counts["sex"] == sexes
    races = {"African American": "Black", "Caucasian": "White", "Asian": "Asian"}
    races["Hispanic"] = "Hispanic/Latino"
    wanted = first["ethnicity"].replace_strict(races, default="Other/Unknown")
    assert records.subjects["race"].to_list() == wanted.to_list()
    ages = first["age"].replace({"> 89": "89", "": None}).cast(pl.Int64)
    bands = records.subjects["age_band"]
    assert int((bands == ">=75").sum()) == int((ages >= 75).sum())
    assert int((bands == "Unknown").sum()) == ages.null_count() == 4
    cohort = records.encode(records.fit_vocabulary())
    assert cohort.groups == ["sex", "race", "age_band"]
    with pytest.raises(eq.DataError, match="person_id"):
        cohort.check_groups(["person_id"])


def test_icd_codes_are_those_of_polars(demo: Path, records: eq.VisitRecords) -> None:
    cells = table(demo / "diagnosis.csv.gz").select(
        pl.col("patientunitstayid").cast(pl.Int64),
        pl.col("icd9code").str.split(", ").alias("code"),
    )
    pairs = cells.explode("code").filter(pl.col("code") != "").unique()
    pairs = pairs.with_columns(pl.col("code").str.replace(".", "", literal=True))
    owner = np.repeat(records.visits[schema.VISIT_ID].to_numpy(), np.diff(records.code_offsets))
    ours = pl.DataFrame(
        {"patientunitstayid": owner, "code": records.code_table["code"][records.codes]}
    )
    assert len(ours) == len(ours.unique())
    assert ours.sort(pl.all()).equals(pairs.unique().sort(pl.all()))
    named = records.code_table.select("system", "code").rows()
    assert {("ICD9", "4289"), ("ICD9", "E9802"), ("ICD9", "V08"), ("ICD10", "E872")} <= set(named)
    assert ("ICD9PROC", "311") in named
    assert not [code for system, code in named if system == "unknown"]
    columns = records.fit_vocabulary().columns["code"].to_list()
    assert {"ICD9:428", "ICD10:I50", "ICD9:E980", "ICD10:E87"} <= set(columns)


def test_a_cell_of_several_codes_is_split() -> None:
    cells = pl.DataFrame({"raw": [0, 1, 2], "code": ["428.0, I50.9", "E885.9,v62.84, E11.65", "?"]})
    assert split_icd(cells).rows() == [
        (0, "ICD9", "4280"),
        (0, "ICD10", "I509"),
        (1, "ICD9", "E8859"),
        (1, "ICD9", "V6284"),
        (1, "ICD10", "E1165"),
        (2, "unknown", "?"),
    ]


@pytest.mark.parametrize("lab", ["lab_derived/lab.csv.gz", "lab_real_169stays/lab.csv"])
def test_lab_means_equal_an_exact_sum(demo: Path, tmp_path: Path, lab: str) -> None:
    for name in ("patient.csv.gz", "diagnosis.csv.gz", lab):
        (tmp_path / Path(name).name).symlink_to((demo / name).resolve())
    records = eq.read_eicu(tmp_path)
    rows = table(demo / lab).with_columns(pl.col("labresult").cast(pl.Float64))
    known = rows.drop_nulls("labresult")
    missing = {"no numeric value": len(rows) - len(known)} if len(rows) > len(known) else {}
    assert outcomes(records, "lab") == {"used": len(known), **missing}
    values = known["labresult"].to_numpy()
    scaled = np.rint(values * 10_000)
    assert np.array_equal(scaled / 10_000, values)
    keys = ["patientunitstayid", "labname", "labmeasurenamesystem"]
    sums = known.with_columns(scaled=pl.Series(scaled.astype(np.int64))).group_by(keys)
    exact = sums.agg(pl.col("scaled").sum(), pl.len())
    mean = exact["scaled"].to_numpy() / (exact["len"].to_numpy() * 10_000.0)
    unit = pl.col("labmeasurenamesystem").replace("", None)
    exact = exact.select(
        pl.col("patientunitstayid").cast(pl.Int64),
        pl.concat_str("labname", unit, separator=", ", ignore_nulls=True).alias("lab"),
        pl.Series("mean", mean),
    )
    owner = np.repeat(records.visits[schema.VISIT_ID].to_numpy(), np.diff(records.lab_offsets))
    ours = pl.DataFrame(
        {
            "patientunitstayid": owner,
            "lab": records.lab_table["lab"][records.labs],
            "mean": records.lab_values,
        }
    )
    assert ours.sort("patientunitstayid", "lab").equals(exact.sort("patientunitstayid", "lab"))


def test_other_kinds_of_codes(demo: Path) -> None:
    records = eq.read_eicu(demo, codes=("medication", "treatment"))
    drugs = table(demo / "medication.csv.gz")["drughiclseqno"]
    assert outcomes(records, "medication") == {"used": 71_163, "no code": drugs.null_count()}
    assert outcomes(records, "treatment") == {"used": len(table(demo / "treatment.csv.gz"))}
    assert set(records.code_table["kind"]) == {"medication", "treatment"}
    with pytest.raises(eq.UsageError, match="no codes of kind 'notes'"):
        eq.read_eicu(demo, codes=("notes",))


def test_a_person_is_never_on_both_sides(records: eq.VisitRecords) -> None:
    train, test = records.split(fraction=0.8, seed=1)
    persons = [set(part.subjects[schema.PERSON_ID]) for part in (train, test)]
    assert not persons[0] & persons[1]
    assert len(persons[0]) == round(0.8 * 1841)
    assert len(train) + len(test) == len(records)
    known = records.subjects.drop_nulls(schema.LABEL)
    person = known[schema.PERSON_ID].to_numpy()
    for fold in make_folds(known[schema.LABEL].to_numpy(), 3, 0, keep_together=person):
        assert not set(person[fold.held_out]) & set(person[fold.train])


def test_an_experiment_keeps_persons_together(
    records: eq.VisitRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    from equipoise.evaluate import experiment

    seen: list[object] = []

    def stop(*_: object, keep_together: object) -> None:
        seen.append(keep_together)
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "make_folds", stop)
    with pytest.raises(KeyboardInterrupt):
        experiment.run_experiment(records, ["sex"], {"original": lambda train, *_, **__: train})
    known = records.subjects.drop_nulls(schema.LABEL)[schema.PERSON_ID]
    assert np.array_equal(np.asarray(seen[0]), known.to_numpy())


def test_the_guard_knows_persons(records: eq.VisitRecords) -> None:
    person = records.subjects[schema.PERSON_ID]
    twice = np.flatnonzero(person.is_duplicated().to_numpy())
    here = twice[person.gather(twice).is_first_distinct().to_numpy()]
    there = np.setdiff1d(twice, here)
    vocabulary = records.take(here).fit_vocabulary()
    parts = [records.take(places).encode(vocabulary) for places in (here, there, there[:0])]
    with pytest.raises(eq.LeakageError, match="persons are in two parts of a fold"):
        check_leakage(parts[0], tuning=parts[2], held_out=parts[1])


def test_a_window_leaves_later_events_out(demo: Path, records: eq.VisitRecords) -> None:
    early = eq.read_eicu(demo, until="admission+24h")
    offsets = table(demo / "lab_derived" / "lab.csv.gz")["labresultoffset"].cast(pl.Int64)
    late = int((offsets > 1440).sum())
    assert outcomes(early, "lab") == {"used": len(offsets) - late, "after the window": late}
    assert early.visits.equals(records.visits)
    assert early.config["until"] == "admission+24h"
    for until, message in (
        ("soon", "want admission"),
        (f"admission+{'9' * 5000}h", "want admission"),
        ("discharge-1h", "minutes since admission"),
    ):
        with pytest.raises(eq.UsageError, match=message):
            eq.read_eicu(demo, until=until)


def test_what_eicu_cannot_say_is_refused(demo: Path) -> None:
    with pytest.raises(eq.UsageError, match=r"eicu cannot say readmission_30d.*start"):
        eq.read_eicu(demo, "readmission_30d")


PATIENT = (
    "patientunitstayid,patienthealthsystemstayid,uniquepid,unitvisitnumber,gender,age,ethnicity,"
    "hospitaldischargestatus\n"
    "1,10,a-1,1,Female,> 89,Martian,Expired\n2,10,a-1,2,Female,> 89,Caucasian,Expired\n"
    "3,20,a-1,1,,,,\n"
)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    (tmp_path / "patient.csv").write_text(PATIENT)
    diagnosis = 'patientunitstayid,diagnosisoffset,icd9code\n1,5,"428.0, I50.9"\n2,5,\n9,5,401.9\n'
    (tmp_path / "diagnosis.csv").write_text(diagnosis)
    lab = "patientunitstayid,labresultoffset,labname,labmeasurenamesystem,labresult\n"
    lab += "1,1,pH,,7.1\n1,2,pH,,7.3\n1,3,pH,units,7\n"
    (tmp_path / "lab.csv.gz").write_bytes(gzip.compress(lab.encode()))
    return tmp_path


def test_a_small_hospital(small: Path) -> None:
    records = eq.read_eicu(small)
    assert records.subjects[schema.LABEL].to_list() == [True, None]
    assert records.visits[schema.LABEL].to_list() == [False, True, None]
    assert records.subjects["age_band"].to_list() == [">=75", "Unknown"]
    assert records.subjects["race"].to_list() == ["Other/Unknown"] * 2
    (strange,) = (n for name, n in records.oddities.items() if "not in the table of races" in name)
    assert strange == 1
    assert records.oddities["hospital stays with an unknown outcome (no label)"] == 1
    assert records.subjects[schema.PERSON_ID].to_list() == [0, 0]
    assert outcomes(records, "diagnosis") == {"used": 1, "unknown visit": 1, "no code": 1}
    assert records.lab_table["lab"].to_list() == ["pH", "pH, units"]
    assert records.lab_values.tolist() == [7.2, 7.0]


def test_ages_of_a_column_of_floats(small: Path) -> None:
    wanted = eq.read_eicu(small).subjects
    rows = pl.read_csv(small / "patient.csv", infer_schema=False)
    years = rows["age"].replace("> 89", "89").cast(pl.Float64, strict=False)
    (small / "patient.csv").unlink()
    rows.with_columns(age=years).write_parquet(small / "patient.parquet")
    assert eq.read_eicu(small).subjects.equals(wanted)
    twice = eq.read_eicu(small, codes=["diagnosis", "diagnosis"])
    assert len(twice.codes) == len(eq.read_eicu(small).codes)


def test_offsets_that_are_no_minutes_are_refused_by_strict(small: Path) -> None:
    path = small / "diagnosis.csv"
    path.write_text(path.read_text().replace("2,5,\n9,5,401.9", "2,,401.9\n2,soon,401.9"))
    patient = small / "patient.csv"
    patient.write_text(PATIENT.replace("Martian", "Caucasian"))
    options = {"until": "admission+24h"}
    assert outcomes(eq.read_eicu(small, **options), "diagnosis")["no event time"] == 2
    with pytest.raises(eq.DataError, match=r"diagnosis\.csv, column diagnosisoffset, row 4: an"):
        eq.read_eicu(small, strict=True, **options)


def test_a_status_that_is_not_understood_is_unknown(small: Path) -> None:
    text = PATIENT.replace("Martian", "Caucasian").replace(
        "Caucasian,Expired\n2", "Caucasian,Dead\n2"
    )
    (small / "patient.csv").write_text(text)
    records = eq.read_eicu(small)
    (count,) = (n for name, n in records.oddities.items() if "is not understood" in name)
    assert count == 1
    (small / "diagnosis.csv").write_text("patientunitstayid,diagnosisoffset,icd9code\n1,5,428.0\n")
    with pytest.raises(eq.DataError, match="hospitaldischargestatus is not understood"):
        eq.read_eicu(small, strict=True)
    (small / "patient.csv").write_text(text.replace("Dead", "Expired"))
    eq.read_eicu(small, strict=True)


def test_bad_cells_are_named(small: Path) -> None:
    patient = small / "patient.csv"
    for old, new, message in (
        (
            "> 89,Caucasian",
            "old,Caucasian",
            r"column age, row 3: want whole years or > 89; got old",
        ),
        ("\n3,20", "\nx,20", r"column patientunitstayid, row 4: want a whole number"),
        ("uniquepid", "pid", r"column uniquepid: want this column"),
    ):
        patient.write_text(PATIENT.replace(old, new))
        with pytest.raises(eq.DataError, match=message):
            eq.read_eicu(small)
    patient.write_text(PATIENT)
    (small / "lab.csv.gz").unlink()
    with pytest.raises(eq.DataError, match="lab.csv.gz"):
        eq.read_eicu(small)


def test_above_89_is_in_no_band_that_ends_there(small: Path) -> None:
    (small / "patient.csv").write_text(PATIENT.replace("a-1,1,,,,", "a-1,1,,89,,"))
    bands = eq.read_eicu(small, age_cuts=(18, 89)).subjects["age_band"]
    assert bands.to_list() == [">=90", "19-89"]
    with pytest.raises(eq.UsageError, match="eICU says no more than > 89, got 90"):
        eq.read_eicu(small, age_cuts=(18, 90))


def test_drugs_have_the_same_numbers_as_pandas_writes_them(small: Path) -> None:
    header = "patientunitstayid,drugstartoffset,drughiclseqno\n"
    (small / "medication.csv").write_text(header + "1,5,123\n2,5,123.0\n2,6,\n")
    codes = eq.read_eicu(small, codes=["medication"]).code_table
    assert codes["code"].to_list() == ["123"]
