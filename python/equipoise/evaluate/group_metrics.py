"""Metrics per group and over groups, with fairlearn's signatures.

`f(y_true, y_pred, *, sensitive_features)`: n labels and n predictions of 0 and 1, and n group names
(or a frame of several columns, whose crossed values are the groups). All take `sample_weight`, and
raise `DataError` for other values than 0 and 1 and for unequal lengths. What cannot be estimated is
NaN with a status: ok, empty, no_positives, no_negatives, undefined, constant_score, separated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from equipoise.evaluate import fairness
from equipoise.evaluate.calibration import CALIBRATION
from equipoise.evaluate.counts import (
    EMPTY,
    NO_NEGATIVES,
    NO_POSITIVES,
    OK,
    RATES,
    UNDEFINED,
    Counts,
    Floats,
    Measure,
    binary,
    count,
    crossed,
    places,
    same_length,
    status_of,
    weights,
)
from equipoise.evaluate.ranking import auroc, average_precision

#: One row per group and metric; `n` and `positives` are rows, not weights.
METRICS: Final[Mapping[str, type[pl.DataType]]] = {
    "group": pl.String,
    "metric": pl.String,
    "value": pl.Float64,
    "status": pl.String,
    "n": pl.Int64,
    "positives": pl.Int64,
}


def metrics_by_group(
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    y_score: Any = None,
    sample_weight: Any = None,
    groups: tuple[str, ...] | None = None,
) -> pl.DataFrame:
    """Every metric in every group: a frame of `METRICS`.

    f1, tpr, fpr, precision, selection_rate and gbe (formulas in `counts`), and with `y_score`
    (n scores) auroc, ap (average precision) and brier (mean squared error of the score) as
    scikit-learn defines them, and the slope and intercept of `calibration`. `groups` lists also
    groups that have no row, as empty. `y_pred` may be None for the score metrics alone.
    """
    truth, features = binary(y_true, "y_true"), crossed(sensitive_features)
    names, place = places(features, groups)
    rows = np.bincount(place[place >= 0], minlength=len(names))
    positives = np.bincount(place[place >= 0], truth[place >= 0], minlength=len(names))
    parts: list[tuple[str, Floats, npt.NDArray[np.str_]]] = []
    if y_pred is not None:
        counts = count(
            truth, y_pred, sensitive_features=features, sample_weight=sample_weight, groups=names
        )
        for metric, rate in RATES.items():
            value = rate(counts)
            parts.append((metric, value, status_of(metric, counts, value)))
    if y_score is not None:
        score = np.asarray(y_score, np.float64)
        weight = np.ones(len(truth)) if sample_weight is None else weights(sample_weight)
        same_length(y_true=truth, y_score=score, sensitive_features=features, sample_weight=weight)
        for metric in (*SCORES, *CALIBRATION):
            measures = [
                score_metric(metric, truth[rows_g], score[rows_g], weight[rows_g])
                for rows_g in (place == g for g in range(len(names)))
            ]
            value, status = (np.array(column) for column in zip(*measures, strict=True))
            parts.append((metric, value, status))
    return pl.concat(
        pl.DataFrame(
            [names, [metric] * len(names), value, status.tolist(), rows, positives.astype(int)],
            schema=dict(METRICS),
        )
        for metric, value, status in parts
    )


def score_metric(
    metric: str,
    y_true: npt.NDArray[np.int64],
    y_score: Floats,
    sample_weight: Floats | None = None,
) -> Measure:
    """One of `SCORES` or `CALIBRATION` over all rows; NaN scores are undefined.

    All but brier need both classes.
    """
    weight = np.ones(len(y_true)) if sample_weight is None else sample_weight
    if weight.sum() == 0:
        return Measure(np.nan, EMPTY)
    if np.isnan(y_score).any():
        return Measure(np.nan, UNDEFINED)
    if metric != "brier":
        if weight[y_true == 1].sum() == 0:
            return Measure(np.nan, NO_POSITIVES)
        if weight[y_true == 0].sum() == 0:
            return Measure(np.nan, NO_NEGATIVES)
    if metric in CALIBRATION:
        return CALIBRATION[metric](y_true, y_score, weight)
    return Measure(float(SCORES[metric](y_true, y_score, sample_weight=weight)), OK)


def _brier(y_true: npt.NDArray[np.int64], y_score: Floats, *, sample_weight: Floats) -> float:
    """The mean squared error of the score (Brier 1950)."""
    return float(np.average((y_score - y_true) ** 2, weights=sample_weight))


#: The metrics of a score, which need no threshold.
SCORES: Final[Mapping[str, Callable[..., float]]] = {
    "auroc": auroc,
    "ap": average_precision,
    "brier": _brier,
}


def disparate_impact(
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    training_sizes: Mapping[str, int],
    sample_weight: Any = None,
) -> Measure:
    """FairPlay's disparate impact, a ratio of F1 scores (see `fairness.disparate_impact`).

    training_sizes: subjects of each group in the original training data; the largest is the
    majority, the others weigh by it. A group that training never saw weighs nothing.
    """
    counts = _count_trained(y_true, y_pred, sensitive_features, training_sizes, sample_weight)
    return measured(fairness.disparate_impact(counts, _sizes(counts, training_sizes)), counts)


def classic_disparate_impact(
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    training_sizes: Mapping[str, int],
    sample_weight: Any = None,
) -> Measure:
    """The smallest ratio of selection rates to the majority's (four-fifths rule: below 0.8)."""
    counts = _count_trained(y_true, y_pred, sensitive_features, training_sizes, sample_weight)
    value = fairness.classic_disparate_impact(counts, _sizes(counts, training_sizes))
    return measured(value, counts)


