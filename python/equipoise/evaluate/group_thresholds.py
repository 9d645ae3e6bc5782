"""A threshold for each group: the control that no method of balancing may ignore.

Balancing every group to as many positives as negatives is, for a model of probabilities, nothing
but one threshold per group. So the original data with thresholds tuned by group is what a gain in
fairness has to be measured against.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl

from equipoise import schema
from equipoise.evaluate.benefit import FEWEST_POSITIVES
from equipoise.evaluate.counts import OK, Floats
from equipoise.evaluate.judging import GROUP_THRESHOLD, Grouping
from equipoise.evaluate.thresholds import f1_threshold

_ARM = ("fold", "method", "model")


def group_tuned(
    predictions: pl.DataFrame, tuning: pl.DataFrame, groupings: Sequence[Grouping]
) -> pl.DataFrame:
    """`predictions` with the column `group_threshold` Float64.

    tuning: the same columns for the scored tuning visits of every fold, method and model. A visit
    gets the F1-threshold of the finest of its groups with 10 positive tuning visits (the later of
    `groupings` is the finer), and the common `tuned_threshold` if there is none.
    """
    parts = tuning.partition_by(_ARM, as_dict=True)
    empty = tuning.clear()
    number = "__row"
    arms = [
        arm.with_columns(
            pl.Series(GROUP_THRESHOLD, _thresholds(arm, parts.get(key, empty), groupings))
        )
        for key, arm in predictions.with_row_index(number).partition_by(_ARM, as_dict=True).items()
    ]
    if not arms:
        return predictions.with_columns(pl.lit(None, pl.Float64).alias(GROUP_THRESHOLD))
    return pl.concat(arms).sort(number).drop(number)


def on_group_tuned(tuning: pl.DataFrame, groupings: Sequence[Grouping]) -> Iterator[str]:
    """Notes: which groups had too few positive tuning visits for a threshold of their own."""
    visits = tuning.unique(["fold", schema.VISIT_ID], maintain_order=True)
    positive = visits.filter(schema.LABEL)
    folds = tuning["fold"].n_unique()
    for grouping in groupings:
        if not grouping.columns:
            continue
        found = positive.select("fold", grouping.of(positive).alias("group"))
        for name in grouping.groups:
            per_fold = found.filter(pl.col("group") == name)["fold"].value_counts()["count"]
            few = folds - int((per_fold >= FEWEST_POSITIVES).sum())
            if few:
                yield (
                    f"{grouping.name} {name}: fewer than {FEWEST_POSITIVES} positive tuning visits "
                    f"in {few} of {folds} folds; tuned by group, it takes there the threshold of a "
                    "larger group or of all"
                )


def _thresholds(arm: pl.DataFrame, tuning: pl.DataFrame, groupings: Sequence[Grouping]) -> Floats:
    threshold = arm["tuned_threshold"].to_numpy().copy()
    truth, score = tuning[schema.LABEL].to_numpy(), tuning["score"].to_numpy()
    for grouping in groupings:
        if not grouping.columns:
            continue
        groups, tuned = grouping.of(arm), grouping.of(tuning)
        for name in grouping.groups:
            rows = (tuned == name).fill_null(value=False).to_numpy()
            if truth[rows].sum() < FEWEST_POSITIVES:
                continue
            own = f1_threshold(truth[rows], score[rows])
            if own.status == OK:
                mine = (groups == name).fill_null(value=False).to_numpy()
                threshold = np.where(mine, own.value, threshold)
    return threshold
