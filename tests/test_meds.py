"""The MEDS demo (the same hospital as the MIMIC-IV demo) against polars, and small datasets."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import equipoise as eq
from equipoise import schema
from equipoise.sources.meds import MedsSettings, name_codes


@pytest.fixture(scope="module")
def demo(shared_data: Path) -> Path:
    return shared_data / "mimic-iv-demo-meds"


@pytest.fixture(scope="module")
def events(demo: Path) -> pl.DataFrame:
    columns = ["subject_id", "time", "code", "numeric_value", "hadm_id", "unit"]
    return pl.concat(
        pl.read_parquet(file, columns=columns) for file in sorted(demo.rglob("data/**/*.parquet"))
    )


@pytest.fixture(scope="module")
def records(demo: Path) -> eq.VisitRecords:
    return eq.read_meds(demo)


def outcomes(records: eq.VisitRecords, name: str) -> dict[str, int]:
    rows = records.ledger.filter(pl.col("table") == name)
    return dict(rows.select("outcome", "rows").iter_rows())


def test_counts_are_those_of_polars(records: eq.VisitRecords, events: pl.DataFrame) -> None:
    assert records.ledger["rows"].sum() == len(events) == 346_701
    admitted = events.filter(pl.col("code").str.starts_with("HOSPITAL_ADMISSION"))
    assert len(records.visits) == admitted["hadm_id"].n_unique() == 275
    assert len(records) == 100
    numeric = events.filter(pl.col("numeric_value").is_finite())
    with_visit = int(numeric["hadm_id"].is_not_null().sum())
    assert outcomes(records, "data (values)") == {
        "used": with_visit,
        "no visit id": len(numeric) - with_visit,
    }
    specimens = int(events["code"].str.starts_with("LAB//SPECIMEN_COLLECTED//").sum())
    codes = outcomes(records, "data (codes)")
    assert codes["specimen of a lab that stands as its result"] == specimens == 107_274
    assert (codes["opens or closes a visit"], codes["birth or death"]) == (550, 131)


def test_death_in_hospital_is_not_any_death(records: eq.VisitRecords, events: pl.DataFrame) -> None:
    assert int((events["code"] == "MEDS_DEATH").sum()) == 31
    died = events.filter(pl.col("code") == "HOSPITAL_DISCHARGE//DIED")["hadm_id"]
    positive = records.visits.filter(schema.LABEL)[schema.VISIT_ID]
    assert set(positive) == set(died)
    assert len(positive) == 15
    assert records.visits[schema.LABEL].null_count() == 0


def test_labs_are_those_of_mimic_iv(records: eq.VisitRecords, shared_data: Path) -> None:
    """71,906 numeric rows with a visit; MEDS lacks six that equal others in all it keeps."""
    native = eq.read_mimic_iv(shared_data / "mimic-iv-demo")
    results = records.lab_table["lab"].str.extract(r"^LAB//RESULT//(\d+)//")
    is_lab = results.is_not_null().to_numpy()[records.labs]
    owner = np.repeat(records.visits[schema.VISIT_ID].to_numpy(), np.diff(records.lab_offsets))
    ours = pl.DataFrame(
        {
            "visit": owner,
            "lab": results[records.labs],
            "mean": records.lab_values,
            "unit": records.lab_table["lab"][records.labs],
        }
    ).filter(pl.Series(is_lab))
    theirs = pl.DataFrame(
        {
            "visit": np.repeat(
                native.visits[schema.VISIT_ID].to_numpy(), np.diff(native.lab_offsets)
            ),
            "lab": native.lab_table["lab"][native.labs],
            "mean": native.lab_values,
        }
    )
    assert set(ours.select("visit", "lab").iter_rows()) == set(
        theirs.select("visit", "lab").iter_rows()
    )
    one_unit = ours.filter(~ours.select("visit", "lab").is_duplicated())
    both = one_unit.join(theirs, on=["visit", "lab"])
    close = np.isclose(both["mean"], both["mean_right"], rtol=1e-6)
    # The rest are visits in which MEDS has merged two equal rows.
    assert len(both) - int(close.sum()) <= 6


def test_diagnoses_are_those_of_mimic_iv(records: eq.VisitRecords, shared_data: Path) -> None:
    native = eq.read_mimic_iv(shared_data / "mimic-iv-demo")

    def pairs(of: eq.VisitRecords) -> set[tuple[int, str, str]]:
        owner = np.repeat(of.visits[schema.VISIT_ID].to_numpy(), np.diff(of.code_offsets))
        named = of.code_table[of.codes].with_columns(visit=pl.Series(owner))
        named = named.filter(pl.col("kind") == "diagnosis")
        return set(named.select("visit", "system", "code").iter_rows())

    assert pairs(records) == pairs(native)
    title = dict(records.code_table.filter(kind="diagnosis").select("code", "title").iter_rows())
    assert title["A0472"].startswith("Enterocolitis")


def test_groups_and_splits(records: eq.VisitRecords, shared_data: Path) -> None:
    native = eq.read_mimic_iv(shared_data / "mimic-iv-demo").subjects
    for name in ("sex", "race", "age_band", schema.LABEL):
        assert records.subjects[name].equals(native[name]), name
    sizes = dict(records.subjects[schema.SPLIT].value_counts().iter_rows())
    assert sizes == {"train": 80, "tuning": 10, "held_out": 10}
    assert len(records.of_split("held_out")) == 10
    assert records.oddities["subjects with two values of race (the first one is used)"] == 4


def test_visits_by_admission_codes(
    demo: Path, records: eq.VisitRecords, events: pl.DataFrame
) -> None:
    by_time = eq.read_meds(demo, settings=MedsSettings(visits="codes"))
    columns = ["start", "end", schema.LABEL]
    assert by_time.visits.select(columns).equals(records.visits.select(columns))
    spans = records.visits.select("start", "end").with_columns(
        subject_id=pl.Series(
            np.repeat(
                records.subjects[schema.SUBJECT_ID].to_numpy(), np.diff(records.visit_offsets)
            )
        )
    )
    numeric = events.filter(pl.col("numeric_value").is_finite()).with_row_index("event")
    inside = numeric.join(spans, on="subject_id").filter(
        (pl.col("time") >= pl.col("start")) & (pl.col("time") <= pl.col("end"))
    )
    used = inside["event"].n_unique()
    assert outcomes(by_time, "data (values)") == {
        "used": used,
        "outside every visit": len(numeric) - used,
    }
    assert by_time.ledger["rows"].sum() == len(events)


def test_a_window(demo: Path, events: pl.DataFrame, records: eq.VisitRecords) -> None:
    early = eq.read_meds(demo, until="admission+24h")
    starts = records.visits.select(pl.col(schema.VISIT_ID).alias("hadm_id"), "start")
    numeric = events.filter(pl.col("numeric_value").is_finite()).join(starts, on="hadm_id")
    late = int((numeric["time"] > numeric["start"].dt.offset_by("24h")).sum())
    assert outcomes(early, "data (values)")["after the window"] == late
    assert outcomes(early, "data (values)")["used"] == len(numeric) - late


def test_kinds_can_be_chosen(demo: Path) -> None:
    records = eq.read_meds(demo, settings=MedsSettings(keep=("DIAGNOSIS//", "LAB//RESULT//")))
    assert set(records.lab_table["lab"].str.slice(0, 13)) == {"LAB//RESULT//"}
    assert records.code_table.filter(kind="medication").is_empty()
    assert outcomes(records, "data (values)")["used"] == 71_900


def test_codes_have_names() -> None:
    spellings = {
        "DIAGNOSIS//ICD//9//4280": ("diagnosis", "ICD9", "4280"),
        "DIAGNOSIS//ICD//10//I509": ("diagnosis", "ICD10", "I509"),
        "ICD10CM/I50.9": ("diagnosis", "ICD10", "I509"),
        "ICD9CM//428.0": ("diagnosis", "ICD9", "4280"),
        "PROCEDURE//ICD//9//5491": ("procedure", "ICD9", "5491"),
        "ICD10PCS/0DJ08ZZ": ("procedure", "ICD10", "0DJ08ZZ"),
        "MEDICATION//START//Aspirin//UNK": ("medication", "MEDICATION", "START//Aspirin//UNK"),
        "ICU_ADMISSION//MICU": ("event", "ICU_ADMISSION", "MICU"),
        "Blood Pressure": ("event", "code", "Blood Pressure"),
    }
    named = name_codes(MedsSettings(), pl.DataFrame({"code": list(spellings)}))
    assert named["dropped"].null_count() == len(named)
    assert named.select("kind", "system", "name").rows() == list(spellings.values())


Row = tuple[int, datetime | None, str, float | None, int | None]


def dataset(root: Path, rows: list[Row], columns: dict[str, str] | None = None) -> Path:
    frame = pl.DataFrame(
        rows,
        schema={
            "subject_id": pl.Int64,
            "time": pl.Datetime("us"),
            "code": pl.String,
            "numeric_value": pl.Float32,
            "hadm_id": pl.Int64,
        },
        orient="row",
    )
    (root / "data" / "train").mkdir(parents=True)
    frame.rename(columns or {}).write_parquet(root / "data" / "train" / "0.parquet")
    return root


def at(day: int) -> datetime:
    return datetime(2150, 1, day)


ROWS: list[Row] = [
    (1, None, "GENDER//F", None, None),
    (1, datetime(2100, 1, 2), "MEDS_BIRTH", None, None),
    (1, at(1), "HOSPITAL_ADMISSION//URGENT", None, 11),
    (1, at(2), "LAB//RESULT//1//mg/dL", 1.5, 11),
    (1, at(2), "LAB//RESULT//1//mg/dL", 2.5, 11),
    (1, at(2), "LAB//RESULT//1//mg/dL", float("nan"), 11),
    (1, at(3), "DIAGNOSIS//ICD//10//I509", None, 11),
    (1, at(3), "HOSPITAL_DISCHARGE//EXPIRED", None, 11),
    (2, at(1), "HOSPITAL_ADMISSION//URGENT", None, 21),
    (2, at(9), "LAB//RESULT//1//mg/dL", 9, 21),
    (2, at(9), "DIAGNOSIS//ICD//9//4280", None, None),
]


def test_a_small_dataset_without_metadata(tmp_path: Path) -> None:
    records = eq.read_meds(dataset(tmp_path, ROWS))
    assert records.visits[schema.LABEL].to_list() == [True, None]
    assert records.subjects["sex"].to_list() == ["F", "Unknown"]
    assert records.subjects["age_band"].to_list() == ["19-74", "Unknown"]
    assert records.subjects[schema.SPLIT].null_count() == 2
    assert records.lab_values.tolist() == [2.0, 9.0]
    assert outcomes(records, "data (codes)")["no visit id"] == 1
    by_time = eq.read_meds(tmp_path, settings=MedsSettings(visits="codes"))
    assert by_time.visits[schema.LABEL].to_list() == [True]
    first = next(iter(by_time.oddities.items()))
    assert first == ("admissions without a discharge before the next one (no visit)", 1)


@pytest.mark.parametrize("visits", [None, "codes"])
def test_a_discharge_that_says_nothing_is_no_survival(tmp_path: Path, visits: str | None) -> None:
    deaths = {1: at(4), 2: at(5) + timedelta(hours=8), 3: at(7), 4: None, 5: at(1)}
    rows: list[Row] = []
    for subject, death in deaths.items():
        stays = [("HOSPITAL_ADMISSION//X", at(3)), ("HOSPITAL_DISCHARGE//UNK", at(5))]
        for code, time in stays:
            rows.append((subject, time, code, None, subject))
        if death:
            rows.append((subject, death, "MEDS_DEATH", None, None))
    settings = MedsSettings(visits=visits)
    records = eq.read_meds(dataset(tmp_path / "deaths", rows), settings=settings)
    # In the stay; on its last day; later; never, where deaths are recorded; and before it.
    assert records.visits[schema.LABEL].to_list() == [True, None, False, False, None]
    (silent,) = (n for name, n in records.oddities.items() if "do not say the outcome" in name)
    assert silent == 5
    alive = [row for row in rows if row[2] != "MEDS_DEATH"]
    with pytest.raises(eq.UsageError, match="cannot say in_hospital_mortality"):
        eq.read_meds(dataset(tmp_path / "no deaths", alive), settings=settings)


@pytest.mark.parametrize("dtype", [pl.Float64, pl.String])
def test_visit_ids_of_other_types(tmp_path: Path, dtype: type[pl.DataType]) -> None:
    wanted = eq.read_meds(dataset(tmp_path / "a", ROWS))
    path = dataset(tmp_path / "b", ROWS) / "data" / "train" / "0.parquet"
    frame = pl.read_parquet(path)
    frame.with_columns(frame["hadm_id"].cast(pl.Float64).cast(dtype)).write_parquet(path)
    got = eq.read_meds(tmp_path / "b")
    assert got.visits.equals(wanted.visits)
    assert got.ledger.equals(wanted.ledger)
    assert got.lab_values.tolist() == wanted.lab_values.tolist()


@pytest.mark.parametrize("wrong", [pl.Series(["H11"]), pl.Series([10.5]), pl.Series(["1e3"])])
def test_visit_ids_that_are_no_numbers_are_named(tmp_path: Path, wrong: pl.Series) -> None:
    path = dataset(tmp_path, ROWS) / "data" / "train" / "0.parquet"
    frame = pl.read_parquet(path)
    ids = frame["hadm_id"].cast(wrong.dtype).scatter(2, wrong)
    frame.with_columns(hadm_id=ids).write_parquet(path)
    with pytest.raises(eq.DataError) as caught:
        eq.read_meds(tmp_path)
    error = caught.value
    assert (error.table, error.column, error.got) == ("0.parquet", "hadm_id", str(wrong[0]))
    assert error.want == "a whole number"


def test_missing_visit_ids_of_pandas(tmp_path: Path) -> None:
    wanted = eq.read_meds(dataset(tmp_path / "a", ROWS))
    path = dataset(tmp_path / "b", ROWS) / "data" / "train" / "0.parquet"
    frame = pl.read_parquet(path)
    ids = frame["hadm_id"].cast(pl.Float64).fill_null(float("nan"))
    frame.with_columns(hadm_id=ids).write_parquet(path)
    got = eq.read_meds(tmp_path / "b")
    assert got.visits.equals(wanted.visits)
    assert got.ledger.equals(wanted.ledger)


STAYS: list[Row] = [
    (1, at(1), "HOSPITAL_ADMISSION//X", None, 10),
    (1, at(9), "HOSPITAL_DISCHARGE//HOME", None, 10),
    (2, at(1), "HOSPITAL_ADMISSION//X", None, 20),
    (2, at(3), "HOSPITAL_DISCHARGE//HOME", None, 20),
    (2, at(4), "HOSPITAL_ADMISSION//X", None, 21),
    (2, at(6), "HOSPITAL_DISCHARGE//HOME", None, 21),
    (2, at(2), "SEEN", None, None),
    (2, at(5), "SEEN", None, None),
    (2, at(5), "LAB//1", 2.5, None),
    (2, at(8), "SEEN", None, None),
    (2, None, "SEEN", None, None),
]


@pytest.mark.parametrize("until", [None, "admission+1d"])
def test_events_in_visits_that_the_task_left_out(tmp_path: Path, until: str | None) -> None:
    """The second visit is back within 30 days of the first one, which ends the record."""
    root = dataset(tmp_path, STAYS)
    settings = MedsSettings(visits="codes")
    records = eq.read_meds(root, "readmission_30d", settings=settings, until=until)
    assert records.visits["start"].to_list() == [at(1), at(1)]
    codes = outcomes(records, "data (codes)")
    assert codes.pop("opens or closes a visit") == 6
    assert codes == {
        "used": 1,
        "visit left out by the task": 1,
        "outside every visit": 1,
        "no event time": 1,
    }
    assert outcomes(records, "data (values)") == {"visit left out by the task": 1}


def test_metadata_without_a_row_are_no_metadata(tmp_path: Path) -> None:
    root = dataset(tmp_path, ROWS)
    (root / "metadata").mkdir()
    nothing = {"code": pl.String, "description": pl.String}
    pl.DataFrame(schema=nothing).write_parquet(root / "metadata" / "codes.parquet")
    splits = {"subject_id": pl.Int64, "split": pl.String}
    pl.DataFrame(schema=splits).write_parquet(root / "metadata" / "subject_splits.parquet")
    assert eq.read_meds(root).subjects[schema.SPLIT].null_count() == 2


def test_bad_datasets(tmp_path: Path) -> None:
    shared = [(*row[:4], 5) for row in ROWS]
    eicu = dataset(tmp_path / "eicu", shared)
    with pytest.raises(eq.DataError, match=r"hadm_id: want visit ids that belong to one subject"):
        eq.read_meds(eicu)
    nothing = dataset(tmp_path / "nothing", [(1, at(1), "X", None, None)], {"hadm_id": "other"})
    with pytest.raises(eq.DataError, match="want codes that begin with HOSPITAL_ADMISSION"):
        eq.read_meds(nothing)
    with pytest.raises(eq.DataError, match="column encounter: want this column"):
        eq.read_meds(nothing, settings=MedsSettings(visits="encounter"))
    other = dataset(tmp_path / "other", ROWS, {"code": "concept"})
    with pytest.raises(eq.DataError, match="column code: want this column; got subject_id"):
        eq.read_meds(other)
    (other / "data" / "train" / "0.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(eq.DataError, match=r"0\.parquet: want a table that can be read"):
        eq.read_meds(other)
    with pytest.raises(eq.DataError, match="want a folder of tables"):
        eq.read_meds(tmp_path / "absent")
