"""What a score is worth, in resamples over subjects: ranking, squared error, calibration.

These weigh every row and have no short cut by kinds of subjects. All arms, and all models whose
visits are the same, are judged in the same resamples, for they are drawn from the same seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from equipoise import schema
from equipoise.evaluate.bootstrap import CHUNK, Ints, Pair
from equipoise.evaluate.calibration import calibration_intercept, log_odds, probability, recalibrate
from equipoise.evaluate.counts import Floats, places
from equipoise.evaluate.judging import CORRECTED_SCORE, Grouping
from equipoise.evaluate.ranking import Ranked, weighted_ranking

RANKINGS: Final = ("auroc", "ap")
#: Those that are made of sums over rows, and so cost little.
SUMMED: Final = ("brier", "calibration_slope", "calibration_intercept")


def resampled_scores(
    pair: Pair, groupings: Sequence[Grouping], resamples: int, seed: int
) -> list[tuple[Floats, Floats]]:
    """For each grouping all metrics of all arms: as they are (G, arm, metric), resampled (R, ...).

    The arms are control, method, and the method's corrected scores if there are any, of which the
    rankings are NaN; the metrics are `RANKINGS` and `SUMMED`. Tied scores count half, as in
    scikit-learn. A resampled slope or intercept is one step from that of all visits (Schucany &
    Wang, J R Stat Soc B 53, 1991), of second order, for one of Newton's falls short in the tails.
    """
    ids, owner = np.unique(pair.control[schema.SUBJECT_ID].to_numpy(), return_inverse=True)
    divided = [_divide(pair, grouping, owner) for grouping in groupings]
    point = [_judge(groups, np.ones((1, len(ids)))) for groups in divided]
    rng = np.random.default_rng(seed)
    rows = max(1, CHUNK // max(1, len(owner)))
    parts = []
    for start in range(0, resamples, rows):
        drawn = [_resample(rng, len(ids)) for _ in range(min(rows, resamples - start))]
        parts.append([_judge(groups, np.stack(drawn)) for groups in divided])
    many = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return [(one[0], more) for one, more in zip(point, many, strict=True)]


class Summed(NamedTuple):
    """What `SUMMED` needs of the rows of one group under one score.

    subject (U,): places of the subjects in it; sums (U, 15): per subject the rows, the positives,
    the squared errors, and the first three derivatives of the log-likelihood in (constant, slope):
    2, 3 and 4 numbers; and 3 in the intercept, all where they fit the whole. fit: slope, intercept.
    """

    subject: Ints
    sums: Floats
    fit: tuple[float, float]

    @staticmethod
    def of(owner: Ints, truth: npt.NDArray[np.bool_], score: Floats) -> Summed:
        """Sum n rows by subject."""
        y, x = truth.astype(np.int64), log_odds(score)
        constant = slope = intercept = np.nan
        if truth.any() and not truth.all():
            weight = np.ones(len(y))
            constant, (slope, _) = recalibrate(y, score, weight)
            intercept, _ = calibration_intercept(y, score, weight)
        p, q = probability(constant + slope * x), probability(intercept + x)
        first, second, third = y - p, p * (1 - p), p * (1 - p) * (1 - 2 * p)
        columns = [
            *(np.ones(len(y)), y, (score - y) ** 2),
            *(first, first * x, second, second * x, second * x**2),
            *(third, third * x, third * x**2, third * x**3),
            *(y - q, q * (1 - q), q * (1 - q) * (1 - 2 * q)),
        ]
        subject, place = np.unique(owner, return_inverse=True)
        sums = [np.bincount(place, column, minlength=len(subject)) for column in columns]
        return Summed(subject, np.stack(sums, axis=1), (slope, intercept))


def weighted_sums(summed: Summed, subjects: Floats) -> Floats:
    """(R, 3) the metrics of `SUMMED` under (R, S) weights of the subjects.

    NaN where there is no row, and of calibration where a class has no weight.
    """
    sums = (subjects[:, summed.subject] @ summed.sums).T
    n, ones, errors, g0, g1, h00, h01, h11, t000, t001, t011, t111, g, h, t = sums
    both = (ones > 0) & (ones < n)
    scale = np.where(both, h00 * h11 - h01**2, 0)

    def step(of0: Floats, of1: Floats) -> tuple[Floats, Floats]:
        return _quotient(h11 * of0 - h01 * of1, scale), _quotient(h00 * of1 - h01 * of0, scale)

    # Newton's step d, and the step once more with what the gradient bends along d.
    a, b = step(g0, g1)
    bent0 = t000 * a * a + 2 * t001 * a * b + t011 * b * b
    bent1 = t001 * a * a + 2 * t011 * a * b + t111 * b * b
    _, b = step(g0 - bent0 / 2, g1 - bent1 / 2)
    c = _quotient(g, np.where(both, h, 0))
    c = _quotient(g - t * c * c / 2, np.where(both, h, 0))
    slope, intercept = summed.fit
    return np.stack([_quotient(errors, n), slope + b, intercept + c], axis=1)


def _quotient(top: Floats, bottom: Floats) -> Floats:
    out = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=out, where=bottom > 0)
    return out


class _Group(NamedTuple):
    """The rows of one group: ranked under two scores, summed under these and the corrected one."""

    ranked: list[Ranked]
    summed: list[Summed]


def _divide(pair: Pair, grouping: Grouping, owner: Ints) -> list[_Group]:
    _, place = places(grouping.of(pair.control), grouping.groups)
    truth = pair.control[schema.LABEL].to_numpy()
    scores = [arm["score"].to_numpy() for arm in pair]
    corrected = [pair.method[CORRECTED_SCORE].to_numpy()] if corrected_in(pair) else []
    members = [np.flatnonzero(place == g) for g in range(len(grouping.groups))]
    return [
        _Group(
            [Ranked.of(owner[rows], truth[rows], score[rows]) for score in scores],
            [Summed.of(owner[rows], truth[rows], score[rows]) for score in scores + corrected],
        )
        for rows in members
    ]


def corrected_in(pair: Pair) -> bool:
    """Whether the method's scores are there with their priors corrected, too."""
    return CORRECTED_SCORE in pair.method.columns


def _judge(groups: list[_Group], subjects: Floats) -> Floats:
    """(R, G, arm, metric) under (R, S) weights of the subjects."""
    arms = max((len(group.summed) for group in groups), default=2)
    out = np.full((len(subjects), len(groups), arms, len(RANKINGS) + len(SUMMED)), np.nan)
    for g, group in enumerate(groups):
        for a, ranked in enumerate(group.ranked):
            out[:, g, a, : len(RANKINGS)] = weighted_ranking(ranked, subjects)
        for a, summed in enumerate(group.summed):
            out[:, g, a, len(RANKINGS) :] = weighted_sums(summed, subjects)
    return out


def _resample(rng: np.random.Generator, subjects: int) -> Floats:
    """How often each subject is drawn when as many as there are are drawn with replacement."""
    drawn = rng.integers(0, subjects, subjects) if subjects else np.empty(0, np.int64)
    return np.bincount(drawn, minlength=subjects).astype(np.float64)
