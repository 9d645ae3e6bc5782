"""From the scores of an experiment to its results: no model is needed here.

So a new metric, another number of resamples or another smallest share needs no new fitting: see
`judge_again`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import polars as pl

from equipoise import schema
from equipoise.cohort import Cohort
from equipoise.evaluate import notes
from equipoise.evaluate.cells import count_cells
from equipoise.evaluate.correction import on_correction, prior_corrected
from equipoise.evaluate.counts import OK, Floats
from equipoise.evaluate.gains import estimate_gains
from equipoise.evaluate.group_thresholds import group_tuned, on_group_tuned
from equipoise.evaluate.judging import Grouping, groupings_of, judge_fairness, judge_groups
from equipoise.evaluate.pieces import Balancing, Fitting
from equipoise.evaluate.results import CELLS, FRAMES, PREDICTIONS, Results, Scores, Setup
from equipoise.evaluate.thresholds import f1_threshold
from equipoise.training_set import TrainingSet

Names = dict[str, int | str]
_ARM: Final = ("fold", "method", "model")


def pool(
    arms: Mapping[Balancing, Sequence[Fitting]],
    setup: Setup,
    ledger: pl.DataFrame,
    left_out: int,
    told: Sequence[str] = (),
    progress: schema.Progress = schema.no_progress,
) -> Results:
    """Judge the finished pieces together; `told` is what else there is to say."""
    progress("metrics and intervals", 0, 1)
    predictions, tuning, cells, remarks = [], [], [], [*told]
    training = {}
    for balancing, fittings in arms.items():
        at: Names = {"fold": balancing.fold, "method": balancing.name}
        cells.append(_named(pl.read_parquet(balancing.cells), **at))
        if balancing.fold not in training:
            train = TrainingSet(Cohort.load(balancing.folder / "parts" / "train"))
            training[balancing.fold] = _named(count_cells(train, setup.by), fold=balancing.fold)
        for fitting in fittings:
            arm: Names = {**at, "model": fitting.name}
            tuned = _named(fitting.read("tuning"), **arm)
            threshold = f1_threshold(tuned[schema.LABEL].to_numpy(), tuned["score"].to_numpy())
            scored = _named(fitting.read("predictions"), **arm)
            scored = scored.with_columns(
                pl.lit(threshold.value, pl.Float64).alias("tuned_threshold")
            )
            predictions.append(scored.select(*PREDICTIONS, *setup.by))
            tuning.append(tuned)
            remark = fitting.remark()
            if threshold.status != OK and not remark:
                remark = f"no tuned threshold, for the tuning part has status {threshold.status}"
            if remark:
                remarks.append(f"{fitting}: {remark}")
    scores = Scores(
        predictions=pl.concat(predictions),
        tuning=pl.concat(tuning),
        cells=pl.concat(cells).select(*CELLS, *setup.by),
        training=pl.concat(training.values()),
        ledger=ledger,
    )
    results = judge(scores, setup, left_out, remarks)
    progress("metrics and intervals", 1, 1)
    return results


def judge_again(results: Results, **changes: Any) -> Results:
    """The same scores judged anew, with other `resamples` or another `min_share`."""
    setup = Setup(**{name: getattr(results, name) for name in Setup._fields} | changes)
    return judge(results.scores, setup, results.left_out, results.remarks)


def judge(scores: Scores, setup: Setup, left_out: int, remarks: Sequence[str]) -> Results:
    """All metrics, gains and notes.

    left_out: subjects whose label is unknown. remarks: what there was to say about the fitting.
    """
    by, predictions = setup.by, scores.predictions
    subjects = predictions.unique(schema.SUBJECT_ID, maintain_order=True)
    groupings = groupings_of(subjects, by, setup.min_share)
    full = group_tuned(prior_corrected(predictions, scores.cells, by), scores.tuning, groupings)
    sizes = {grouping.name: grouping.sizes(subjects) for grouping in groupings}
    metrics, fairness = _judge_arms(full, scores.training, groupings)
    gains = estimate_gains(full, groupings, sizes, resamples=setup.resamples, seed=setup.seed)
    return Results(
        **scores._asdict(),
        metrics=metrics,
        fairness=fairness,
        gains=gains,
        **setup._asdict(),
        left_out=left_out,
        remarks=tuple(remarks),
        notes=(
            *notes.on_data(subjects, by, left_out, groupings),
            *notes.on_cells(scores.training, by, setup.folds),
            *remarks,
            *notes.on_results(predictions, groupings, setup.methods),
            *on_correction(scores.cells, by),
            *on_group_tuned(scores.tuning, groupings),
        ),
    )


def _judge_arms(
    predictions: pl.DataFrame, training: pl.DataFrame, groupings: Sequence[Grouping]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Metrics and fairness of every fold, method and model."""
    sizes = {
        fold: {grouping.name: _sizes(grouping, cells) for grouping in groupings}
        for (fold,), cells in training.partition_by("fold", as_dict=True).items()
    }
    metrics, fairness = [], []
    for key, arm in predictions.partition_by(_ARM, as_dict=True).items():
        named = dict(zip(_ARM, key, strict=True))
        metrics.append(_named(judge_groups(arm, groupings), **named))
        fairness.append(_named(judge_fairness(arm, groupings, sizes[key[0]]), **named))
    return (
        pl.concat(metrics).select(*FRAMES["metrics"]),
        pl.concat(fairness).select(*FRAMES["fairness"]),
    )


def _sizes(grouping: Grouping, cells: pl.DataFrame) -> Floats:
    """(G,) the subjects of each group in counted cells."""
    groups, subjects = grouping.of(cells), cells["subjects"].to_numpy()
    belongs = ((groups == name).fill_null(value=False).to_numpy() for name in grouping.groups)
    return np.array([subjects[rows].sum() for rows in belongs], np.float64)


def _named(frame: pl.DataFrame, **columns: int | str) -> pl.DataFrame:
    """The frame with these columns in front, each of one value."""
    front = (
        pl.lit(value, pl.Int64 if isinstance(value, int) else pl.String).alias(name)
        for name, value in columns.items()
    )
    return frame.select(*front, pl.all())
