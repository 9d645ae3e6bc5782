"""What a folder says of how it was made, and which folders `--force` may replace."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import equipoise as eq
from command import cli
from equipoise import store
from equipoise.balance import METHODS
from equipoise.errors import DataError, UsageError
from equipoise.evaluate.experiment import Running, run_experiment
from equipoise.simulate import simulate
from toys import ToyRecords, toy_cohort


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("provenance") / "hospital"
    return simulate(out, patients=60, seed=9, file_format="csv", lab_rows_per_patient=40)


def labels(path: Path, hospital: Path, flip: bool) -> Path:
    admissions = pl.read_csv(hospital / "hosp" / "admissions.csv")
    died = (admissions["hospital_expire_flag"] == 1) ^ flip
    rows = admissions.select("subject_id", visit_id="hadm_id", boolean_value=died)
    rows.write_csv(path)
    return path


def test_manifests_tell_apart_what_was_asked_for(hospital: Path, tmp_path: Path) -> None:
    races = tmp_path / "races.csv"
    races.write_text("race,group\nWHITE,White\n")
    same = tmp_path / "labels.csv"
    asked: list[tuple[object, ...]] = [
        (),
        ("--age-cuts", "40,60"),
        ("--race-table", races),
        ("--lab-key", "item,unit"),
        ("--codes", "diagnosis,procedure"),
        ("--labels", same),
        ("--labels", same),
    ]
    made = set()
    for number, options in enumerate(asked):
        labels(same, hospital, flip=number == len(asked) - 1)
        out = tmp_path / f"out{number}"
        done = cli("extract", "mimic-iv", hospital, "--out", out, *options)
        assert done.returncode == 0, done.stderr
        made.add((out / "manifest.json").read_text())
    assert len(made) == len(asked)


def test_records_of_streams_tell_what_the_columns_were_called(tmp_path: Path) -> None:
    visits = pl.DataFrame({"subject_id": [1], "visit_id": [11], "label": [True], "died": [False]})
    codes = pl.DataFrame({"visit_id": [11], "code": ["I10"], "version": ["ICD10"], "at": [None]})
    codes = codes.cast({"at": pl.Datetime("us")})
    asked = [
        eq.EventColumns(),
        eq.EventColumns(system="version"),
        eq.EventColumns(time="at"),
        eq.EventColumns(label="died"),
    ]
    made = []
    for number, columns in enumerate(asked):
        records = eq.read_events(visits, codes=codes, columns=columns)
        folder = records.save(tmp_path / f"records{number}")
        config = store.read_manifest(folder, "records")["config"]
        assert config == records.config
        assert config["columns"] == asdict(columns)
        assert (config["source"], config["codes"]) == ("streams", ["diagnosis"])
        assert config not in made
        made.append(config)
    assert eq.read_events(visits, codes=codes).config == made[0]


def test_files_of_one_name_have_a_digest_each(hospital: Path, tmp_path: Path) -> None:
    root = tmp_path / "hospital"
    shutil.copytree(hospital / "hosp", root / "hosp")
    table = root / "hosp" / "labevents.csv"
    for shard in ("a", "b"):
        (root / "hosp" / "labevents" / shard).mkdir(parents=True)
        shutil.copy(table, root / "hosp" / "labevents" / shard / "0.csv")
    table.unlink()
    done = cli("extract", "mimic-iv", root, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    inputs = json.loads((tmp_path / "out" / "manifest.json").read_text())["inputs"]
    assert {"hosp/labevents/a/0.csv", "hosp/labevents/b/0.csv", "hosp/patients.csv"} <= set(inputs)


def test_a_task_and_labels_contradict_each_other(hospital: Path, tmp_path: Path) -> None:
    given = labels(tmp_path / "labels.csv", hospital, flip=False)
    options = ("--labels", given, "--task", "readmission_30d")
    done = cli("extract", "mimic-iv", hospital, "--out", tmp_path / "out", *options)
    assert done.returncode == 2
    assert "either a task or a table of labels" in done.stderr


@pytest.mark.parametrize("manifest", [None, "{}", '{"name": "my web app"}', "[1]", "no json"])
def test_force_removes_nothing_of_others(
    hospital: Path, tmp_path: Path, manifest: str | None
) -> None:
    out = tmp_path / "webapp"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    if manifest is not None:
        (out / store.MANIFEST).write_text(manifest)
    done = cli("extract", "mimic-iv", hospital, "--out", out, "--force")
    assert done.returncode == 2
    assert "was not written by equipoise" in done.stderr
    assert (out / "thesis.txt").read_text() == "years of work"


def test_force_replaces_no_file_by_a_folder(hospital: Path, tmp_path: Path) -> None:
    out = tmp_path / "notes.txt"
    out.write_text("years of work")
    done = cli("extract", "mimic-iv", hospital, "--out", out, "--force")
    assert done.returncode == 2
    assert out.read_text() == "years of work"


def test_pieces_of_other_visits_are_refused(tmp_path: Path) -> None:
    """The same subjects and labels, as from another `--lab-key`."""
    cohort = toy_cohort(120)
    running = Running(threads=1, keep=tmp_path)
    plain = {"original": METHODS["original"]}
    run_experiment(ToyRecords(cohort), ["sex"], plain, folds=2, running=running)
    cohort.codes[np.argmax(cohort.codes)] -= 1
    with pytest.raises(UsageError, match="had another visits"):
        run_experiment(ToyRecords(cohort), ["sex"], plain, folds=2, running=running)


def unknown_setting(folder: Path) -> None:
    (folder / "vocabulary.json").write_text('{"labs": 50, "colour": "red"}')


def no_batch(folder: Path) -> None:
    import pyarrow as pa

    path = folder / "events.arrow"
    schema = pa.ipc.open_file(path).schema
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema):
        pass


@pytest.mark.parametrize(
    ("damage", "load"), [(unknown_setting, eq.Cohort.load), (no_batch, eq.VisitRecords.load)]
)
def test_a_damaged_folder_is_refused(
    hospital: Path, tmp_path: Path, damage: Callable[[Path], None], load: Callable[[Path], object]
) -> None:
    records = eq.read_mimic_iv(hospital)
    thing = records if load is eq.VisitRecords.load else records.encode(records.fit_vocabulary())
    damage(thing.save(tmp_path / "out"))
    with pytest.raises(DataError, match="want"):
        load(tmp_path / "out")


@pytest.mark.parametrize("kind", ["records", "cohort"])
def test_a_changed_bit_is_refused_or_changes_a_number(
    hospital: Path, tmp_path: Path, kind: str
) -> None:
    """No other error, and nothing is read beyond an end: lengths, offsets, numbers and types."""
    records = eq.read_mimic_iv(hospital)
    vocabulary = records.fit_vocabulary()
    thing = records if kind == "records" else records.encode(vocabulary)
    out = thing.save(tmp_path / "out")
    path = out / ("events.arrow" if kind == "records" else "codes.arrow")
    whole, rng, refused = path.read_bytes(), np.random.default_rng(3), 0
    for place, bit in zip(rng.integers(0, len(whole), 200), rng.integers(0, 8, 200), strict=True):
        changed = bytearray(whole)
        changed[place] ^= 1 << bit
        path.write_bytes(changed)
        try:
            if kind == "records":
                found = eq.VisitRecords.load(out)
                found.encode(found.fit_vocabulary())
            else:
                found = eq.Cohort.load(out)
            found.take(np.arange(len(found))[::-1])
        except DataError as error:
            refused += 1
            assert str(path) in str(error) or "offsets from 0 to" in str(error)
    assert 20 < refused < 180


def test_the_version_and_what_there_is_without_a_verb() -> None:
    done = cli("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("equipoise ")
    bare = cli()
    assert "Usage" in bare.stdout + bare.stderr
    assert "error" not in bare.stderr


def test_where_nothing_is_kept_nothing_is_promised(tmp_path: Path) -> None:
    out = tmp_path / "file" / "out"
    out.parent.write_text("no folder")
    done = cli("run", "mimic-iv", tmp_path / "nowhere", "--by", "sex", "--out", out)
    assert done.returncode == 1
    assert "--resume" not in done.stderr
