"""`equipoise train`: resumed, stopped, refused; and the picture of the curves."""

from __future__ import annotations

import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import polars as pl
import pytest

import equipoise as eq
from command import SET_TINY, cli, cli_process, start
from equipoise import store
from equipoise.errors import UsageError
from equipoise.generator import load_generator
from equipoise.generator.parallel import Layout
from equipoise.options import settings_in
from equipoise.pipeline import Training, parts_to_learn, train_model
from equipoise.report.curves import training_curves
from generator_toys import flags_for
from toys import toy_cohort

SPEC = """
[visits]
table = "stays"
visit = "visit"
order = "visit"
split = "part"
[tasks.dead]
column = "fate"
true = ["1"]
false = ["0"]
[[codes]]
kind = "diagnosis"
columns = ["code"]
"""
MODEL_FILES = {
    "cuts.npy",
    "curves.png",
    "generator.json",
    "manifest.json",
    "metrics.jsonl",
    "vocabulary.arrow",
    "vocabulary.json",
    "weights.safetensors",
}


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    hospital = folder / "hospital"
    assert cli("simulate", "--patients", 150, "--out", hospital).returncode == 0
    assert cli("extract", "mimic-iv", hospital, "--out", folder / "records").returncode == 0
    return folder / "records"


def snapshots(work: Path) -> set[Path]:
    return set(work.glob("[0-9]*/_CHECKPOINT_METADATA"))


def stopped(process: subprocess.Popen[str], work: Path, by: signal.Signals) -> str:
    """What it says when it is stopped after its first snapshot."""
    before = snapshots(work)
    while not snapshots(work) - before:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(by)
    return process.communicate()[1]


@pytest.mark.slow
def test_a_killed_training_goes_on_with_resume(records, tmp_path):
    work = tmp_path / ".model.work"
    train = ("train", records, "--by", "sex", "--labs", 5, *SET_TINY)
    train = (*train, "--set", "evaluate_every=2", "--set", "patience=100", "--out")
    assert cli(*train, tmp_path / "whole").returncode == 0
    stopped(start(*train, tmp_path / "model"), work, signal.SIGKILL)
    told = stopped(start(*train, tmp_path / "model", "--resume"), work, signal.SIGINT)
    assert f"stopped; what is done stays in {work}" in told
    assert "the same command with --resume goes on" in told
    done = cli(*train, tmp_path / "model", "--resume", "--seed", 3)
    assert done.returncode == 2
    assert "seed was 0, is 3" in done.stderr
    done = cli_process(*train, tmp_path / "model", "--resume")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "whole"]
    assert {path.name for path in (tmp_path / "model").iterdir()} == MODEL_FILES
    for name in MODEL_FILES:
        one, two = ((tmp_path / folder / name).read_bytes() for folder in ("whole", "model"))
        assert one == two, name


@pytest.mark.slow
def test_bad_settings_and_bad_likelihoods_leave_nothing(records, tmp_path):
    out = tmp_path / "model"
    train = ("train", records, "--by", "sex", "--labs", 5, "--out", out, *SET_TINY, "--set")
    for setting, status, told in (
        ("wdith=3", 2, "no setting wdith, but width, layers,"),
        ("width", 2, "want NAME=VALUE"),
        ("width=-3", 2, "column width: want a number above 0; got -3"),
        ("learning_rate=1e30", 1, "finite likelihood"),
    ):
        done = cli(*train, setting)
        assert done.returncode == status, done.stderr
        assert told in done.stderr.replace("\n", " ")
        assert "Traceback" not in done.stderr
        assert not list(tmp_path.iterdir())


def test_the_manifest_says_of_which_split(tmp_path):
    small = {"width": 8, "heads": 1, "layers": 1, "head_hidden": 8, "max_steps": 1}
    for split in ("train", None):
        out = tmp_path / str(split)
        asked = Training(["sex"], small, split=split)
        assert train_model(toy_cohort(60), out, asked, inputs={})
        assert store.read_manifest(out, "model")["config"]["split"] == split


