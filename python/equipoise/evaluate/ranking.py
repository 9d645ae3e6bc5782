"""AUROC and average precision, under many weights of the subjects at once."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from equipoise.evaluate.counts import Floats

Ints = npt.NDArray[np.int64]


class Ranked(NamedTuple):
    """The n rows of one group by falling score, and its K distinct scores that a positive has.

    owner (n,): places of the rows' subjects; positive (P,): places of the positives among the rows;
    rows, hits (K, 2): the rows, and the positives, before and up to each such score.
    """

    owner: Ints
    positive: Ints
    rows: Ints
    hits: Ints

    @staticmethod
    def of(owner: Ints, truth: npt.NDArray[np.bool_], score: Floats) -> Ranked:
        """Rank n rows; ties stay together."""
        order = np.argsort(-score, kind="stable")
        falling, positive = score[order], np.flatnonzero(truth[order])
        distinct = np.unique(-falling[positive])
        rows = np.stack([np.searchsorted(-falling, distinct, side) for side in _SIDES], axis=1)
        return Ranked(owner[order], positive, rows, np.searchsorted(positive, rows))


_SIDES: Final = ("left", "right")


def weighted_ranking(ranked: Ranked, subjects: Floats) -> Floats:
    """(R, 2) AUROC and average precision under (R, S) weights of the subjects.

    AUROC is the Mann-Whitney statistic, ties counting half (Hanley & McNeil 1982); average
    precision is sum_k (R_k - R_{k-1}) P_k over the distinct scores, as in scikit-learn. NaN where a
    class has no weight.
    """
    weight = subjects[:, ranked.owner]
    above = _cumulated(weight)
    tp = _cumulated(weight[:, ranked.positive])
    positives, negatives = tp[:, -1], above[:, -1] - tp[:, -1]
    hits, flagged = tp[:, ranked.hits], above[:, ranked.rows]
    gained = hits[..., 1] - hits[..., 0]
    beaten = negatives[:, None] - (flagged - hits).mean(axis=-1)
    whole = np.maximum(flagged[..., 1], np.finfo(np.float64).tiny)
    precision = hits[..., 1] / whole
    both = np.stack([(gained * beaten).sum(1), (gained * precision).sum(1)], axis=1)
    out = np.full_like(both, np.nan)
    known = ((positives > 0) & (negatives > 0))[:, None]
    scale = np.stack([positives * negatives, positives], axis=1)
    np.divide(both, scale, out=out, where=known)
    return out


def _cumulated(weight: Floats) -> Floats:
    """Running sums along the rows, beginning with 0."""
    sums = np.zeros((weight.shape[0], weight.shape[1] + 1))
    np.cumsum(weight, axis=1, out=sums[:, 1:])
    return sums


def auroc(y_true: Ints, y_score: Floats, *, sample_weight: Floats) -> float:
    """The chance that a positive scores above a negative, ties counting half."""
    return float(_rank(y_true, y_score, sample_weight)[0])


def average_precision(y_true: Ints, y_score: Floats, *, sample_weight: Floats) -> float:
    """The precision at each distinct score, weighted by the positives found there."""
    return float(_rank(y_true, y_score, sample_weight)[1])


def _rank(y_true: Ints, y_score: Floats, weight: Floats) -> Floats:
    ranked = Ranked.of(np.arange(len(y_true)), y_true == 1, y_score)
    both: Floats = weighted_ranking(ranked, weight[None])[0]
    return both
