"""`equipoise evaluate` as a user meets it: bad requests are told in one line, good work is kept."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

import equipoise as eq
from command import cli
from equipoise.evaluate.results import Results

BROKEN = """
from sklearn.linear_model import LogisticRegression, RidgeClassifier

class Broken(LogisticRegression):
    def fit(self, X, y, sample_weight=None):
        raise RuntimeError("patient 17 of this table")
"""


@pytest.fixture(scope="module")
def records(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    read = eq.read_tables(shared_data / "support2", "support2")
    out = tmp_path_factory.mktemp("evaluate") / "records"
    return read.take(pl.int_range(0, 600, eager=True).to_numpy()).save(out)


@pytest.mark.parametrize(
    ("asked", "status", "told"),
    [
        (("--methods", "smoke"), 2, "want one of original, class_weight, upsample"),
        (("--models", "smoke"), 2, "want one of knn, logistic_regression"),
        (("--methods", "original@0.5"), 2, "a method that fills cells, @ and a ratio from 0 to 1"),
        (("--methods", "upsample@2"), 2, "a method that fills cells, @ and a ratio from 0 to 1"),
        (("--model", "nowhere:thing"), 2, "No module named 'nowhere'"),
        (("--by", "religion"), 1, "column religion: want a group column, one of"),
        (("--folds", "601"), 2, "folds: want at most 600"),
        (("--methods", "oracle=nowhere"), 1, "nowhere"),
        (("--methods", "oracle=a,oracle=b"), 2, "want one oracle"),
    ],
)
def test_a_bad_request_is_one_line(
    records: Path, tmp_path: Path, asked: tuple[str, str], status: int, told: str
) -> None:
    request = {"--by": "race", "--folds": "2", "--models": "xgboost", "--methods": "original"}
    request[asked[0]] = asked[1]
    out = tmp_path / "out"
    done = cli("evaluate", records, "--out", out, *(x for pair in request.items() for x in pair))
    assert done.returncode == status, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()


def test_what_was_finished_before_an_error_is_not_done_again(
    records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    ask = ("evaluate", records, "--out", "out", "--by", "race", "--folds", 2)
    small = ("--methods", "original,class_weight,separate", "--models", "logistic_regression")
    done = cli(*ask, *small, "--model", "mine:RidgeClassifier")
    assert done.returncode == 2
    assert "mine:RidgeClassifier has no predict_proba" in done.stderr
    # Side by side, the broken one may end before any other has finished.
    done = cli(*ask, *small, "--model", "mine:Broken", "--threads", 1)
    assert done.returncode == 1
    assert done.stderr.strip() == "error: EstimatorError: mine:Broken: fit raised RuntimeError"
    kept = sorted(tmp_path.glob(".out.work/fold-*/*/logistic_regression/manifest.json"))
    assert kept
    before = [path.stat().st_mtime_ns for path in kept]
    # Held open, so that what the next run removes at its end can still be looked at.
    links = [tmp_path / f"link-{n}" for n in range(len(kept))]
    for link, path in zip(links, kept, strict=True):
        link.hardlink_to(path)
    done = cli(*ask, *small, "--model", "mine:LogisticRegression", "--resume")
    assert done.returncode == 0, done.stderr
    assert [link.stat().st_mtime_ns for link in links] == before
    assert not list(tmp_path.glob(".out*"))
    results = Results.load(tmp_path / "out")
    assert results.models == ("logistic_regression", "mine:LogisticRegression")
    found = json.loads(cli("inspect", "out", "--json").stdout)
    assert found["methods"] == ["original", "class_weight", "separate"]


def test_a_group_of_one_value_and_cells_of_nobody_are_said(records: Path, tmp_path: Path) -> None:
    all_of_them = eq.VisitRecords.load(records)
    race = all_of_them.subjects["race"]
    whites = all_of_them.take((race == "White").fill_null(value=False).arg_true().to_numpy())
    whites.save(tmp_path / "whites")
    small = ("--folds", 2, "--methods", "original", "--models", "logistic_regression")
    out = tmp_path / "out"
    done = cli("evaluate", tmp_path / "whites", "--by", "race", *small, "--out", out)
    assert done.returncode == 0, done.stderr
    notes = Results.load(out).notes
    assert "race has one value only: there is nothing to balance or to compare by it" in notes