def theil_index(
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    group_weights: Mapping[str, float] | None = None,
    sample_weight: Any = None,
) -> Measure:
    """FairPlay's Theil index over the groups' F1 (see `fairness.theil_index`).

    With `group_weights` (such as group sizes) groups count by them instead of alike.
    """
    counts = count(
        y_true, y_pred, sensitive_features=sensitive_features, sample_weight=sample_weight
    )
    if group_weights is None:
        return measured(fairness.theil_index(counts), counts)
    return measured(fairness.weighted_theil_index(counts, _sizes(counts, group_weights)), counts)


def individual_theil_index(y_true: Any, y_pred: Any, *, sample_weight: Any = None) -> Measure:
    """AIF360's Theil index over individuals' benefits (see `fairness.individual_theil_index`)."""
    everyone = pl.repeat("overall", len(y_true), dtype=pl.String, eager=True)
    counts = count(y_true, y_pred, sensitive_features=everyone, sample_weight=sample_weight)
    return measured(fairness.individual_theil_index(counts), counts)


def between_group_theil_index(
    y_true: Any, y_pred: Any, *, sensitive_features: Any, sample_weight: Any = None
) -> Measure:
    """The part of `individual_theil_index` that lies between groups."""
    return _over_groups(
        fairness.between_group_theil_index, y_true, y_pred, sensitive_features, sample_weight
    )


def performance_variance(
    y_true: Any, y_pred: Any, *, sensitive_features: Any, sample_weight: Any = None
) -> Measure:
    """Population variance (ddof 0) of the groups' F1."""
    return _over_groups(
        fairness.performance_variance, y_true, y_pred, sensitive_features, sample_weight
    )


def demographic_parity_difference(
    y_true: Any, y_pred: Any, *, sensitive_features: Any, sample_weight: Any = None
) -> Measure:
    """The range of the groups' selection rates."""
    return _over_groups(
        fairness.demographic_parity_difference, y_true, y_pred, sensitive_features, sample_weight
    )


def equality_of_opportunity_difference(
    y_true: Any, y_pred: Any, *, sensitive_features: Any, sample_weight: Any = None
) -> Measure:
    """The range of the TPR over groups that have a positive."""
    metric = fairness.equality_of_opportunity_difference
    return _over_groups(metric, y_true, y_pred, sensitive_features, sample_weight)


def equalized_odds_difference(
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    agg: Literal["worst_case", "mean"] = "worst_case",
    sample_weight: Any = None,
) -> Measure:
    """The larger ("worst_case") or the mean of the ranges of TPR and FPR."""
    metric = (
        fairness.equalized_odds_difference
        if agg == "worst_case"
        else fairness.mean_equalized_odds_difference
    )
    return _over_groups(metric, y_true, y_pred, sensitive_features, sample_weight)


def measured(value: Floats, counts: Counts) -> Measure:
    """A single number over groups with its status."""
    if np.isfinite(value):
        return Measure(float(value), OK)
    if counts.n.sum() == 0:
        return Measure(np.nan, EMPTY)
    return Measure(np.nan, UNDEFINED if counts.positives.sum() else NO_POSITIVES)


def _over_groups(
    metric: Callable[[Counts], Floats],
    y_true: Any,
    y_pred: Any,
    sensitive_features: Any,
    sample_weight: Any,
) -> Measure:
    counts = count(
        y_true, y_pred, sensitive_features=sensitive_features, sample_weight=sample_weight
    )
    return measured(metric(counts), counts)


def _count_trained(
    y_true: Any,
    y_pred: Any,
    sensitive_features: Any,
    training_sizes: Mapping[str, int],
    sample_weight: Any,
) -> Counts:
    """Counts whose groups include those of training that no row here belongs to."""
    features = crossed(sensitive_features)
    names = sorted({*training_sizes, *features.drop_nulls().unique()})
    return count(
        y_true, y_pred, sensitive_features=features, sample_weight=sample_weight, groups=names
    )


def _sizes(counts: Counts, sizes: Mapping[str, float]) -> Floats:
    return np.array([sizes.get(name, 0) for name in counts.groups], np.float64)
