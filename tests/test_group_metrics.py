"""Metrics agree with metrics.md's worked cells, with fairlearn, with scikit-learn."""

from __future__ import annotations

import warnings
from typing import Any

import fairlearn.metrics as fl
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from equipoise.errors import DataError
from equipoise.evaluate import fairness
from equipoise.evaluate import group_metrics as gm
from equipoise.evaluate.benefit import group_benefit_equality
from equipoise.evaluate.counts import RATES, Counts, count, f1, gbe, selection_rate, status_of

# tp, fp, fn, tn of reference/metrics.md
TOYS = {
    "A": (40, 20, 10, 130),
    "B": (12, 18, 12, 58),
    "C": (2, 1, 6, 11),
    "D": (0, 3, 0, 27),
}
SIZES = {"A": 200, "B": 100, "C": 20}


def rows(names: str) -> dict[str, Any]:
    """The toy cells as one row per person."""
    truth, flagged, group = [], [], []
    for name in names:
        for (y, p), n in zip(((1, 1), (0, 1), (1, 0), (0, 0)), TOYS[name], strict=True):
            truth += [y] * n
            flagged += [p] * n
            group += [name] * n
    return {"y_true": truth, "y_pred": flagged, "sensitive_features": group}


def near(value: float) -> Any:
    return pytest.approx(value, rel=0, abs=5e-7)


def test_toy_cells() -> None:
    abc, abcd = rows("ABC"), rows("ABCD")
    assert gm.disparate_impact(**abc, training_sizes=SIZES) == (near(0.592593), "ok")
    assert gm.theil_index(**abc) == (near(0.0446725), "ok")
    assert gm.theil_index(**abc, group_weights=SIZES) == (near(0.0292163), "ok")
    assert gm.performance_variance(**abc) == (near(0.0243059), "ok")
    assert gm.demographic_parity_difference(**abc) == (near(0.15), "ok")
    assert gm.demographic_parity_difference(**abcd) == (near(0.20), "ok")
    assert gm.equality_of_opportunity_difference(**abc) == (near(0.55), "ok")
    assert gm.equality_of_opportunity_difference(**abcd) == (near(0.55), "ok")
    people = {name: abcd[name] for name in ("y_true", "y_pred")}
    assert gm.individual_theil_index(**people) == (near(0.120736), "ok")
    assert gm.between_group_theil_index(**abcd) == (near(0.00268160), "ok")


def test_a_group_without_positives_is_left_out_and_listed() -> None:
    abcd = count(**rows("ABCD"))
    assert np.isnan(f1(abcd)[3])
    zero = f1(abcd, zero_division=0)
    assert zero[3] == 0
    assert fairness.theil_of(zero, np.ones(4)) == near(0.332355)
    assert gm.theil_index(**rows("ABCD")) == gm.theil_index(**rows("ABC"))
    assert gm.performance_variance(**rows("ABCD")) == gm.performance_variance(**rows("ABC"))
    table = gm.metrics_by_group(**rows("ABCD")).filter(group="D")
    status = dict(table.select("metric", "status").iter_rows())
    assert status["f1"] == status["tpr"] == status["gbe"] == "no_positives"
    assert status["fpr"] == status["selection_rate"] == "ok"


def test_gbe_consistency_fixture() -> None:
    """ClosedLoop's published figures hang together: one unknown share gives the whole."""
    prevalence = {"F": 0.00975, "M": 0.00686}
    share = (0.00843 - prevalence["M"]) / (prevalence["F"] - prevalence["M"])
    assert share == pytest.approx(0.5433, abs=5e-5)
    selected = {"M": 0.875 * prevalence["M"]}
    selected["F"] = selected["M"] / 0.569
    people = np.array([share, 1 - share])
    flagged = people * [selected["F"], selected["M"]]
    positives = people * [prevalence["F"], prevalence["M"]]
    tp = flagged / 3
    counts = Counts(("F", "M"), tp, flagged - tp, positives - tp, people - flagged - positives + tp)
    assert gbe(counts) == pytest.approx([1.082, 0.875], abs=5e-4)
    assert gbe(counts.total()) == pytest.approx([1.005], abs=5e-4)
    assert selection_rate(counts) == pytest.approx([0.010549, 0.006003], abs=5e-7)
    impact = fairness.classic_disparate_impact(counts, people)
    assert impact == pytest.approx(0.569)