@pytest.mark.slow
def test_weights_are_cut_over_devices_when_asked_for(
    records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ("width=8", "heads=1", "layers=1", "head_hidden=8", "block=16", "max_steps=3")
    train = ("train", records, "--by", "sex", "--labs", 5)
    train = (*train, *(word for setting in small for word in ("--set", setting)), "--out")
    assert cli(*train, tmp_path / "whole").returncode == 0
    done = cli_process(*train, tmp_path / "cut", "--shard-params", XLA_FLAGS=flags_for(2))
    assert done.returncode == 0, done.stderr
    one, two = (load_generator(tmp_path / name).params for name in ("whole", "cut"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), one, two)
    seen = []
    of = Layout.of
    monkeypatch.setattr(Layout, "of", lambda *asked: seen.append(asked[-1]) or of(*asked))
    settings = settings_in(list(small))
    for cut in (True, False):
        asked = Training(["sex"], settings, shard_params=cut)
        assert train_model(toy_cohort(60), tmp_path / f"{cut}", asked, inputs={})
    assert seen == [True, False]


def test_the_split_for_tuning_tells_when_to_stop(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(SPEC)
    rows = [f"{n},{'train' if n % 5 else 'tuning'},{n % 2},{n % 3}" for n in range(60)]
    (tmp_path / "stays.csv").write_text("\n".join(["visit,part,fate,code", *rows]) + "\n")
    records = eq.read_tables(tmp_path, tmp_path / "own.toml")
    settings = eq.VocabularySettings()
    cohort, tuning = parts_to_learn(records, "train", settings)
    assert tuning is not None
    assert (len(cohort), len(tuning)) == (48, 12)
    assert cohort.vocabulary.equals(tuning.vocabulary)
    small = {"width": 8, "heads": 1, "layers": 1, "head_hidden": 8, "max_steps": 1}
    train_model(
        cohort, tmp_path / "model", Training([], small, split="train"), tuning=tuning, inputs={}
    )
    assert store.read_manifest(tmp_path / "model")["config"]["tuned_on"] == "tuning"
    report = load_generator(tmp_path / "model").report
    assert (report["subjects_trained"], report["subjects_tuning"]) == (48, 12)
    assert parts_to_learn(records, None, settings)[1] is None
    unknown = pl.when(pl.col("split") == "train").then("label")
    silent = replace(records, subjects=records.subjects.with_columns(unknown.alias("label")))
    assert parts_to_learn(silent, "train", settings)[1] is None
    assert parts_to_learn(records, "tuning", settings)[1] is None


def test_settings_are_numbers_or_words():
    assert settings_in(["width=8", "learning_rate=1e-3", "dtype=auto"]) == {
        "width": 8,
        "learning_rate": 1e-3,
        "dtype": "auto",
    }
    for wrong in ("width", "=3", "width="):
        with pytest.raises(UsageError, match="NAME=VALUE"):
            settings_in([wrong])


def test_work_is_kept_when_stopped_and_removed_when_done(tmp_path):
    out = tmp_path / "model"
    with pytest.raises(KeyboardInterrupt), store.resuming(out, False) as work:
        (work / "part").mkdir()
        with pytest.raises(UsageError, match="another run"), store.resuming(out, True):
            pass
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), store.resuming(out, True) as work:
        assert (work / "part").exists()
        raise KeyboardInterrupt
    with store.resuming(out, False) as work:
        assert not list(work.iterdir())
    assert not list(tmp_path.iterdir())


def test_the_curves_are_a_picture_that_follows_the_history():
    rows = [(step, 30 / step, 31 / step + step / 9, 1e-3) for step in range(1, 20)]
    names = ["step", "train_nll", "tuning_nll", "learning_rate"]
    history = pl.DataFrame(rows, schema=names, orient="row")
    picture = training_curves(history, 16)
    assert picture.startswith(b"\x89PNG")
    assert training_curves(history, 16) == picture
    assert training_curves(history, 4) != picture
    assert training_curves(history.head(1), 1).startswith(b"\x89PNG")
