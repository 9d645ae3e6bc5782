"""An experiment in pieces: run by any number of processes, stopped anywhere, the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from equipoise import store
from equipoise.balance import METHODS, fairplay, oracle_from
from equipoise.cohort import Cohort
from equipoise.errors import DataError, EquipoiseError, UsageError
from equipoise.evaluate.classifier import Classifier
from equipoise.evaluate.downstream import logistic_regression
from equipoise.evaluate.experiment import Running, run_experiment
from equipoise.evaluate.pieces import Parts
from equipoise.evaluate.pooling import judge_again
from equipoise.evaluate.results import FRAMES, Results
from equipoise.training_set import TrainingSet
from generator_toys import SMALL
from toys import ToyRecords, toy_cohort

BY = ["sex", "race"]
TINY = replace(SMALL, max_steps=2, evaluate_every=1, patience=1)
PLAIN = {name: METHODS[name] for name in ("original", "class_weight", "upsample", "separate")}


def run(methods: Any = PLAIN, **running: Any) -> Results:
    return run_experiment(
        ToyRecords(toy_cohort(120)),
        BY,
        methods,
        models={"logistic": logistic_regression},
        folds=2,
        resamples=20,
        running=Running(**{"threads": 1} | running),
    )


def frames(results: Results, folder: Path) -> dict[str, bytes]:
    results.save(folder)
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def kept(folder: Path) -> dict[str, int]:
    """The finished pieces and when they were."""
    found = [*folder.glob("fold-*/*/[!.]*/manifest.json"), *folder.glob("fold-*/*/cells.parquet")]
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in found
        if path.parent.name != "training" and "/." not in str(path)
    }


# ---- in other processes ----


def die(train: Cohort, by: Sequence[str], **_: Any) -> Cohort:
    del train, by
    os._exit(3)


def fail(*_: Any) -> Classifier:
    raise DataError("this model does not like these data")


def slow(train: Cohort, by: Sequence[str], **_: Any) -> Cohort:
    del by
    time.sleep(60)
    return train


def test_the_number_of_processes_changes_no_byte(tmp_path: Path) -> None:
    methods = {**PLAIN, "fairplay": partial(fairplay, config=TINY)}
    one, two = (run(methods, threads=n) for n in (1, 2))
    assert frames(one, tmp_path / "one") == frames(two, tmp_path / "two")
    assert (one.cells.filter(method="fairplay")["synthetic"] > 0).any()


def test_what_cannot_be_sent_is_named() -> None:
    with pytest.raises(UsageError, match="mine cannot be sent to another process"):
        run({"mine": lambda train, by, **_: train}, threads=2)


def test_a_process_that_dies_is_told_and_the_rest_is_kept(tmp_path: Path) -> None:
    with pytest.raises(EquipoiseError, match="a process died; at work were .*dead"):
        run({"original": METHODS["original"], "dead": die}, threads=2, keep=tmp_path)
    assert any("original" in name for name in kept(tmp_path))


SCRIPT = """
import sys, test_pieces as t
from equipoise.balance import METHODS
from pathlib import Path
t.run({"original": METHODS["original"], "slow": t.slow}, threads=2, keep=Path(sys.argv[1]))
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_run_again_it_repeats_nothing(tmp_path: Path, sent: signal.Signals) -> None:
    keep = tmp_path / "keep"
    keep.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(keep)],
        cwd=Path(__file__).parent,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + 60
        while not list(keep.glob("fold-0/original/logistic/manifest.json")):
            assert process.poll() is None, (process.stderr or sys.stdin).read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(sent)
        process.wait(20)
    deadline = time.monotonic() + 20
    while subprocess.run(["pgrep", "-g", str(process.pid)], check=False).returncode == 0:
        assert time.monotonic() < deadline, "a process of the pool outlives the first"
        time.sleep(0.05)
    before = kept(keep)
    assert "fold-0/original/logistic/manifest.json" in before
    resumed = run({"original": METHODS["original"], "upsample": METHODS["upsample"]}, keep=keep)
    after = kept(keep)
    assert {name: after[name] for name in before} == before
    whole = run({"original": METHODS["original"], "upsample": METHODS["upsample"]})
    assert frames(resumed, tmp_path / "a") == frames(whole, tmp_path / "b")
    assert not list(keep.glob("fold-*/*/training"))


