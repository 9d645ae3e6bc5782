"""Every metric at its edges: a number where there is one, NaN with its reason elsewhere."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from equipoise.evaluate import fairness, notes
from equipoise.evaluate import group_metrics as gm
from equipoise.evaluate.benefit import group_benefit_equality
from equipoise.evaluate.counts import CONSTANT, SEPARATED, Counts, count, f1, gbe
from equipoise.evaluate.judging import groupings_of
from equipoise.report.words import REASONS
from test_group_metrics import near, rows


def cells(*groups: tuple[float, float, float, float]) -> Counts:
    """Groups of (tp, fp, fn, tn)."""
    names = tuple("abcdefg"[: len(groups)])
    return Counts(names, *np.array(groups, float).T)


def test_rates_of_groups_that_lack_a_class_or_a_flag() -> None:
    counts = cells((0, 0, 0, 5), (0, 2, 0, 3), (3, 0, 2, 0), (0, 0, 4, 6), (0, 0, 0, 0))
    expected = {
        #                a: none ill     b: flagged     c: all ill  d: none found   e: nobody
        "f1": ["no_positives", "no_positives", 0.75, 0.0, "empty"],
        "tpr": ["no_positives", "no_positives", 0.6, 0.0, "empty"],
        "fpr": [0.0, 0.4, "no_negatives", 0.0, "empty"],
        "precision": ["undefined", 0.0, 1.0, "undefined", "empty"],
        "selection_rate": [0.0, 0.4, 0.6, 0.0, "empty"],
        "gbe": ["no_positives", "no_positives", 0.6, 0.0, "empty"],
    }
    truth, flagged, group = [], [], []
    for name, tp, fp, fn, tn in zip(
        counts.groups, counts.tp, counts.fp, counts.fn, counts.tn, strict=True
    ):
        for y, p, n in ((1, 1, tp), (0, 1, fp), (1, 0, fn), (0, 0, tn)):
            truth += [y] * int(n)
            flagged += [p] * int(n)
            group += [name] * int(n)
    table = gm.metrics_by_group(truth, flagged, sensitive_features=group, groups=counts.groups)
    for metric, values in expected.items():
        for row, want in zip(
            table.filter(metric=metric).iter_rows(named=True), values, strict=True
        ):
            if isinstance(want, str):
                assert np.isnan(row["value"]), (metric, row)
                assert row["status"] == want, (metric, row)
            else:
                assert (row["value"], row["status"]) == (pytest.approx(want), "ok"), (metric, row)
    sizes = {"a": (5, 0), "b": (5, 0), "c": (5, 5), "d": (10, 4), "e": (0, 0)}
    told = {g: (n, positives) for g, *_, n, positives in table.iter_rows()}
    assert told == sizes
    assert np.isnan(gbe(counts)[:2]).all()  # not infinite either


def test_disparate_impact_of_f1_can_exceed_1_and_needs_the_majoritys_f1() -> None:
    sizes = np.array([10.0, 5.0])
    better = cells((1, 2, 2, 5), (4, 1, 1, 4))
    assert fairness.disparate_impact(better, sizes) == pytest.approx(0.8 / (2 / 6))
    for majority in ((0, 2, 3, 5), (0, 2, 0, 5)):  # F1 of 0, and none
        assert np.isnan(fairness.disparate_impact(cells(majority, (4, 1, 1, 4)), sizes))
    # Of equally large groups the first is the majority.
    tied = fairness.disparate_impact(better, np.array([5.0, 5.0]))
    assert tied == pytest.approx(0.8 / (2 / 6))


def test_theil_of_zeros_and_at_its_largest() -> None:
    none = cells((0, 2, 3, 5), (0, 1, 1, 1))
    assert np.isnan(fairness.theil_index(none))
    assert fairness.performance_variance(none) == 0
    one_has_all = cells((3, 0, 0, 5), (0, 1, 1, 1), (0, 1, 1, 1))
    assert fairness.theil_index(one_has_all) == pytest.approx(np.log(3))
    alike = cells((2, 1, 1, 5), (4, 2, 2, 1))
    assert fairness.theil_index(alike) == 0


def test_performance_variance_divides_by_all_groups() -> None:
    scores = f1(count(**rows("ABC")))
    assert np.var(scores, ddof=1) == near(0.0364589)
    assert gm.performance_variance(**rows("ABC")).value == near(np.var(scores))


def test_odds_range_over_the_groups_that_have_the_class() -> None:
    # c has no negative: its FPR is unknown; d no positive: its TPR is.
    counts = cells((4, 2, 4, 8), (6, 1, 2, 9), (8, 0, 2, 0), (0, 5, 0, 5))
    tprs, fprs = [0.5, 0.75, 0.8], [0.2, 0.1, 0.5]
    worst = max(np.ptp(tprs), np.ptp(fprs))
    assert fairness.equalized_odds_difference(counts) == pytest.approx(worst)
    mean = (np.ptp(tprs) + np.ptp(fprs)) / 2
    assert fairness.mean_equalized_odds_difference(counts) == pytest.approx(mean)


def test_selection_ratios_of_nobody() -> None:
    sizes = np.array([8.0, 6.0])
    nobody, all_elsewhere = cells((0, 0, 4, 4), (0, 0, 3, 3)), cells((0, 0, 4, 4), (3, 3, 0, 0))
    for counts in (nobody, all_elsewhere):
        assert np.isnan(fairness.classic_disparate_impact(counts, sizes))
    assert fairness.classic_disparate_impact(all_elsewhere, sizes[::-1]) == 0
    assert np.isnan(fairness.demographic_parity_ratio(nobody))
    assert fairness.demographic_parity_ratio(all_elsewhere) == 0
    assert fairness.demographic_parity_difference(nobody) == 0


def test_a_gbe_above_one_is_noted_and_ten_positives_are_enough() -> None:
    of = {"y_true": [1] * 10 + [0] * 90, "sensitive_features": ["a"] * 100}
    flag = {
        n: group_benefit_equality(y_pred=[1] * n + [0] * (100 - n), **of)["flag"].item()
        for n in (5, 8, 12, 13)
    }
    assert flag[13] == "high"
    assert flag[8] == flag[12] == "fair"
    assert flag[5].endswith("under_served")
    nine = {**of, "y_true": [1] * 9 + [0] * 91}
    assert group_benefit_equality(y_pred=[0] * 100, **nine)["flag"].item() == "too_few"


def test_of_equally_large_groups_the_first_is_the_majority_and_it_is_said() -> None:
    subjects = pl.DataFrame({"race": ["y", "x", "y", "x", "z"]})
    (note,) = notes.on_data(subjects, ["race"], 0, groupings_of(subjects, ["race"]))
    assert note == "race: x, y are equally large; majority is x"


def test_every_reason_has_words() -> None:
    assert {CONSTANT, SEPARATED} <= set(REASONS)
