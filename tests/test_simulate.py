"""The simulated hospital: MIMIC-IV's layout, its marks, and a truth that is one."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from equipoise import store
from equipoise.errors import UsageError
from equipoise.simulate import files, simulate
from equipoise.simulate.catalog import RARE_FIRST_ITEM, load_diagnoses, load_labs
from equipoise.simulate.conditions import CONDITIONS, FAILING_LABS, LAB_DEATH, RACE_LAB_DEATH

PATIENTS = 4000
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


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One hospital in each format."""
    folder = tmp_path_factory.mktemp("hospitals")
    for file_format in ("csv", "csv.gz", "parquet"):
        simulate(
            folder / file_format,
            patients=PATIENTS,
            file_format=file_format,
            lab_rows_per_patient=60.0,
        )
    return folder


@pytest.fixture(scope="module")
def tables(hospitals: Path) -> dict[str, pl.DataFrame]:
    hospital = hospitals / "parquet"
    frames = {name: pl.read_parquet(hospital / "hosp" / f"{name}.parquet") for name in TABLES}
    return frames | {"truth": pl.read_parquet(hospital / "truth.parquet")}


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("one", 7), ("two", 7), ("three", 8)):
        simulate(tmp_path / name, patients=300, seed=seed, lab_rows_per_patient=30.0)
    one, two, three = (digests(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two
    assert one["hosp/labevents.csv.gz"] != three["hosp/labevents.csv.gz"]
    assert store.read_manifest(tmp_path / "one", "simulated-hospital")["seed"] == 7


def test_the_first_chunk_does_not_depend_on_the_later_ones(hospitals: Path, tmp_path: Path) -> None:
    simulate(tmp_path / "s", patients=2000, file_format="csv", lab_rows_per_patient=60.0)
    for name in ("patients", "admissions", "labevents"):
        small = (tmp_path / "s" / "hosp" / f"{name}.csv").read_bytes()
        large = (hospitals / "csv" / "hosp" / f"{name}.csv").read_bytes()
        assert large.startswith(small)


def test_every_format_holds_the_same_tables(
    hospitals: Path, tables: dict[str, pl.DataFrame]
) -> None:
    for name in TABLES:
        text = hospitals / "csv" / "hosp" / f"{name}.csv"
        packed = hospitals / "csv.gz" / "hosp" / f"{name}.csv.gz"
        assert gzip.decompress(packed.read_bytes()) == text.read_bytes()
        want = tables[name]
        types = {
            column: pl.String if dtype.is_temporal() else dtype
            for column, dtype in want.schema.items()
        }
        got = pl.read_csv(packed, schema=types).with_columns(
            pl.col(column).str.strptime(dtype)
            for column, dtype in want.schema.items()
            if dtype.is_temporal()
        )
        assert got.equals(want), name
    truths = {
        (hospitals / file_format / "truth.parquet").read_bytes()
        for file_format in ("csv", "csv.gz", "parquet")
    }
    assert len(truths) == 1


def test_columns_are_those_of_the_real_tables(
    tables: dict[str, pl.DataFrame], shared_data: Path
) -> None:
    for name in TABLES:
        path = shared_data / "mimic-iv-demo" / "hosp" / f"{name}.csv.gz"
        with gzip.open(path, "rt", encoding="utf-8") as file:
            assert file.readline().rstrip().split(",") == tables[name].columns, name


def test_codes_and_items_are_real(shared_data: Path) -> None:
    hosp = shared_data / "mimic-iv-demo" / "hosp"
    real = pl.read_csv(hosp / "d_icd_diagnoses.csv.gz", schema_overrides={"icd_code": pl.String})
    for version in (9, 10):
        known = real.filter(icd_version=version)["icd_code"].str.strip_chars()
        assert load_diagnoses().frame[f"icd{version}_code"].is_in(known.to_list()).all()
    items = pl.read_csv(hosp / "d_labitems.csv.gz")
    ours = load_labs().frame.filter(pl.col("itemid") < RARE_FIRST_ITEM)
    both = ours.join(items, on="itemid", suffix="_real")
    assert both.height == ours.height
    assert (both["label"] == both["label_real"]).all()
    assert items["itemid"].max() < RARE_FIRST_ITEM


def test_every_lab_that_is_spoken_of_exists() -> None:
    sources = [condition.labs for condition in CONDITIONS]
    sources += [FAILING_LABS, LAB_DEATH, *RACE_LAB_DEATH.values()]
    for label in {label for source in sources for label in source}:
        assert load_labs().frame["label"][load_labs().index(label)] == label


def test_ids_refer_to_rows_that_exist(tables: dict[str, pl.DataFrame]) -> None:
    admissions = tables["admissions"]
    assert admissions["hadm_id"].is_unique().all()
    assert tables["patients"]["subject_id"].is_unique().all()
    assert tables["patients"].height == PATIENTS
    assert admissions["subject_id"].is_in(tables["patients"]["subject_id"].to_list()).all()
    key = ["subject_id", "hadm_id"]
    for name in ("diagnoses_icd", "procedures_icd", "prescriptions", "truth"):
        assert tables[name].join(admissions, on=key, how="anti").is_empty(), name
    assert tables["truth"].height == admissions.height
    labs = tables["labevents"]
    assert labs["labevent_id"].to_list() == list(range(1, labs.height + 1))
    assert labs["subject_id"].is_sorted()
    attached = labs.drop_nulls("hadm_id")
    assert attached.join(admissions, on=key, how="anti").is_empty()
    inside = attached.join(admissions, on=key)
    assert inside["charttime"].is_between(inside["admittime"], inside["dischtime"]).all()
    assert labs["itemid"].is_in(tables["d_labitems"]["itemid"].to_list()).all()
    codes = tables["diagnoses_icd"].join(
        tables["d_icd_diagnoses"], on=["icd_code", "icd_version"], how="anti"
    )
    assert codes.is_empty()
    assert not tables["diagnoses_icd"].select("hadm_id", "icd_code").is_duplicated().any()


def test_time_runs_forward(tables: dict[str, pl.DataFrame]) -> None:
    stays = tables["admissions"].sort("subject_id", "admittime")
    assert (stays["dischtime"] > stays["admittime"]).all()
    gap = pl.col("admittime") - pl.col("dischtime").shift(1).over("subject_id")
    assert stays.filter(gap <= pl.duration()).is_empty()
    dead = pl.col("hospital_expire_flag") == 1
    assert stays.filter(pl.col("deathtime").is_not_null() != dead).is_empty()
    gone = stays.filter(dead)
    assert gone["deathtime"].is_between(gone["admittime"], gone["dischtime"]).all()
    assert (gone["discharge_location"] == "DIED").all()
    last = stays.group_by("subject_id").agg(pl.col("hadm_id").last().alias("last"))
    assert gone.join(last, on="subject_id").filter(pl.col("hadm_id") != pl.col("last")).is_empty()
    people = tables["patients"]
    known = gone.join(people, on="subject_id")
    assert (known["dod"] == known["deathtime"].dt.date()).all()
    assert people["dod"].count() > gone.height
    labs = tables["labevents"].join(people.drop_nulls("dod"), on="subject_id")
    assert (labs["charttime"].dt.date() <= labs["dod"]).all()


def test_the_marks_of_real_tables(tables: dict[str, pl.DataFrame], hospitals: Path) -> None:
    labs = tables["labevents"]
    assert labs["hadm_id"].is_null().mean() == pytest.approx(0.43, abs=0.02)
    assert labs.height == pytest.approx(60 * PATIENTS, rel=0.05)
    assert 0.03 < labs["valuenum"].is_null().mean() < 0.15
    assert {"___", "NEG", "999999"} <= set(labs["value"])
    assert labs["value"].str.starts_with("< ").any()
    hidden = labs.filter(value="___")
    assert 0.5 < hidden["valuenum"].is_not_null().mean() < 1
    raw = (hospitals / "csv" / "hosp" / "labevents.csv").read_text()
    assert '"VERIFIED, ""1 NRBC""/100 WBCS SEEN."' in raw
    assert 'VERIFIED, "1 NRBC"/100 WBCS SEEN.' in set(labs["comments"])
    assert labs["comments"].str.contains("\n").any()
    assert labs["itemid"].n_unique() > 250
    frequency = labs["itemid"].value_counts(sort=True)["count"]
    assert frequency[0] > 100 * frequency[200]
    sodium = labs.filter(itemid=50983)["valuenum"].drop_nulls()
    assert (sodium == sodium.round()).all()
    assert sodium.median() == pytest.approx(138, abs=2)
    assert set(tables["diagnoses_icd"]["icd_version"]) == {9, 10}
    assert set(tables["patients"]["gender"]) == {"F", "M"}


def test_groups_are_as_skewed_as_mimic(tables: dict[str, pl.DataFrame]) -> None:
    share = dict(tables["truth"]["group"].value_counts(normalize=True).iter_rows())
    assert 0.6 < share["white"] < 0.75
    assert 0.10 < share["black"] < 0.22
    assert all(0.01 < share[group] < 0.10 for group in ("hispanic", "asian", "other"))
    values = tables["admissions"].group_by("subject_id").agg(pl.col("race").n_unique())["race"]
    assert 0 < (values > 1).mean() < 0.1
    visits = tables["admissions"].group_by("subject_id").len()["len"]
    assert visits.mean() == pytest.approx(2.45, abs=0.2)
    assert visits.max() > 10
    assert visits.len() == pytest.approx(0.61 * PATIENTS, rel=0.05)


def test_the_truth_is_true(tables: dict[str, pl.DataFrame]) -> None:
    stays = tables["truth"].join(tables["admissions"], on="hadm_id").sort("subject_id", "admittime")
    last = stays.group_by("subject_id", maintain_order=True).last()
    for frame, column in ((stays, "death_probability"), (last, "death_probability_if_last")):
        outcome, chance = frame["hospital_expire_flag"].to_numpy(), frame[column].to_numpy()
        assert roc_auc_score(outcome, chance) > 0.85
        # Calibrated: each fifth of the deaths expected comes within four standard errors.
        order = np.argsort(chance)
        part = (np.cumsum(chance[order]) / chance.sum() * 5).astype(int).clip(max=4)
        for fifth in range(5):
            p, y = chance[order][part == fifth], outcome[order][part == fifth]
            assert abs(y.sum() - p.sum()) < 4 * np.sqrt((p * (1 - p)).sum())


def test_signs_are_each_group_s_own(tables: dict[str, pl.DataFrame]) -> None:
    """A code that says much about death in one group says nothing in another."""
    dead = tables["admissions"].select("hadm_id", "hospital_expire_flag")
    shock = tables["diagnoses_icd"].filter(pl.col("icd_code").is_in(["78551", "R570"]))
    frame = (
        tables["truth"]
        .join(dead, on="hadm_id")
        .with_columns(shock=pl.col("hadm_id").is_in(shock["hadm_id"].to_list()))
    )
    white = frame.filter(group="white")
    rates = dict(white.group_by("shock").agg(pl.col("death_probability").mean()).iter_rows())
    assert rates[True] > 4 * rates[False]
    others = frame.filter(pl.col("group") != "white")
    rates = dict(others.group_by("shock").agg(pl.col("death_probability").mean()).iter_rows())
    assert rates[True] < 3 * rates[False]


def test_the_death_rate_is_a_knob(tmp_path: Path) -> None:
    simulate(
        tmp_path / "s",
        patients=2000,
        file_format="parquet",
        lab_rows_per_patient=30.0,
        death_rate=0.15,
    )
    stays = pl.read_parquet(tmp_path / "s" / "hosp" / "admissions.parquet")
    rate = stays["hospital_expire_flag"].sum() / stays["subject_id"].n_unique()
    assert rate == pytest.approx(0.15, abs=0.035)


def test_a_hospital_of_one(tmp_path: Path) -> None:
    for seed in range(4):
        for file_format in ("csv.gz", "parquet"):
            out = tmp_path / f"{seed}{file_format}"
            simulate(out, patients=1, seed=seed, file_format=file_format, lab_rows_per_patient=0.0)
            assert len(list((out / "hosp").iterdir())) == len(TABLES)


def test_progress_and_refusals(tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    out = simulate(
        tmp_path / "s",
        patients=2010,
        lab_rows_per_patient=0.0,
        progress=lambda *call: calls.append(call),
    )
    assert calls == [("simulate", 2000, 2010), ("simulate", 2010, 2010)]
    with pytest.raises(UsageError, match="exists already"):
        simulate(out, patients=10)
    for bad in (
        {"patients": 0},
        {"patients": 10, "death_rate": 1.0},
        {"patients": 10, "lab_rows_per_patient": -1.0},
        {"patients": 10, "seed": -1},
        {"patients": 10, "file_format": "csv.zst"},
    ):
        with pytest.raises(UsageError):
            simulate(tmp_path / "bad", **bad)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path / "s", patients=100, lab_rows_per_patient=0.0, progress=fail)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file_format", ["csv", "csv.gz", "parquet"])
def test_the_same_rows_in_other_pieces_give_the_same_bytes(
    tmp_path: Path, file_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "ROWS_PER_GROUP", 5000)
    rows = 24_000
    frame = pl.DataFrame({"n": np.arange(rows), "x": np.arange(rows) / 4})
    written = []
    for name, size in (("one", rows), ("many", 701)):
        file = files.open_table(tmp_path, name, file_format)
        for part in frame.iter_slices(size):
            file.write(part)
        file.close()
        written.append((tmp_path / f"{name}.{file_format}").read_bytes())
    assert written[0] == written[1]
