"""The pieces of an experiment, each kept in a folder of its own as soon as it is done.

A piece is the balancing of one fold by one method, or one model fitted on that and scored. Pieces
know nothing of each other and work on one thread, so it does not matter which process does which,
nor when: a run that was stopped does what is missing and ends with the same bytes.

    setup.json                       what the pieces were asked for
    fold-0/parts/                    the fold's three encoded cohorts
    fold-0/fairplay/training/        the training set; gone once all models are done
    fold-0/fairplay/cells.parquet    who is in it
    fold-0/fairplay/xgboost/         predictions.parquet, tuning.parquet
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple, Protocol
from urllib.parse import quote

import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits

from equipoise import schema, store
from equipoise.cohort import Cohort
from equipoise.errors import DataError
from equipoise.evaluate.cells import count_cells
from equipoise.evaluate.classifier import Scores
from equipoise.evaluate.downstream import Fit
from equipoise.evaluate.leakage import check_copies, check_leakage
from equipoise.evaluate.learning import fit_predictor
from equipoise.training_set import TrainingSet

FITTED_ON: Final = "fitted_on.npy"


class Method(Protocol):
    """A balancing method: see `equipoise.balance.BalancingMethod`, which is this contract."""

    def __call__(
        self,
        train: Cohort,
        by: Sequence[str],
        *,
        tuning: Cohort,
        seed: int,
        progress: schema.Progress,
    ) -> Cohort | TrainingSet: ...


class Parts(NamedTuple):
    """A fold's cohorts, encoded by a vocabulary that was fitted on `train` alone."""

    train: Cohort
    tuning: Cohort
    held_out: Cohort

    def save(self, folder: Path) -> None:
        """Write them, and who the vocabulary was fitted on, which the guard asks for."""
        with store.writing(folder, "fold") as draft:
            for name, cohort in zip(self._fields, self, strict=True):
                cohort.save(draft / name)
            fitted_on = self.train.vocabulary.fitted_on
            if fitted_on is not None:
                np.save(draft / FITTED_ON, fitted_on, allow_pickle=False)

    @staticmethod
    def load(folder: Path) -> Parts:
        """Read what `save` wrote."""
        store.read_manifest(folder, "fold")
        train, tuning, held_out = (Cohort.load(folder / name) for name in Parts._fields)
        path = folder / FITTED_ON
        fitted_on = store.read_array(path) if path.exists() else None
        vocabulary = replace(train.vocabulary, fitted_on=fitted_on)
        return Parts(replace(train, vocabulary=vocabulary), tuning, held_out)


@dataclass(frozen=True, eq=False)
class Balancing:
    """One fold's training part, balanced by one method. `folder` is the fold's."""

    folder: Path
    fold: int
    name: str
    method: Method
    by: tuple[str, ...]
    seed: int

    @property
    def home(self) -> Path:
        """Where this and the models fitted on it are kept."""
        return self.folder / quote(self.name, safe="")

    @property
    def training(self) -> Path:
        """The training set."""
        return self.home / "training"

    @property
    def cells(self) -> Path:
        """The table of who is in it."""
        return self.home / "cells.parquet"

    @property
    def done(self) -> bool:
        """Whether a run has finished it; its training set may have gone since."""
        return self.cells.is_file()

    @property
    def open(self) -> bool:
        """Whether the training set is there, whole."""
        return (self.training / store.MANIFEST).is_file()

    def __str__(self) -> str:
        return f"fold {self.fold + 1}, {self.name}"

    def do(self, progress: schema.Progress) -> None:
        """Balance, and keep the training set and its cells."""
        parts = Parts.load(self.folder / "parts")
        made = self.method(
            parts.train, self.by, tuning=parts.tuning, seed=self.seed, progress=progress
        )
        training = TrainingSet.of(made)
        if not training.cohort.vocabulary.equals(parts.train.vocabulary):
            raise DataError(
                table=f"the cohort of {self.name}",
                want="the vocabulary of its training cohort",
                got="another",
            )
        check_copies(training.cohort, parts.held_out, self.seed)
        shutil.rmtree(self.training, ignore_errors=True)
        training.save(self.training)
        cells = count_cells(training, self.by)
        _write_frame(cells, self.cells)


@dataclass(frozen=True, eq=False)
class Fitting:
    """One model, fitted on what a `Balancing` made, and the scores it gives."""

    of: Balancing
    name: str
    fit: Fit

    @property
    def home(self) -> Path:
        """Where the scores are kept."""
        return self.of.home / quote(self.name, safe="")

    @property
    def done(self) -> bool:
        """Whether a run has finished it."""
        return (self.home / store.MANIFEST).is_file()

    def __str__(self) -> str:
        return f"{self.of}, {self.name}"

    def do(self, progress: schema.Progress) -> None:
        """Fit on the training set; score the tuning and the held-out visits."""
        del progress
        parts = Parts.load(self.of.folder / "parts")
        training = TrainingSet.load(self.of.training)
        cohort = replace(training.cohort, vocabulary=parts.train.vocabulary)
        training = replace(training, cohort=cohort)
        check_leakage(cohort, tuning=parts.tuning, held_out=parts.held_out)
        with threadpool_limits(1):
            predictor = fit_predictor(self.fit, training, seed=self.of.seed, threads=1)
            frames = {
                name: _scored(part, predictor.scores(part), self.of.by)
                for name, part in (("predictions", parts.held_out), ("tuning", parts.tuning))
            }
        with store.writing(self.home, "piece", config={"remark": predictor.remark}) as folder:
            for name, frame in frames.items():
                frame.write_parquet(folder / f"{name}.parquet")

    def read(self, name: str) -> pl.DataFrame:
        """The scored visits of `predictions` or `tuning`."""
        return pl.read_parquet(self.home / f"{name}.parquet")

    def remark(self) -> str:
        """What there is to say about the fitting, or nothing."""
        return str(store.read_manifest(self.home, "piece")["config"]["remark"])


def _scored(part: Cohort, scores: Scores, by: Sequence[str]) -> pl.DataFrame:
    _, _, groups, visits = part.to_sklearn()
    return visits.select(schema.SUBJECT_ID, schema.VISIT_ID, schema.LABEL).with_columns(
        pl.Series("score", scores, pl.Float64), *groups.select(by)
    )


def _write_frame(frame: pl.DataFrame, path: Path) -> None:
    """The file is there in one step, or not at all."""
    part = path.with_name(f".{path.name}.part")
    frame.write_parquet(part)
    part.replace(path)
