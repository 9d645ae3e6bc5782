"""The whole road by the command line: on the real demo, and from the simulated hospital."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import equipoise as eq
from command import SET_TINY, TINY, cli, cli_process
from equipoise import schema
from equipoise.generator import GeneratorConfig
from equipoise.pipeline import Comparison, Job, run_all


@pytest.mark.slow
def test_the_real_demo_becomes_a_report(shared_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    root = shared_data / "mimic-iv-demo"
    # Compiled as users have it, which pays here: the networks are no toys.
    road = ("run", "mimic-iv", root, "--by", "sex", "--out", out, "--folds", 2)
    done = cli_process(*road, XLA_FLAGS="")
    assert done.returncode == 0, done.stderr
    assert str(out / "report.html") in done.stdout.replace("\n", "")
    page = (out / "report.html").read_text()
    assert "275" in page
    assert "107" in page
    records = eq.VisitRecords.load(out / "records")
    assert (len(records), len(records.visits)) == (100, 275)
    balanced = eq.Cohort.load(out / "balanced")
    cells = balanced.subjects.group_by(schema.LABEL, "sex").agg(pl.len())
    assert cells["len"].n_unique() == 1, "every cell is as large as the largest"
    real = balanced.filter(~balanced.subjects[schema.SYNTHETIC])
    assert len(real) == 100
    found = json.loads(cli("inspect", out, "--json").stdout)
    assert found["results"]["positives"] == 15
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


@pytest.mark.slow
def test_the_verbs_one_by_one(tmp_path: Path) -> None:
    hospital, records, model = tmp_path / "hospital", tmp_path / "records", tmp_path / "model"
    plan, synthetic = tmp_path / "plan.csv", tmp_path / "synthetic"
    plan.write_text("label,sex,synthetic\ntrue,F,7\nfalse,M,2\n")
    few = ("--labs", 10, "--folds", 2, "--out", tmp_path / "results")
    steps: list[tuple[object, ...]] = [
        ("simulate", "--patients", 300, "--seed", 1, "--out", hospital),
        ("extract", "mimic-iv", hospital, "--out", records),
        ("train", records, "--by", "sex", "--out", model, "--labs", 10, *SET_TINY),
        ("sample", model, "--plan", plan, "--out", synthetic),
        ("sample", model, "--balance", "--out", tmp_path / "filled"),
        ("evaluate", records, "--by", "sex", "--methods", "original,upsample", *few),
        ("report", tmp_path / "results", "--out", tmp_path / "report.html"),
    ]
    for step in steps:
        done = cli(*step)
        assert done.returncode == 0, (step, done.stderr)
    cohort = eq.Cohort.load(synthetic)
    assert cohort.subjects[schema.SYNTHETIC].all()
    counts = cohort.subjects.group_by(schema.LABEL, "sex").agg(pl.len()).sort(schema.LABEL)
    assert counts.rows() == [(False, "M", 2), (True, "F", 7)]
    assert (tmp_path / "report.html").stat().st_size > 50_000
    for folder in (records, model, synthetic, tmp_path / "results"):
        assert cli("inspect", folder).returncode == 0
        assert json.loads(cli("inspect", folder, "--json").stdout)["kind"]
    again = cli_process("sample", model, "--plan", plan, "--out", tmp_path / "again")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again" / "codes.arrow").read_bytes() == (
        synthetic / "codes.arrow"
    ).read_bytes()


@pytest.mark.slow
def test_the_last_training_goes_on_where_it_was_stopped(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = GeneratorConfig(**TINY, evaluate_every=10)
    monkeypatch.setattr(GeneratorConfig, "for_cohort", lambda _: tiny)
    records = eq.read_tables(shared_data / "support2", "support2").take(np.arange(400))
    comparison = Comparison(("sex",), ("original",), ("logistic_regression",), folds=2)

    def run(name: str, *, resume: bool = False, stop: float = np.inf) -> list[int]:
        """The steps of the one training, that of all subjects; Ctrl-C comes at `stop`."""
        steps: list[int] = []

        def progress(stage: str, done: int, _: int) -> None:
            if stage == "train":
                steps.append(done)
                if done >= stop:
                    raise KeyboardInterrupt

        run_all(records, comparison, Job(tmp_path / name, {}, resume=resume, progress=progress))
        return steps

    assert run("whole")[0] == 1
    with pytest.raises(KeyboardInterrupt):
        run("stopped", stop=30)
    assert not (tmp_path / "stopped").exists()
    assert run("stopped", resume=True)[0] > 1
    weights = [tmp_path / name / "model" / "weights.safetensors" for name in ("whole", "stopped")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stopped", "whole"]


def test_usage_errors_end_with_two(tmp_path: Path) -> None:
    for arguments in (["extract"], ["sing"], ["sample", tmp_path, "--out", tmp_path / "x"]):
        done = cli_process(*arguments)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
    done = cli("inspect", tmp_path / "nothing")
    assert done.returncode == 1
    assert "want a finished folder" in done.stderr
