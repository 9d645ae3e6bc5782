"""Slope and intercept are those of scikit-learn and SciPy, or NaN with a reason."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from equipoise.evaluate.calibration import calibration_intercept, calibration_slope, log_odds
from equipoise.evaluate.group_metrics import metrics_by_group, score_metric


@given(st.integers(0, 2**32 - 1), st.floats(0.02, 3), st.floats(-4, 4), st.booleans())
def test_a_fit_is_that_of_scikit_learn_and_scipy(
    seed: int, slope: float, intercept: float, weighted: bool
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 2, 300)
    y = (rng.random(300) < expit(intercept + slope * x)).astype(int)
    # Two rows of each class on both sides: neither class is missing, nor are they separable.
    x, y = np.append(x, [-3, -3, 3, 3]), np.append(y, [0, 1, 0, 1])
    w = rng.integers(0, 3, len(x)).astype(float) if weighted else np.ones(len(x))
    w[-4:] = 1
    score = expit(x)
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    theirs.fit(x[:, None], y, sample_weight=w)
    mine = calibration_slope(y, score, w)
    assert mine.status == "ok"
    assert mine.value == pytest.approx(theirs.coef_.item(), rel=1e-4, abs=1e-5)
    in_the_large = calibration_intercept(y, score, w)
    root = brentq(lambda a: w @ (y - expit(a + x)), -30, 30, xtol=1e-12)
    assert in_the_large.value == pytest.approx(root, abs=1e-7)


def test_risks_that_are_right_are_told_so_and_shifted_ones_by_how_much() -> None:
    p = np.repeat([0.1, 0.5, 0.8], [100, 100, 100])
    y = np.concatenate([np.arange(100) < round(100 * q) for q in (0.1, 0.5, 0.8)]).astype(int)
    one = np.ones(len(p))
    assert calibration_slope(y, p, one).value == pytest.approx(1)
    assert calibration_intercept(y, p, one).value == pytest.approx(0, abs=1e-9)
    # Log-odds twice as far out, and all two units too high.
    assert calibration_slope(y, expit(2 * logit(p)), one).value == pytest.approx(0.5)
    assert calibration_intercept(y, expit(logit(p) + 2), one).value == pytest.approx(-2)


def test_what_has_no_slope_says_why() -> None:
    y = np.array([0, 0, 1, 1])
    for score, why in (
        (np.full(4, 0.3), "constant_score"),
        (np.array([0.1, 0.2, 0.6, 0.7]), "separated"),
        (np.array([0.7, 0.6, 0.2, 0.1]), "separated"),
        (np.array([0.1, 0.4, 0.4, 0.9]), "separated"),
        (np.array([0.1, np.nan, 0.4, 0.9]), "undefined"),
    ):
        assert score_metric("calibration_slope", y, score) == (
            pytest.approx(np.nan, nan_ok=True),
            why,
        )
    # In the large there is an answer still: the scores' mean has to meet the share of positives.
    assert score_metric("calibration_intercept", y, np.full(4, 0.3)).value == pytest.approx(
        -logit(0.3)
    )
    for metric in ("calibration_slope", "calibration_intercept"):
        score = np.array([0.1, 0.4])
        assert score_metric(metric, np.ones(2, int), score).status == "no_negatives"
        assert score_metric(metric, np.zeros(2, int), score).status == "no_positives"
        assert score_metric(metric, np.ones(0, int), score[:0]).status == "empty"
        # A class that is there without any weight is not there.
        assert score_metric(metric, np.array([0, 1]), score, np.array([0.0, 1])).status == (
            "no_negatives"
        )


def test_rows_without_weight_neither_overlap_nor_count() -> None:
    y, weight = np.array([0, 1, 0, 1, 0]), np.array([1.0, 1, 1, 1, 0])
    score = np.array([0.1, 0.6, 0.2, 0.7, 0.9])
    assert score_metric("calibration_slope", y, score, weight).status == "separated"
    assert score_metric("calibration_slope", y, score).status == "ok"


@pytest.mark.parametrize("extreme", [0.0, 1e-12])
def test_scores_of_zero_and_one_are_clipped_and_fitted(extreme: float) -> None:
    assert log_odds(np.array([0.0, 1.0])) == pytest.approx([-13.8155, 13.8155], abs=1e-4)
    score = np.array([extreme, 1 - extreme] * 20)
    y = np.array([0, 1] * 19 + [1, 0])
    table = metrics_by_group(y, None, sensitive_features=["a"] * 40, y_score=score)
    told = dict(table.select("metric", "value").iter_rows())
    # 19 of 20 on either side: log-odds of 19 over log-odds of the clip.
    assert told["calibration_slope"] == pytest.approx(np.log(19) / 13.8155, rel=1e-4)
    assert told["calibration_intercept"] == pytest.approx(0, abs=1e-6)
