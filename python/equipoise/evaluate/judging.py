"""From predictions to tables: every metric in every group, and every number over groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from equipoise import schema
from equipoise.evaluate.counts import CROSS, EMPTY, UNDEFINED, Floats, count, crossed
from equipoise.evaluate.fairness import FAIRNESS
from equipoise.evaluate.group_metrics import METRICS, measured, metrics_by_group

OVERALL: Final = "overall"
#: The method that all others are compared with: nothing is done to the data.
CONTROL: Final = "original"
#: Columns that predictions may have: `correction.prior_corrected`, `group_thresholds.group_tuned`.
CORRECTED_SCORE: Final = "corrected_score"
GROUP_THRESHOLD: Final = "group_threshold"


class Cut(NamedTuple):
    """Predicted positive is score >= threshold, each the name of a column (or a number)."""

    score: str
    threshold: str | float


#: Where the predictions of one fold, method and model are cut.
HALF: Final = "0.5"
TUNED: Final = "tuned"
CORRECTED: Final = "corrected"
GROUP_TUNED: Final = "group_tuned"
CUTS: Final[Mapping[str, Cut]] = MappingProxyType(
    {
        HALF: Cut("score", 0.5),
        TUNED: Cut("score", "tuned_threshold"),
        CORRECTED: Cut(CORRECTED_SCORE, 0.5),
        GROUP_TUNED: Cut("score", GROUP_THRESHOLD),
    }
)

OVER_GROUPS: Final[Mapping[str, type[pl.DataType]]] = {
    "threshold": pl.String,
    "by": pl.String,
    "metric": pl.String,
    "value": pl.Float64,
    "status": pl.String,
}


@dataclass(frozen=True)
class Grouping:
    """One way to divide the subjects: by a column, or by several crossed ("sex × race").

    groups: all names that occur in the whole data, sorted, so that every fold lists the same.
    left_out: those too small to be judged by themselves; whoever is in them is in no group here.
    """

    name: str
    columns: tuple[str, ...]
    groups: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    def of(self, frame: pl.DataFrame) -> pl.Series:
        """Each row's group, left out or not; null where any of the columns is."""
        if not self.columns:
            return pl.repeat(OVERALL, len(frame), dtype=pl.String, eager=True)
        return crossed(frame.select(self.columns))

    def sizes(self, subjects: pl.DataFrame) -> Floats:
        """(G,) how many of these subjects each group has."""
        groups = self.of(subjects)
        return np.array([(groups == name).sum() for name in self.groups], np.float64)


def groupings_of(
    subjects: pl.DataFrame, by: Sequence[str], min_share: float = 0.0
) -> list[Grouping]:
    """Overall, by each column, by each pair of columns crossed, and by all crossed if more.

    min_share: crossed groups with a smaller share of these subjects are left out, that is, judged
    only as parts of larger ones (FairPlay leaves out those below 1 %); `left_out` names them.
    """
    crossings = [*combinations(by, 2), *([tuple(by)] if len(by) > 2 else [])]
    return [
        _grouping(subjects, columns, min_share if len(columns) > 1 else 0.0)
        for columns in [(), *((name,) for name in by), *crossings]
    ]


def _grouping(subjects: pl.DataFrame, columns: tuple[str, ...], min_share: float) -> Grouping:
    whole = Grouping(CROSS.join(columns) or OVERALL, columns, ())
    sizes = whole.of(subjects).drop_nulls().value_counts(name="n").sort(pl.nth(0))
    large = pl.col("n") >= min_share * len(subjects)
    keep, rest = (tuple(sizes.filter(rows).to_series()) for rows in (large, ~large))
    return replace(whole, groups=keep, left_out=rest)


def cuts_of(predictions: pl.DataFrame) -> tuple[str, ...]:
    """The names of those `CUTS` that the columns allow."""
    columns = {*predictions.columns}
    return tuple(
        name
        for name, (score, threshold) in CUTS.items()
        if score in columns and (isinstance(threshold, float) or threshold in columns)
    )


def judge_groups(predictions: pl.DataFrame, groupings: Sequence[Grouping]) -> pl.DataFrame:
    """All metrics of one fold, method and model: threshold, by, and the columns of `METRICS`.

    The thresholds are those of `cuts_of`. The metrics of scores need no threshold; they are
    repeated under each, of corrected scores under "corrected". Where there is no tuned threshold
    (or no score), what needs it is NaN and "undefined".
    """
    truth = predictions[schema.LABEL].to_numpy()
    parts = []
    for grouping in groupings:
        features = grouping.of(predictions)
        cuts = cuts_of(predictions)
        ranking = {
            name: metrics_by_group(
                truth,
                None,
                sensitive_features=features,
                y_score=predictions[name].to_numpy(),
                groups=grouping.groups,
            )
            for name in dict.fromkeys(CUTS[cut].score for cut in cuts)
        }
        for threshold in cuts:
            predicted, known = predict(predictions, threshold)
            rates = metrics_by_group(
                truth, predicted, sensitive_features=features, groups=grouping.groups
            )
            if not known:
                rates = _unknown(rates)
            cut, by = pl.lit(threshold).alias("threshold"), pl.lit(grouping.name).alias("by")
            both = pl.concat([rates, ranking[CUTS[threshold].score]])
            parts.append(both.select(cut, by, *METRICS))
    return pl.concat(parts)


def judge_fairness(
    predictions: pl.DataFrame, groupings: Sequence[Grouping], sizes: Mapping[str, Floats]
) -> pl.DataFrame:
    """All of `FAIRNESS` of one fold, method and model: a frame of `OVER_GROUPS`.

    sizes: for each grouping's name the (G,) subjects of the fold's original training part.
    """
    truth = predictions[schema.LABEL].to_numpy()
    rows: list[tuple[str, str, str, float, str]] = []
    for grouping in groupings:
        if not grouping.columns:
            continue
        features = grouping.of(predictions)
        for threshold in cuts_of(predictions):
            predicted, known = predict(predictions, threshold)
            counts = count(truth, predicted, sensitive_features=features, groups=grouping.groups)
            for metric, over_groups in FAIRNESS.items():
                value, status = measured(over_groups(counts, sizes[grouping.name]), counts)
                if not known:
                    value, status = np.nan, EMPTY if status == EMPTY else UNDEFINED
                rows.append((threshold, grouping.name, metric, value, status))
    return pl.DataFrame(rows, schema=dict(OVER_GROUPS), orient="row")


def predict(predictions: pl.DataFrame, threshold: str) -> tuple[npt.NDArray[np.bool_], bool]:
    """(n,) whether each row is predicted positive, and whether that can be known at all."""
    column, at = CUTS[threshold]
    cut = at if isinstance(at, float) else predictions[at].to_numpy()
    score = predictions[column].to_numpy()
    return score >= cut, bool(np.isfinite(score).all() and np.isfinite(cut).all())


def _unknown(rates: pl.DataFrame) -> pl.DataFrame:
    empty = pl.col("status") == EMPTY
    return rates.with_columns(
        pl.lit(np.nan).alias("value"),
        pl.when(empty).then(pl.lit(EMPTY)).otherwise(pl.lit(UNDEFINED)).alias("status"),
    )