def test_classic_disparate_impact_and_the_parity_ratio() -> None:
    abc = rows("ABC")
    assert gm.classic_disparate_impact(**abc, training_sizes=SIZES) == (near(0.15 / 0.3), "ok")
    in_a = np.array(abc["sensitive_features"]) == "A"
    nobody = abc | {"y_pred": np.where(in_a, 0, abc["y_pred"])}
    value, status = gm.classic_disparate_impact(**nobody, training_sizes=SIZES)
    assert np.isnan(value)
    assert status == "undefined"
    assert gm.disparate_impact(**nobody, training_sizes=SIZES).status == "undefined"


def test_the_majority_comes_from_training_not_from_the_test() -> None:
    swapped = gm.disparate_impact(**rows("ABC"), training_sizes={"A": 1, "B": 5, "C": 1})
    f1_a, f1_b, f1_c = (2 * tp / (2 * tp + fp + fn) for tp, fp, fn, _ in list(TOYS.values())[:3])
    assert swapped == (near((f1_a + f1_c) / 2 / f1_b), "ok")
    absent = gm.disparate_impact(**rows("BC"), training_sizes=SIZES)
    assert absent.status == "undefined"


def test_one_group_alone_is_equal_and_one_of_several_cannot_be_compared() -> None:
    assert gm.theil_index(**rows("A")) == (0.0, "ok")
    assert gm.performance_variance(**rows("A")) == (0.0, "ok")
    for metric in (gm.theil_index, gm.performance_variance, gm.equality_of_opportunity_difference):
        assert metric(**rows("AD")).status == "undefined"
    assert gm.theil_index(**rows("D")).status == "no_positives"
    nothing: dict[str, Any] = {"y_true": [], "y_pred": [], "sensitive_features": []}
    assert gm.demographic_parity_difference(**nothing).status == "empty"


binary_rows = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@settings(max_examples=8)  # fairlearn takes a second for each
@given(binary_rows, st.integers(1, 80), st.booleans())
def test_equal_to_fairlearn_where_the_definitions_agree(
    rng: np.random.Generator, n: int, weighted: bool
) -> None:
    y, p = rng.integers(0, 2, n), rng.integers(0, 2, n)
    g = rng.choice(["a", "b", "c"], n)
    y = np.concatenate([y, np.tile([0, 1], 3)])
    p = np.concatenate([p, np.zeros(6, int)])
    g = np.concatenate([g, np.repeat(["a", "b", "c"], 2)])
    w = rng.random(len(y)) + 0.1 if weighted else None
    args = {"sensitive_features": g, "sample_weight": w}
    pairs = [
        (gm.demographic_parity_difference, fl.demographic_parity_difference),
        (gm.equality_of_opportunity_difference, fl.equal_opportunity_difference),
        (gm.equalized_odds_difference, fl.equalized_odds_difference),
    ]
    for ours, theirs in pairs:
        assert ours(y, p, **args).value == pytest.approx(theirs(y, p, **args))
    mean = gm.equalized_odds_difference(y, p, agg="mean", **args).value
    assert mean == pytest.approx(fl.equalized_odds_difference(y, p, agg="mean", **args))
    counts = count(y, p, **args)
    if p.any():
        ratio = fairness.demographic_parity_ratio(counts)
        assert ratio == pytest.approx(fl.demographic_parity_ratio(y, p, **args))
    for metric, theirs in (
        ("selection_rate", fl.selection_rate),
        ("tpr", fl.true_positive_rate),
        ("fpr", fl.false_positive_rate),
    ):
        params = {} if w is None else {"sample_weight": w}
        frame = fl.MetricFrame(
            metrics=theirs, y_true=y, y_pred=p, sensitive_features=g, sample_params=params
        )
        assert RATES[metric](counts) == pytest.approx(frame.by_group.to_numpy())


@given(binary_rows, st.integers(0, 40), st.booleans())
def test_every_value_is_sklearns_or_nan_with_a_reason(
    rng: np.random.Generator, n: int, rare: bool
) -> None:
    y = (rng.random(n) < (0.05 if rare else 0.5)).astype(int)
    p, score = rng.integers(0, 2, n), rng.integers(0, 6, n) / 5
    g = rng.choice(["a", "b", "c"], n).tolist()
    w = rng.integers(1, 4, n).astype(float)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = gm.metrics_by_group(
            y, p, sensitive_features=pl.Series(g, dtype=pl.String), y_score=score,
            sample_weight=w, groups=("a", "b", "c", "nobody"),
        )  # fmt: skip
    assert len(table) == 4 * 11
    assert table["value"].is_nan().equals(table["status"] != "ok", check_names=False)
    assert (table.filter(group="nobody")["status"] == "empty").all()
    theirs = {
        "f1": f1_score, "tpr": recall_score, "precision": precision_score,
        "auroc": roc_auc_score, "ap": average_precision_score, "brier": brier_score_loss,
    }  # fmt: skip
    for group, metric, value, status, rows_g, _ in table.iter_rows():
        mine = np.array(g) == group
        assert rows_g == mine.sum()
        if status == "ok" and metric in theirs:
            answer = score if metric in gm.SCORES else p
            expected = theirs[metric](y[mine], answer[mine], sample_weight=w[mine])
            assert value == pytest.approx(expected)


