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
#: By so much a log-likelihood, per unit of weight, may seem to fall where it does not.
_ROUNDING: Final = 1e-12


def calibration_slope(
    y_true: npt.NDArray[np.int64], y_score: Floats, sample_weight: Floats
) -> Measure:
    """The slope of a fit of both slope and intercept; rows of both classes are needed.

    NaN and "constant_score" where all scores are alike, and "separated" where a score divides the
    classes (also but for ties at it): then the likelihood has no maximum (Albert & Anderson 1984).
    """
    return recalibrate(y_true, y_score, sample_weight)[1]


def recalibrate(
    y_true: npt.NDArray[np.int64], y_score: Floats, sample_weight: Floats
) -> tuple[float, Measure]:
    """The constant that belongs to `calibration_slope`, and that slope."""
    used = sample_weight > 0
    x, y, weight = log_odds(y_score[used]), y_true[used], sample_weight[used]
    if np.ptp(x) == 0:
        return np.nan, Measure(np.nan, CONSTANT)
    ill, well = x[y == 1], x[y == 0]
    if ill.min() >= well.max() or well.min() >= ill.max():
        return np.nan, Measure(np.nan, SEPARATED)
    centre, scale = x.mean(), x.std()
    columns = np.stack([np.ones(len(x)), (x - centre) / scale])
    constant, slope = _fit(columns, np.zeros(len(x)), y, weight)
    return float(constant - slope / scale * centre), _told(slope / scale)


def calibration_intercept(
    y_true: npt.NDArray[np.int64], y_score: Floats, sample_weight: Floats
) -> Measure:
    """The intercept with the slope held at 1; rows of both classes are needed."""
    x = log_odds(y_score)
    return _told(_fit(np.ones((1, len(x))), x, y_true, sample_weight)[0])


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


def _fit(columns: Floats, offset: Floats, y: npt.NDArray[np.int64], weight: Floats) -> Floats:
    """(k,) maximum likelihood coefficients of (k, n) columns by Newton; NaN if it does not arrive.

    The log-likelihood is concave, so a step that does not raise it is too long and is halved.
    Plain sums and no matrix products: threads would cost more than they bring.
    """
    weight = weight / weight.sum()

    def likelihood(x: Floats) -> float:
        return float((weight * (y * x - np.logaddexp(0, x))).sum())

    at, x, reached = np.zeros(len(columns)), offset, likelihood(offset)
    for _ in range(_STEPS):
        p = probability(x)
        slope = np.einsum("kn,n->k", columns, weight * (y - p))
        if np.abs(slope).max() < _FLAT:
            return at
        bend = np.einsum("in,jn,n->ij", columns, columns, weight * p * (1 - p))
        try:
            step = np.linalg.solve(bend, slope)
        except np.linalg.LinAlgError:
            break
        while True:
            x = offset + np.einsum("kn,k->n", columns, at + step)
            found = likelihood(x)
            if found >= reached - _ROUNDING or np.abs(step).max() <= _FLAT:
                break
            step /= 2
        at, reached = at + step, found
    return np.full(len(columns), np.nan)


#: The calibration metrics of a score.
CALIBRATION: Final[Mapping[str, Callable[[npt.NDArray[np.int64], Floats, Floats], Measure]]] = (
    MappingProxyType(
        {"calibration_slope": calibration_slope, "calibration_intercept": calibration_intercept}
    )
)