# ---- what is kept ----


def test_an_error_in_one_model_loses_nothing(tmp_path: Path) -> None:
    records = ToyRecords(toy_cohort(120))
    models = {"logistic": logistic_regression, "bad": fail}
    running = Running(threads=1, keep=tmp_path)
    with pytest.raises(DataError, match="does not like"):
        run_experiment(records, BY, PLAIN, models=models, folds=2, running=running)
    assert "fold-0/original/logistic/manifest.json" in kept(tmp_path)
    again = run(PLAIN, keep=tmp_path)
    assert again.predictions.equals(run(PLAIN).predictions)


def test_pieces_of_another_question_are_refused(tmp_path: Path) -> None:
    run({"original": METHODS["original"]}, keep=tmp_path)
    run(PLAIN, keep=tmp_path)
    with pytest.raises(UsageError, match="another inputs: ask for the same"):
        run(PLAIN, keep=tmp_path, inputs={"records": "sha256:ab"})
    records = ToyRecords(toy_cohort(120))
    running = Running(threads=1, keep=tmp_path)
    with pytest.raises(UsageError, match="another folds, seed"):
        run_experiment(records, BY, PLAIN, folds=3, seed=1, running=running)


def test_an_oracle_of_other_records_is_refused(tmp_path: Path) -> None:
    """It may be added to what is kept, but its pieces are those of one hospital."""
    fresh = []
    for name in "ab":
        folder = tmp_path / name
        with store.writing(folder, "records", config={"name": name}):
            pass
        fresh.append(folder)
    plain = {"original": METHODS["original"]}

    def check(methods: Any) -> None:
        # The records are empty: what stops it comes behind the question whether they are the same.
        with pytest.raises(DataError, match="want an Arrow file"):
            run(methods, keep=tmp_path / "keep")

    (tmp_path / "keep").mkdir()
    run(plain, keep=tmp_path / "keep")
    check({**plain, "oracle": oracle_from(fresh[0])})
    run(plain, keep=tmp_path / "keep")
    check({**plain, "oracle": oracle_from(fresh[0])})
    with pytest.raises(UsageError, match="another oracle: ask for the same"):
        run({**plain, "oracle": oracle_from(fresh[1])}, keep=tmp_path / "keep")


def test_judging_again_needs_no_model() -> None:
    results = run()
    again = judge_again(results)
    for name in FRAMES:
        assert getattr(again, name).equals(getattr(results, name)), name
    assert again.notes == results.notes
    fewer = judge_again(results, min_share=0.05)
    assert fewer.predictions is results.predictions
    assert len(fewer.metrics) < len(results.metrics)


def test_a_training_set_and_its_fold_survive_the_disk(tmp_path: Path) -> None:
    cohort = toy_cohort(30)
    vocabulary = replace(cohort.vocabulary, fitted_on=cohort.subjects["subject_id"].to_numpy())
    cohort = replace(cohort, vocabulary=vocabulary)
    weights = pl.Series([1.5] * len(cohort.visits)).to_numpy()
    TrainingSet(cohort, weights, ("sex",)).save(tmp_path / "set")
    again = TrainingSet.load(tmp_path / "set")
    assert again.apart == ("sex",)
    assert again.weights is not None
    assert (again.weights == weights).all()
    assert (again.cohort.codes == cohort.codes).all()
    Parts(cohort, cohort, cohort).save(tmp_path / "parts")
    fitted_on = Parts.load(tmp_path / "parts").train.vocabulary.fitted_on
    assert fitted_on is not None
    assert (fitted_on == vocabulary.fitted_on).all()
    with pytest.raises(DataError, match="want finite numbers from 0"):
        TrainingSet(cohort, -weights)
    with pytest.raises(DataError, match="one a visit; got 1"):
        TrainingSet(cohort, weights[:1])
