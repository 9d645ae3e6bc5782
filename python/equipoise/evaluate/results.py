"""Results: everything that a comparison of balancing methods found, and how it is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import stats

from equipoise import schema, store
from equipoise.errors import DataError
from equipoise.evaluate.benefit import FEWEST_POSITIVES
from equipoise.evaluate.cells import CELL
from equipoise.evaluate.gains import GAINS
from equipoise.evaluate.group_metrics import METRICS
from equipoise.evaluate.judging import HALF, OVER_GROUPS, OVERALL, TUNED

Columns = Mapping[str, type[pl.DataType]]
_ARM: Final[Columns] = {"fold": pl.Int64, "method": pl.String, "model": pl.String}
#: One row per held-out visit, method and model; the group columns follow.
PREDICTIONS: Final[Columns] = {
    **_ARM,
    schema.SUBJECT_ID: pl.Int64,
    schema.VISIT_ID: pl.Int64,
    schema.LABEL: pl.Boolean,
    "score": pl.Float64,
    "tuned_threshold": pl.Float64,
}
#: The same for the tuning visits, on which thresholds are chosen.
TUNING: Final[Columns] = {k: v for k, v in PREDICTIONS.items() if k != "tuned_threshold"}
#: One row per fold, method and (label x group) cell of the training set; the group columns follow.
CELLS: Final[Columns] = {"fold": pl.Int64, "method": pl.String, **CELL}
#: The frames of `Results`, each a file of its folder.
FRAMES: Final[Mapping[str, Columns]] = {
    "predictions": PREDICTIONS,
    "tuning": TUNING,
    "metrics": {**_ARM, "threshold": pl.String, "by": pl.String, **METRICS},
    "fairness": {**_ARM, **OVER_GROUPS},
    "gains": GAINS,
    "cells": CELLS,
    "training": {"fold": pl.Int64, **CELL},
    "ledger": schema.LEDGER,
}
_SETUP: Final = "setup.json"
_TOLD: Final = ("left_out", "remarks", "notes")


class Scores(NamedTuple):
    """What was found by fitting; all else is computed from it. Frames as in `FRAMES`."""

    predictions: pl.DataFrame
    tuning: pl.DataFrame
    cells: pl.DataFrame
    training: pl.DataFrame
    ledger: pl.DataFrame


class Setup(NamedTuple):
    """What was asked for: see `run_experiment`."""

    by: tuple[str, ...]
    methods: tuple[str, ...]
    models: tuple[str, ...]
    folds: int
    seed: int
    resamples: int
    min_share: float


@dataclass(frozen=True, eq=False)
class Results:
    """What `run_experiment` found.

    The frames have the columns of `FRAMES`; `predictions`, `tuning`, `cells` (of each method's
    training set) and `training` (the fold's training part before any method) have those of `by`,
    too. by, methods, models: in the order asked for. left_out: subjects with an unknown label.
    remarks: what there was to say about the fitting. notes: these, and what could not be
    estimated, and why.
    """

    predictions: pl.DataFrame
    tuning: pl.DataFrame
    metrics: pl.DataFrame
    fairness: pl.DataFrame
    gains: pl.DataFrame
    cells: pl.DataFrame
    training: pl.DataFrame
    ledger: pl.DataFrame
    by: tuple[str, ...]
    methods: tuple[str, ...]
    models: tuple[str, ...]
    folds: int
    seed: int
    resamples: int = 2000
    min_share: float = 0.0
    left_out: int = 0
    remarks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def scores(self) -> Scores:
        """What all else was computed from."""
        return Scores(**{name: getattr(self, name) for name in Scores._fields})

    def __post_init__(self) -> None:
        for name, columns in FRAMES.items():
            schema.check_frame(getattr(self, name), columns, name)

    def __repr__(self) -> str:
        return (
            f"Results({len(self.methods)} methods x {len(self.models)} models x {self.folds} "
            f"folds, by {', '.join(self.by)}, {len(self.notes)} notes)"
        )

    def save(self, out: Path | str, **manifest: Any) -> Path:
        """Write one Parquet file per frame and `setup.json`; `manifest` goes to `store.writing`."""
        setup = {name: getattr(self, name) for name in (*Setup._fields, *_TOLD)}
        with store.writing(out, "results", **{"seed": self.seed, **manifest}) as folder:
            for name in FRAMES:
                getattr(self, name).write_parquet(folder / f"{name}.parquet")
            store.write_json(folder / _SETUP, setup)
        return Path(out)

    @staticmethod
    def load(folder: Path | str) -> Results:
        """Read what `save` wrote; raises `DataError` if it is not whole."""
        folder = Path(folder)
        store.read_manifest(folder, "results")
        for name in (*(f"{name}.parquet" for name in FRAMES), _SETUP):
            if not (folder / name).is_file():
                raise DataError(table=str(folder), want=name, got="no such file")
        setup = store.read_json(folder / _SETUP)
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in setup.items()
        }
        try:
            fields |= {name: pl.read_parquet(folder / f"{name}.parquet") for name in FRAMES}
            return Results(**fields)
        except (pl.exceptions.PolarsError, OSError, TypeError) as error:
            got = str(error).splitlines()[0]
            raise DataError(table=str(folder), want="whole results", got=got) from None


def summary(results: Results, *, by: str | None = None) -> pl.DataFrame:
    """The short table: one row per method and model, each value the mean over folds, and its sd.

    Columns: method, model, by, then f1 (at 0.5), and at the tuned threshold f1_tuned, auroc, ap,
    worst_group_f1, disparate_impact and theil, each followed by its `_sd`. `by` chooses the
    grouping of the last three (default: the finest). Folds where a value cannot be estimated are
    left out; NaN where none is left, and where fewer than two groups have 10 positive visits in all
    folds together. The worst group is one of those that have.
    """
    by = by or (list(results.fairness["by"].unique(maintain_order=True)) or [OVERALL])[-1]
    metrics, arm = results.metrics, list(_ARM)
    everyone, f1 = metrics.filter(pl.col("by") == OVERALL), pl.col("metric") == "f1"
    tuned = pl.col("threshold") == TUNED
    of_groups = metrics.filter(f1 & tuned & (pl.col("by") == by))
    of_arm = of_groups.group_by("method", "model", "group", maintain_order=True)
    enough = of_arm.agg(pl.col("positives").sum() >= FEWEST_POSITIVES).filter("positives")
    of_groups = of_groups.join(enough, on=["method", "model", "group"], how="semi")
    fairness = results.fairness.filter(tuned & (pl.col("by") == by))
    if by != OVERALL and enough["group"].n_unique() < 2:
        of_groups, fairness = of_groups.clear(), fairness.clear()
    worst = of_groups.group_by(arm, maintain_order=True)
    columns = {
        "f1": everyone.filter(f1 & (pl.col("threshold") == HALF)),
        "f1_tuned": everyone.filter(f1 & tuned),
        **{m: everyone.filter(tuned & (pl.col("metric") == m)) for m in ("auroc", "ap")},
        "worst_group_f1": worst.agg(pl.col("value").drop_nans().min().fill_null(np.nan)),
        **{m: fairness.filter(pl.col("metric") == m) for m in ("disparate_impact", "theil")},
    }
    pairs = [(method, model) for method in results.methods for model in results.models]
    table = pl.DataFrame(pairs, schema={"method": pl.String, "model": pl.String}, orient="row")
    table = table.with_columns(pl.lit(by).alias("by"))
    for name, values in columns.items():
        means = over_folds(values.select(*arm, "value"))
        means = means.select(
            "method", "model", pl.col("mean").alias(name), pl.col("sd").alias(f"{name}_sd")
        )
        table = table.join(means, on=["method", "model"], how="left", maintain_order="left")
    return table.with_columns(pl.col(pl.Float64).fill_null(np.nan))


def over_folds(frame: pl.DataFrame) -> pl.DataFrame:
    """Mean, sd (ddof 1) and sd / sqrt(folds) of `value` over `fold`, for all other columns alike.

    frame: `metrics` or `fairness`, or some of their rows and columns; `status`, `n` and `positives`
    play no part. Adds `mean`, `sd`, `descriptive_se` Float64 and `folds`, how many could be
    estimated. As folds share training data, the se is descriptive: nothing to test with.
    """
    keys = [c for c in frame.columns if c not in ("fold", "value", "status", "n", "positives")]
    value = pl.col("value").drop_nans().drop_nulls()
    return (
        frame.group_by(keys, maintain_order=True)
        .agg(
            value.mean().fill_null(np.nan).alias("mean"),
            value.std().fill_null(np.nan).alias("sd"),
            value.len().cast(pl.Int64).alias("folds"),
        )
        .with_columns((pl.col("sd") / pl.col("folds").sqrt()).alias("descriptive_se"))
    )


def corrected_interval(
    differences: npt.ArrayLike, n_train: float, n_test: float, level: float = 0.95
) -> tuple[float, float, float]:
    """Mean, low and high of paired per-fold differences by the corrected resampled t.

    Variance (1/J + n_test/n_train) s^2 with J - 1 degrees of freedom, for folds share training data
    (Nadeau & Bengio, Machine Learning 52, 2003). NaN differences are left out; with fewer than two
    left the interval is NaN.
    """
    values = np.asarray(differences, np.float64)
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return (float(values[0]) if len(values) else np.nan), np.nan, np.nan
    spread = np.sqrt((1 / len(values) + n_test / n_train) * values.var(ddof=1))
    half = spread * stats.t.ppf((1 + level) / 2, len(values) - 1)
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)
