"""One number over all groups: (..., G) counts in, (...) values out, NaN where undefined.

Groups whose own metric is NaN are left out of a mean, a largest or a smallest value. Where more
than one group is named but fewer than two can be estimated there is nothing to compare: NaN. A
single group alone compares as 0.

`sizes` are the (G,) numbers of subjects in the ORIGINAL TRAINING data: they choose the majority
group (the largest, the first of equals) and weigh the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import xlogy

from equipoise.evaluate.counts import Counts, Floats, f1, fpr, selection_rate, tpr


def majority(sizes: Floats) -> int:
    """The place of the largest group, the first of equals."""
    return int(np.argmax(sizes))


def disparate_impact(counts: Counts, sizes: Floats) -> Floats:
    """FairPlay's disparate impact, a ratio of F1 scores: 1 is equal, above 1 favours minorities.

    sum_{g != maj} n_g F1_g / F1_maj  /  sum_{g != maj} n_g
    (Theodorou et al., npj Digital Medicine 8:100, 2025, Methods; n_g the sizes in training).
    NaN if F1_maj is 0 or NaN, or if no minority group has an F1.
    """
    score = f1(counts)
    base = score[..., [majority(sizes)]]
    usable = np.isfinite(score) & (np.arange(len(sizes)) != majority(sizes))
    weight = np.where(usable, sizes, 0.0)
    top = (weight * np.where(usable, score, 0.0)).sum(-1)
    bottom = weight.sum(-1) * base[..., 0]
    return _divide(top, bottom)


def classic_disparate_impact(counts: Counts, sizes: Floats) -> Floats:
    """min over g != maj of sel_g / sel_maj; below 0.8 fails the four-fifths rule.

    Feldman et al. (KDD 2015), Definition 1.1. NaN if nobody in the majority group is selected.
    """
    rate = selection_rate(counts)
    others = np.arange(len(sizes)) != majority(sizes)
    least = _reduce(np.fmin, rate[..., others])
    return _divide(least, rate[..., majority(sizes)])


def demographic_parity_ratio(counts: Counts, sizes: Floats | None = None) -> Floats:
    """min_g sel_g / max_g sel_g (fairlearn's); `sizes` play no part."""
    del sizes
    rate = selection_rate(counts)
    return _comparable(_divide(_reduce(np.fmin, rate), _reduce(np.fmax, rate)), rate)


def theil_index(counts: Counts, sizes: Floats | None = None) -> Floats:
    """FairPlay's Theil index over the groups' F1 scores, each group counting alike.

    (1/G) sum_g (x_g / mu) ln(x_g / mu), mu the unweighted mean, 0 ln 0 = 0 (Theodorou et al. 2025,
    Methods; Theil 1967). 0 is equal, ln G the most unequal. NaN if every F1 is 0.
    """
    del sizes
    score = f1(counts)
    return _comparable(theil_of(score, np.ones(score.shape[-1])), score)


def weighted_theil_index(counts: Counts, sizes: Floats) -> Floats:
    """`theil_index` with each group counting by its size: sum w_g r_g ln r_g / sum w_g."""
    score = f1(counts)
    return _comparable(theil_of(score, sizes), score)


def individual_theil_index(counts: Counts, sizes: Floats | None = None) -> Floats:
    """AIF360's Theil index over individuals: (1/N) sum_i (b_i / mu) ln(b_i / mu).

    b_i = yhat_i - y_i + 1 is a person's benefit: 0 missed, 1 right, 2 wrongly flagged (Speicher et
    al., KDD 2018, section 2.1). Shares nothing but the name with `theil_index`.
    """
    del sizes
    benefits = np.stack([counts.fn, counts.tp + counts.tn, counts.fp], axis=-1).sum(axis=-2)
    return theil_of(np.broadcast_to(np.arange(3.0), benefits.shape), benefits)


def between_group_theil_index(counts: Counts, sizes: Floats | None = None) -> Floats:
    """`individual_theil_index` with each benefit replaced by its group's mean (Speicher 2018)."""
    del sizes
    mean = _divide(counts.tp + counts.tn + 2 * counts.fp, counts.n)
    return _comparable(theil_of(mean, counts.n), mean)


def performance_variance(counts: Counts, sizes: Floats | None = None) -> Floats:
    """Population variance (ddof 0) of the groups' F1 scores, unweighted (FairPlay, Methods)."""
    del sizes
    score = f1(counts)
    usable = np.isfinite(score)
    mean = _divide(np.where(usable, score, 0).sum(-1), usable.sum(-1))
    squares = np.where(usable, (score - mean[..., None]) ** 2, 0).sum(-1)
    return _comparable(_divide(squares, usable.sum(-1)), score)


def demographic_parity_difference(counts: Counts, sizes: Floats | None = None) -> Floats:
    """max_g sel_g - min_g sel_g (fairlearn's; Agarwal et al., ICML 2018)."""
    del sizes
    return _range(selection_rate(counts))


def equality_of_opportunity_difference(counts: Counts, sizes: Floats | None = None) -> Floats:
    """max_g TPR_g - min_g TPR_g over groups that have a positive (Hardt et al., NeurIPS 2016).

    fairlearn takes the TPR of a group without positives as 0; here such a group is left out.
    """
    del sizes
    return _range(tpr(counts))


def equalized_odds_difference(counts: Counts, sizes: Floats | None = None) -> Floats:
    """The worse of the ranges of TPR and FPR (Hardt et al. 2016; fairlearn's "worst_case")."""
    del sizes
    return np.maximum(_range(tpr(counts)), _range(fpr(counts)))


def mean_equalized_odds_difference(counts: Counts, sizes: Floats | None = None) -> Floats:
    """The mean of the ranges of TPR and FPR (fairlearn's agg="mean")."""
    del sizes
    return (_range(tpr(counts)) + _range(fpr(counts))) / 2


#: Those that rest on who is flagged, not on who is positive.
BY_SELECTION: Final = (
    "classic_disparate_impact",
    "demographic_parity_ratio",
    "demographic_parity_difference",
)

#: Every number over groups that a comparison reports.
FAIRNESS: Final[Mapping[str, Callable[[Counts, Floats], Floats]]] = MappingProxyType(
    {
        "disparate_impact": disparate_impact,
        "theil": theil_index,
        "weighted_theil": weighted_theil_index,
        "performance_variance": performance_variance,
        "classic_disparate_impact": classic_disparate_impact,
        "demographic_parity_ratio": demographic_parity_ratio,
        "demographic_parity_difference": demographic_parity_difference,
        "equality_of_opportunity_difference": equality_of_opportunity_difference,
        "equalized_odds_difference": equalized_odds_difference,
        "mean_equalized_odds_difference": mean_equalized_odds_difference,
        "individual_theil": individual_theil_index,
        "between_group_theil": between_group_theil_index,
    }
)


def theil_of(x: Floats, weight: Floats) -> Floats:
    """Theil index of x (..., G) >= 0 under `weight` ((G,) or (..., G)); NaN values are left out."""
    usable = np.isfinite(x)
    w = np.where(usable, weight, 0.0)
    x = np.where(usable, x, 0.0)
    mean = _divide((w * x).sum(-1), w.sum(-1))
    share = _divide(x, np.broadcast_to(mean[..., None], x.shape))
    value = _divide((w * xlogy(share, share)).sum(-1), w.sum(-1))
    # Never negative (Jensen), but rounding can leave -1e-17 where all are equal.
    return np.maximum(value, 0.0)


def _range(rate: Floats) -> Floats:
    return _comparable(_reduce(np.fmax, rate) - _reduce(np.fmin, rate), rate)


def _reduce(pick: np.ufunc, rate: Floats) -> Floats:
    """fmin or fmax over the groups, NaN where all are NaN (or there is no group)."""
    start = np.full((*rate.shape[:-1], 1), np.nan)
    picked: Floats = pick.reduce(np.concatenate([start, rate], axis=-1), axis=-1)
    return picked


def _comparable(value: Floats, per_group: Floats) -> Floats:
    """`value`, NaN where more than one group is named but fewer than two can be estimated."""
    estimable = np.isfinite(per_group).sum(-1)
    return np.where(estimable >= min(2, per_group.shape[-1]), value, np.nan)


def _divide(top: npt.ArrayLike, bottom: npt.ArrayLike) -> Floats:
    """top / bottom, NaN where the bottom is 0 or NaN."""
    above, below = np.asarray(top, np.float64), np.asarray(bottom, np.float64)
    nowhere = np.full(np.broadcast_shapes(above.shape, below.shape), np.nan)
    quotient: Floats = np.divide(above, below, out=nowhere, where=below > 0)
    return quotient
