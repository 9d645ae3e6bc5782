"""Thresholds, chosen on other rows than those they are judged on.

Predicted positive is score >= threshold.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from equipoise.errors import DataError
from equipoise.evaluate.counts import (
    EMPTY,
    NO_POSITIVES,
    OK,
    UNDEFINED,
    Floats,
    binary,
    same_length,
)


class Threshold(NamedTuple):
    """A threshold and what it reaches on the rows it was chosen on; NaN with the reason if none.

    reached: the F1 of `f1_threshold`, the Group Benefit Equality of `gbe_threshold`.
    """

    value: float
    reached: float
    status: str


def f1_threshold(y_true: Any, y_score: Any) -> Threshold:
    """The distinct score that, as a threshold, gives the largest F1; the highest of equals.

    At the optimum it is about half of that F1 (Lipton et al., ECML 2014). NaN without a positive.
    """
    truth, score = _rows(y_true, y_score)
    status = _status(truth, score)
    if status != OK:
        return Threshold(np.nan, np.nan, status)
    candidates, flagged, tp = _cumulated(truth, score)
    f1 = 2 * tp / (flagged + truth.sum())
    best = int(np.argmax(f1))
    return Threshold(float(candidates[best]), float(f1[best]), OK)


def gbe_threshold(y_true: Any, y_score: Any) -> Threshold:
    """The distinct score at which flagged / positives is nearest to 1, in abs(ln(flagged / P)).

    Group Benefit Equality of the whole population (ClosedLoop). Without ties this is the P-th
    largest score; `reached` says what ties allow. Of equals the lower threshold, which flags more.
    Raises `DataError` if there is no positive or a score is NaN.
    """
    truth, score = _rows(y_true, y_score)
    status = _status(truth, score)
    if status != OK:
        raise DataError(column="y_true", want="positives, and scores that are numbers", got=status)
    candidates, flagged, _ = _cumulated(truth, score)
    distance = np.abs(np.log(flagged / truth.sum()))
    best = len(distance) - 1 - int(np.argmin(distance[::-1]))
    return Threshold(float(candidates[best]), float(flagged[best] / truth.sum()), OK)


def _rows(y_true: Any, y_score: Any) -> tuple[npt.NDArray[np.int64], Floats]:
    truth, score = binary(y_true, "y_true"), np.asarray(y_score, np.float64)
    same_length(y_true=truth, y_score=score)
    return truth, score


def _status(truth: npt.NDArray[np.int64], score: Floats) -> str:
    if not len(truth):
        return EMPTY
    if np.isnan(score).any():
        return UNDEFINED
    return OK if truth.any() else NO_POSITIVES


def _cumulated(
    truth: npt.NDArray[np.int64], score: Floats
) -> tuple[Floats, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The distinct scores, highest first, and the rows and positives at or above each."""
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    return ranked[ends], ends + 1, np.cumsum(truth[order])[ends]
