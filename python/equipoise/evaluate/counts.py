"""Confusion counts per group and the rates made of them.

Everything works on arrays (..., G), G groups last, so that one call serves a table of metrics and a
thousand bootstrap resamples alike. A rate that cannot be estimated is NaN, never 0, and
`status_of` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from equipoise.errors import DataError

Floats = npt.NDArray[np.float64]

OK: Final = "ok"
EMPTY: Final = "empty"
NO_POSITIVES: Final = "no_positives"
NO_NEGATIVES: Final = "no_negatives"
UNDEFINED: Final = "undefined"
TOO_FEW: Final = "too_few"
#: Of a calibration slope: one score for all; a score that divides the classes.
CONSTANT: Final = "constant_score"
SEPARATED: Final = "separated"

#: Between the values of two crossed groups, as in "sex × race" and "F × Black".
CROSS: Final = " × "


class Measure(NamedTuple):
    """A value, NaN if it cannot be estimated, and why."""

    value: float
    status: str


@dataclass(frozen=True, eq=False)
class Counts:
    """True and false positives and negatives: (..., G) floats, sums of weights if rows have any.

    groups: the G names, in the order of the last axis.
    """

    groups: tuple[str, ...]
    tp: Floats
    fp: Floats
    fn: Floats
    tn: Floats

    @property
    def positives(self) -> Floats:
        """P = tp + fn."""
        return self.tp + self.fn

    @property
    def negatives(self) -> Floats:
        """N = fp + tn."""
        return self.fp + self.tn

    @property
    def flagged(self) -> Floats:
        """tp + fp, those predicted positive."""
        return self.tp + self.fp

    @property
    def n(self) -> Floats:
        """All rows, tp + fp + fn + tn."""
        return self.positives + self.negatives

    def total(self) -> Counts:
        """The same over all groups together: one group called "overall"."""
        sums = (cell.sum(axis=-1, keepdims=True) for cell in (self.tp, self.fp, self.fn, self.tn))
        return Counts(("overall",), *sums)


def count(
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    sample_weight: Any = None,
    groups: Sequence[str] | None = None,
) -> Counts:
    """Counts (G,) of n rows of 0/1 labels and predictions.

    sensitive_features: n group names, or a frame of several columns, whose crossed values are the
    groups. Rows whose group is null are left out. `groups` fixes the order (default: sorted, those
    that occur). Raises `DataError` for other values than 0 and 1 and for unequal lengths.
    """
    truth, flagged = binary(y_true, "y_true"), binary(y_pred, "y_pred")
    features = crossed(sensitive_features)
    weight = np.ones(len(truth)) if sample_weight is None else weights(sample_weight)
    same_length(y_true=truth, y_pred=flagged, sensitive_features=features, sample_weight=weight)
    names, place = places(features, groups)
    known = place >= 0
    cell = (4 * place + 2 * truth + flagged)[known]
    sums = np.bincount(cell, weight[known], minlength=4 * len(names)).reshape(len(names), 4)
    tn, fp, fn, tp = np.ascontiguousarray(sums.T)
    return Counts(names, tp, fp, fn, tn)


def f1(counts: Counts, zero_division: float = np.nan) -> Floats:
    """F1 = 2tp / (2tp + fp + fn), van Rijsbergen (1979).

    Without a positive the formula gives 0/0 or an uninformative 0; both become `zero_division`.
    """
    value = _ratio(2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn)
    return np.where((counts.positives > 0) | (counts.n == 0), value, zero_division)


def tpr(counts: Counts) -> Floats:
    """True positive rate (recall, sensitivity) = tp / P."""
    return _ratio(counts.tp, counts.positives)


def fpr(counts: Counts) -> Floats:
    """False positive rate = fp / N."""
    return _ratio(counts.fp, counts.negatives)


def precision(counts: Counts) -> Floats:
    """Precision (positive predictive value) = tp / (tp + fp)."""
    return _ratio(counts.tp, counts.flagged)


def selection_rate(counts: Counts) -> Floats:
    """The share that is predicted positive = (tp + fp) / n."""
    return _ratio(counts.flagged, counts.n)


def gbe(counts: Counts) -> Floats:
    """Group Benefit Equality (ClosedLoop) = flagged / P = (tp + fp) / (tp + fn).

    1 means fp = fn. NaN without a positive, also where some are flagged (an infinite ratio).
    It does not say who is flagged: read it beside recall and precision.
    """
    return _ratio(counts.flagged, counts.positives)


#: The metrics that a 0/1 prediction has in each group.
RATES: Final[Mapping[str, Callable[[Counts], Floats]]] = MappingProxyType(
    {
        "f1": f1,
        "tpr": tpr,
        "fpr": fpr,
        "precision": precision,
        "selection_rate": selection_rate,
        "gbe": gbe,
    }
)
_WHY_NAN: Final = MappingProxyType(
    {"f1": NO_POSITIVES, "tpr": NO_POSITIVES, "gbe": NO_POSITIVES, "fpr": NO_NEGATIVES}
)


def status_of(metric: str, counts: Counts, value: Floats) -> npt.NDArray[np.str_]:
    """Why each `value` (..., G) of one of `RATES` is NaN, or "ok"."""
    why = np.where(np.isnan(value), _WHY_NAN.get(metric, UNDEFINED), OK)
    return np.where(counts.n > 0, why, EMPTY)


def crossed(sensitive_features: Any) -> pl.Series:
    """Group names as one String series; several columns are crossed, null if any part is null."""
    if isinstance(sensitive_features, pl.DataFrame):
        columns = [pl.col(name).cast(pl.String) for name in sensitive_features.columns]
        return sensitive_features.select(pl.concat_str(columns, separator=CROSS)).to_series()
    return pl.Series(sensitive_features).cast(pl.String)


def places(
    features: pl.Series, groups: Sequence[str] | None = None
) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    """The G group names and each row's place among them; -1 for null and for other names."""
    names = tuple(features.drop_nulls().unique().sort() if groups is None else groups)
    number = {name: place for place, name in enumerate(names)}
    place = features.replace_strict(number, default=-1, return_dtype=pl.Int64)
    return names, place.fill_null(-1).to_numpy()


def binary(values: Any, name: str) -> npt.NDArray[np.int64]:
    """0/1 (or boolean) values as integers; raises `DataError` at the first other value."""
    array = np.asarray(values)
    wrong = np.flatnonzero(~np.isin(array, (0, 1)))
    if len(wrong):
        got = f"{array[wrong[0]]!r} at place {wrong[0]}"
        raise DataError(column=name, want="0 or 1", got=got)
    return array.astype(np.int64)


def weights(values: Any) -> Floats:
    """Row weights; raises `DataError` at the first that is negative or not finite."""
    array = np.asarray(values, np.float64)
    wrong = np.flatnonzero(~(np.isfinite(array) & (array >= 0)))
    if len(wrong):
        got = f"{array[wrong[0]]} at place {wrong[0]}"
        raise DataError(column="sample_weight", want="finite numbers from 0", got=got)
    return array


def same_length(**columns: Any) -> None:
    """Raise `DataError` unless all have as many rows as the first."""
    (first, rows), *others = ((name, len(column)) for name, column in columns.items())
    for name, length in others:
        if length != rows:
            raise DataError(column=name, want=f"{rows} rows as in {first}", got=f"{length} rows")


def _ratio(top: Floats, bottom: Floats) -> Floats:
    """top / bottom, NaN where the bottom is 0."""
    nowhere = np.full(np.broadcast_shapes(top.shape, bottom.shape), np.nan)
    quotient: Floats = np.divide(top, bottom, out=nowhere, where=bottom > 0)
    return quotient