def test_nan_scores_are_undefined_and_constant_ones_are_not() -> None:
    y = np.array([0, 1, 1])
    assert gm.score_metric("auroc", y, np.array([0.1, np.nan, 0.3])).status == "undefined"
    assert gm.score_metric("auroc", y, np.full(3, 0.4)) == (0.5, "ok")
    assert gm.score_metric("ap", y[1:], np.ones(2)).status == "no_negatives"
    assert gm.score_metric("auroc", y[:1], np.ones(1)).status == "no_positives"
    assert gm.score_metric("brier", y[:0], np.ones(0)).status == "empty"


def test_weights_replace_counts() -> None:
    abc = rows("ABC")
    weight = {"A": 1.0, "B": 2.0, "C": 0.0}
    counts = count(**abc, sample_weight=[weight[name] for name in abc["sensitive_features"]])
    assert counts.tp.tolist() == [40, 24, 0]
    assert status_of("f1", counts, f1(counts)).tolist() == ["ok", "ok", "empty"]


def test_several_columns_are_crossed_and_null_groups_left_out() -> None:
    features = pl.DataFrame({"sex": ["F", "M", "F", None], "race": ["x", "x", "x", "y"]})
    counts = count([1, 0, 1, 1], [1, 1, 0, 1], sensitive_features=features)
    assert counts.groups == ("F × x", "M × x")
    assert counts.n.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_true": [0, 2]}, "y_true: want 0 or 1; got .*2.* at place 1"),
        ({"y_pred": [0.5, 1]}, "y_pred: want 0 or 1"),
        ({"y_pred": [1]}, "y_pred: want 2 rows as in y_true; got 1 rows"),
        ({"sample_weight": [1, -1]}, "sample_weight: want finite numbers from 0; got -1.0"),
    ],
)
def test_bad_rows_are_refused(change: dict[str, Any], message: str) -> None:
    good = {"y_true": [0, 1], "y_pred": [1, 1], "sensitive_features": ["a", "b"]}
    with pytest.raises(DataError, match=message):
        gm.performance_variance(**(good | change))


def test_group_benefit_equality_flags() -> None:
    table = group_benefit_equality(**rows("ABCD"))
    flags = dict(table.select("group", "flag").iter_rows())
    assert flags == {"A": "fair", "B": "fair", "C": "too_few", "D": "too_few"}
    assert table["gbe"].to_list()[:3] == [60 / 50, 30 / 24, 3 / 8]
    assert np.isnan(table["gbe"][3])
    few = {
        "y_true": [1] * 200 + [0] * 800,
        "y_pred": [1] * 60 + [0] * 940,
        "sensitive_features": ["a"] * 1000,
    }
    one = group_benefit_equality(**few)
    assert one["flag"].to_list() == ["certainly_under_served"]
    # The flagged are a share of the positives: a binomial of 200 with p = 0.3.
    half = 1.96 * np.sqrt(0.3 * 0.7 / 200)
    assert (one["low"][0], one["high"][0]) == pytest.approx((0.3 - half, 0.3 + half), abs=0.012)
    assert one.equals(group_benefit_equality(**few))


@given(binary_rows)
def test_resamples_at_once_equal_one_by_one(rng: np.random.Generator) -> None:
    """(R, G) counts give what R calls with (G,) counts give, for every rate and number."""
    cells = rng.integers(0, 4, (4, 5, 3)).astype(float)
    sizes = np.array([3.0, 9.0, 1.0])
    many = Counts(("a", "b", "c"), *cells)
    ones = [Counts(("a", "b", "c"), *cells[:, r]) for r in range(5)]
    for rate in RATES.values():
        assert np.array_equal(rate(many), [rate(one) for one in ones], equal_nan=True)
    for metric in fairness.FAIRNESS.values():
        single = [float(metric(one, sizes)) for one in ones]
        assert metric(many, sizes) == pytest.approx(single, nan_ok=True)
