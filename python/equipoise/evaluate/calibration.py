"""Do predicted risks mean what they say? Slope and intercept of the logistic recalibration.

logit P(y = 1) = intercept + slope * logit(p) (Cox, Biometrika 45, 1958). A slope of 1 and an
intercept of 0 are ideal: a slope below 1 says that scores are too extreme, an intercept below 0
that risks are told too high. The intercept is the one of calibration in the large, with the slope
held at 1 (Van Calster et al., J Clin Epidemiol 74, 2016, and BMC Medicine 17:230, 2019).

Scores are clipped to [1e-6, 1 - 1e-6], log-odds of -13.8 to 13.8: nearest neighbours and forests
do say 0 and 1, whose log-odds are infinite, and the slope of such scores rests on this clip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from equipoise.evaluate.counts import CONSTANT, OK, SEPARATED, UNDEFINED, Floats, Measure

#: Scores are kept this far from 0 and 1.
CLIP: Final = 1e-6
_STEPS: Final = 60
#: A fit has arrived where the gradient is this small, per unit of weight.
_FLAT: Final = 1e-10


def calibration_slope(
    y_true: npt.NDArray[np.int64], y_score: Floats, sample_weight: Floats
) -> Measure:
    """The slope of a fit of both slope and intercept; rows of both classes are needed.

    NaN and "constant_score" where all scores are alike, and "separated" where a score divides the
    classes (also but for ties at it): then the likelihood has no maximum (Albert & Anderson 1984).
    """
    used = sample_weight > 0
    x, y, weight = log_odds(y_score[used]), y_true[used], sample_weight[used]
    if np.ptp(x) == 0:
        return Measure(np.nan, CONSTANT)
    ill, well = x[y == 1], x[y == 0]
    if ill.min() >= well.max() or well.min() >= ill.max():
        return Measure(np.nan, SEPARATED)
    centre, scale = x.mean(), x.std()
    design = np.stack([np.ones(len(x)), (x - centre) / scale], axis=1)
    fitted = _fit(design, np.zeros(len(x)), y, weight)
    return _told(fitted[1] / scale)


def calibration_intercept(
    y_true: npt.NDArray[np.int64], y_score: Floats, sample_weight: Floats
) -> Measure:
    """The intercept with the slope held at 1; rows of both classes are needed."""
    x = log_odds(y_score)
    return _told(_fit(np.ones((len(x), 1)), x, y_true, sample_weight)[0])


def log_odds(score: Floats) -> Floats:
    """ln(p / (1 - p)) of scores clipped to [1e-6, 1 - 1e-6]."""
    p = np.clip(score, CLIP, 1 - CLIP)
    odds: Floats = np.log(p) - np.log1p(-p)
    return odds


def probability(log_odds: Floats) -> Floats:
    """1 / (1 + exp(-x)), whatever the size of x."""
    halves: Floats = 0.5 * (1 + np.tanh(0.5 * log_odds))
    return halves


def _told(value: float) -> Measure:
    return Measure(float(value), OK if np.isfinite(value) else UNDEFINED)


def _fit(design: Floats, offset: Floats, y: npt.NDArray[np.int64], weight: Floats) -> Floats:
    """(k,) maximum likelihood coefficients of (n, k) columns by Newton; NaN if it does not arrive.

    The log-likelihood is concave, so a step that does not raise it is too long and is halved.
    """
    weight = weight / weight.sum()

    def likelihood(of: Floats) -> float:
        x = offset + design @ of
        return float(weight @ (y * x - np.logaddexp(0, x)))

    at = np.zeros(design.shape[1])
    reached = likelihood(at)
    for _ in range(_STEPS):
        p = probability(offset + design @ at)
        slope = design.T @ (weight * (y - p))
        if np.abs(slope).max() < _FLAT:
            return at
        bend = (design.T * (weight * p * (1 - p))) @ design
        try:
            step = np.linalg.solve(bend, slope)
        except np.linalg.LinAlgError:
            break
        while (found := likelihood(at + step)) < reached and np.abs(step).max() > _FLAT:
            step /= 2
        at, reached = at + step, found
    return np.full(design.shape[1], np.nan)


#: The calibration metrics of a score.
CALIBRATION: Final[Mapping[str, Callable[[npt.NDArray[np.int64], Floats, Floats], Measure]]] = (
    MappingProxyType(
        {"calibration_slope": calibration_slope, "calibration_intercept": calibration_intercept}
    )
)
