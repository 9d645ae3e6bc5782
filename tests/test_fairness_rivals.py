"""Equal to fairlearn, AIF360 and scikit-learn where definitions agree; where they differ, shown."""

from __future__ import annotations

import warnings
from typing import Any

import fairlearn.metrics as fl
import numpy as np
import pandas as pd
import pytest
from aif360.sklearn import metrics as aif
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from equipoise.evaluate import group_metrics as gm
from equipoise.evaluate.counts import count, f1, tpr
from test_group_metrics import near, rows


def aif_rows(of: dict[str, Any]) -> dict[str, Any]:
    """The same rows as AIF360 takes them."""
    return {
        "y_true": pd.Series(of["y_true"]),
        "y_pred": np.array(of["y_pred"]),
        "prot_attr": np.array(of["sensitive_features"]),
    }


@given(st.integers(0, 2**32 - 1), st.integers(0, 60))
def test_two_groups_equal_aif360s(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    # Every group has all four outcomes, so that each rate exists.
    y = np.concatenate([rng.integers(0, 2, n), np.tile([0, 0, 1, 1], 2)])
    p = np.concatenate([rng.integers(0, 2, n), np.tile([0, 1, 0, 1], 2)])
    g = np.concatenate([rng.choice(["a", "b"], n), np.repeat(["a", "b"], 4)])
    ours = {"y_true": y, "y_pred": p, "sensitive_features": g}
    theirs = aif_rows(ours)
    base = {**theirs, "priv_group": "a"}
    pairs = {
        gm.demographic_parity_difference: abs(aif.statistical_parity_difference(**base)),
        gm.equality_of_opportunity_difference: abs(aif.equal_opportunity_difference(**base)),
    }
    for metric, value in pairs.items():
        assert metric(**ours).value == pytest.approx(value)
    mean = gm.equalized_odds_difference(**ours, agg="mean").value
    assert mean == pytest.approx(aif.average_odds_error(**base))
    ratio = gm.classic_disparate_impact(**ours, training_sizes={"a": 2, "b": 1}).value
    assert ratio == pytest.approx(aif.disparate_impact_ratio(**base))


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_theil_over_individuals_and_between_groups_is_aif360s(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    y, p = rng.integers(0, 2, n), rng.integers(0, 2, n)
    g = rng.choice(["a", "b", "c"], n)
    ours = {"y_true": y, "y_pred": p, "sensitive_features": g}
    mine = gm.individual_theil_index(y, p)
    if (1 + p - y).any():
        theirs = aif.generalized_entropy_error(pd.Series(y), p, alpha=1)
        assert mine.value == pytest.approx(theirs, abs=1e-12)
    else:
        assert mine.status == "undefined"
    means = np.array([(1 + p - y)[g == name].mean() for name in np.unique(g)])
    if len(means) > 1 and (means > 0).all():
        theirs = aif.between_group_generalized_entropy_error(**aif_rows(ours), alpha=1)
        assert gm.between_group_theil_index(**ours).value == pytest.approx(theirs, abs=1e-12)


def test_the_two_theil_indices_share_only_their_name() -> None:
    abcd = rows("ABCD")
    everyone = aif.generalized_entropy_error(
        pd.Series(abcd["y_true"]), np.array(abcd["y_pred"]), alpha=1
    )
    assert everyone == near(0.120736)
    assert gm.theil_index(**abcd).value == near(0.0446725)
    # AIF360's formula over the groups' F1 is FairPlay's.
    scores = f1(count(**rows("ABC")))
    assert aif.theil_index(scores) == pytest.approx(gm.theil_index(**rows("ABC")).value)


def test_a_group_without_positives_counts_as_tpr_0_elsewhere_but_not_here() -> None:
    """The trap: group D has no positive; one that nobody could find is not one that was missed."""
    abc, abcd = rows("ABC"), rows("ABCD")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, that recall is ill-defined
        theirs = fl.equal_opportunity_difference(**abcd)
        difference = aif.equal_opportunity_difference(**aif_rows(rows("AD")), priv_group="A")
    assert theirs == near(0.80)
    assert fl.equal_opportunity_difference(**abc) == near(0.55)
    assert gm.equality_of_opportunity_difference(**abcd) == (near(0.55), "ok")
    assert difference == near(-0.80)
    alone = gm.equality_of_opportunity_difference(**rows("AD"))
    assert np.isnan(alone.value)
    assert alone.status == "undefined"
    assert np.isnan(tpr(count(**abcd))[3])


def test_a_group_with_nothing_to_find_has_f1_0_elsewhere_but_not_here() -> None:
    """The trap: scikit-learn's F1 of no positives and none flagged is 0, as if all were missed."""
    with pytest.warns(UserWarning, match="ill-defined"):
        assert f1_score([0, 0], [0, 0]) == 0
    nothing = count([0, 0], [0, 0], sensitive_features=["a", "a"])
    assert np.isnan(f1(nothing)[0])
    assert f1(nothing, zero_division=0)[0] == 0
    table = gm.metrics_by_group([0, 0], [0, 0], sensitive_features=["a", "a"])
    assert table.filter(metric="f1").row(0)[2:] == (
        pytest.approx(np.nan, nan_ok=True), "no_positives", 2, 0,
    )  # fmt: skip
