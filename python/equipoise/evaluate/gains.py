"""What a method gained over the original data, and how much of it a threshold alone would give.

At threshold 0.5 any balancing "wins" where positives are rare, for it shifts every score up. So the
gain is told in parts, the original data with a tuned threshold being the control:

    total        F1(method, 0.5)     - F1(original, 0.5)
    threshold    F1(original, tuned) - F1(original, 0.5)
    information  F1(method, tuned)   - F1(original, tuned)

Intervals are 2.5th to 97.5th percentiles of a paired bootstrap over subjects (Efron 1979; subjects
as clusters of visits: Field & Welsh 2007) of the pooled out-of-fold predictions.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import polars as pl

from equipoise.evaluate.benefit import FEWEST_POSITIVES
from equipoise.evaluate.bootstrap import resampled_counts, resampled_rankings, usable_pair
from equipoise.evaluate.counts import (
    EMPTY,
    NO_POSITIVES,
    OK,
    RATES,
    TOO_FEW,
    UNDEFINED,
    Counts,
    Floats,
)
from equipoise.evaluate.fairness import FAIRNESS
from equipoise.evaluate.judging import CONTROL, OVERALL, Grouping

#: One row per model, method, by, group, metric and part.
GAINS: Final[Mapping[str, type[pl.DataType]]] = {
    "model": pl.String,
    "method": pl.String,
    "by": pl.String,
    "group": pl.String,
    "metric": pl.String,
    "part": pl.String,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "status": pl.String,
}
#: Each part as (with, without), places in `bootstrap.ARMS`.
PARTS: Final = {"total": (2, 0), "threshold": (1, 0), "information": (3, 1)}
#: A ranking weighs every row of every resample; beyond this many in all it takes fewer of them,
#: but never fewer than `FEWEST_RESAMPLES`.
RANKED_ROWS: Final = 20_000_000
FEWEST_RESAMPLES: Final = 200

Row = tuple[str, str, str, str, float, float, float, str]


def estimate_gains(
    predictions: pl.DataFrame,
    groupings: Sequence[Grouping],
    sizes: Mapping[str, Floats],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> pl.DataFrame:
    """The gains of every method over `CONTROL`, for each model: a frame of `GAINS`.

    predictions: the pooled out-of-fold frame of `Results`; sizes: for each grouping's name the (G,)
    subjects of the original data. The metrics are those of `RATES` in each group and those of
    `FAIRNESS` under the group "overall"; of auroc and ap, which no threshold changes, all is
    information. Folds where an arm has no score or no tuned threshold are left out of both arms.
    The numbers of a group with fewer than 10 positive visits come with status "too_few". Without
    the control: no rows.
    """
    parts = [pl.DataFrame(schema=dict(GAINS))]
    for model in predictions["model"].unique(maintain_order=True):
        scored = predictions.filter(pl.col("model") == model)
        methods = scored["method"].unique(maintain_order=True).to_list()
        if CONTROL not in methods:
            continue
        control = scored.filter(pl.col("method") == CONTROL)
        for method in (name for name in methods if name != CONTROL):
            arm = scored.filter(pl.col("method") == method)
            rows = _pair_rows(control, arm, groupings, sizes, resamples, seed)
            table = pl.DataFrame([(model, method, *row) for row in rows], dict(GAINS), orient="row")
            parts.append(table)
    return pl.concat(parts)


def _pair_rows(
    control: pl.DataFrame,
    arm: pl.DataFrame,
    groupings: Sequence[Grouping],
    sizes: Mapping[str, Floats],
    resamples: int,
    seed: int,
) -> Iterator[Row]:
    pair = usable_pair(control, arm)
    counts = resampled_counts(pair, groupings, resamples, seed)
    enough = RANKED_ROWS // max(1, len(pair.control))
    fewer = min(resamples, max(FEWEST_RESAMPLES, enough))
    rankings = resampled_rankings(pair, groupings, fewer, seed)
    for grouping, (point, many), (ranking, ranked) in zip(groupings, counts, rankings, strict=True):
        for metric, rate in RATES.items():
            values = [rate(arm) for arm in point], [rate(arm) for arm in many]
            yield from _part_rows(grouping.name, grouping.groups, metric, *values, point[0])
        for m, metric in enumerate(("auroc", "ap")):
            difference = ranking[:, 1, m] - ranking[:, 0, m]
            spread = _interval(ranked[:, :, 1, m] - ranked[:, :, 0, m])
            for part in ("total", "information"):
                yield from _rows(
                    grouping.name, grouping.groups, metric, part, difference, spread, point[0]
                )
        if grouping.columns:
            for metric, over in FAIRNESS.items():
                one = [over(arm, sizes[grouping.name])[None] for arm in point]
                more = [over(arm, sizes[grouping.name])[:, None] for arm in many]
                total = point[0].total()
                yield from _part_rows(grouping.name, (OVERALL,), metric, one, more, total)


def _part_rows(
    by: str,
    groups: tuple[str, ...],
    metric: str,
    point: list[Floats],
    many: list[Floats],
    counts: Counts,
) -> Iterator[Row]:
    """One row per group and part of `PARTS`, from (G,) and (R, G) values of the four arms."""
    for part, (with_it, without) in PARTS.items():
        difference = point[with_it] - point[without]
        spread = _interval(many[with_it] - many[without])
        yield from _rows(by, groups, metric, part, difference, spread, counts)


def _rows(
    by: str,
    groups: tuple[str, ...],
    metric: str,
    part: str,
    difference: Floats,
    spread: Floats,
    counts: Counts,
) -> Iterator[Row]:
    for g, group in enumerate(groups):
        numbers = float(difference[g]), float(spread[0, g]), float(spread[1, g])
        yield by, group, metric, part, *numbers, _status(difference[g], counts, g)


def _interval(differences: Floats) -> Floats:
    """(2, G) the percentiles of (R, G), over the resamples in which a group can be estimated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        return np.nanpercentile(differences, (2.5, 97.5), axis=0)


def _status(value: float, counts: Counts, g: int) -> str:
    positives = counts.positives[g]
    if counts.n[g] == 0:
        return EMPTY
    if np.isnan(value):
        return UNDEFINED if positives else NO_POSITIVES
    return OK if positives >= FEWEST_POSITIVES else TOO_FEW
