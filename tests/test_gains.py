"""Gains against every control, of each model and of their mean, and what chance can say to them."""

from __future__ import annotations

from functools import cache

import numpy as np
import polars as pl
import pytest
from scipy.special import expit
from sklearn.metrics import brier_score_loss, f1_score, recall_score

from equipoise.evaluate.bootstrap import Pair, resampled_counts, usable_pairs
from equipoise.evaluate.calibration import calibration_intercept, calibration_slope
from equipoise.evaluate.counts import f1
from equipoise.evaluate.gains import CONTROL_PARTS, GAINS, PARTS, estimate_gains, holm
from equipoise.evaluate.judging import groupings_of
from equipoise.evaluate.over_models import MEAN_OF_MODELS, over_models
from equipoise.evaluate.results import over_folds
from equipoise.evaluate.score_bootstrap import SUMMED, resampled_scores

MODELS = ("logistic_regression", "xgboost")
BY = ("race",)


def arm(method: str, model: str, subjects: int = 300, lift: float = 0.0) -> pl.DataFrame:
    """Two visits a subject; the method's scores are `lift` log-odds higher and as noisy."""
    shared = np.random.default_rng(0)
    owner = np.repeat(np.arange(subjects), 2)
    race = shared.choice(["a", "b"], subjects, p=[0.7, 0.3])[owner]
    label = shared.random(2 * subjects) < 0.25
    own = np.random.default_rng([MODELS.index(model), int(10 * lift)])
    logit = -1.2 + 1.2 * label + own.normal(0, 1, len(owner))
    return pl.DataFrame(
        {
            "fold": owner % 2,
            "method": method,
            "model": model,
            "subject_id": owner,
            "visit_id": np.arange(len(owner)),
            "label": label,
            "score": expit(logit + lift),
            "tuned_threshold": 0.3,
            "race": race,
            "group_threshold": np.where(race == "a", 0.35, 0.25),
            "corrected_score": expit(logit),
        }
    )


@cache
def predictions() -> pl.DataFrame:
    arms = [arm(*of) for of in (("original", m) for m in MODELS)]
    return pl.concat([*arms, *(arm("fairplay", model, lift=0.8) for model in MODELS)])


@cache
def gains() -> pl.DataFrame:
    frame = predictions()
    groupings = groupings_of(frame, BY)
    sizes = {g.name: g.sizes(frame) for g in groupings}
    return estimate_gains(frame, groupings, sizes, resamples=2000, seed=1)


def value(table: pl.DataFrame, **of: str) -> float:
    return float(table.filter(**of)["value"].item())


def test_every_part_is_the_difference_that_it_is_called() -> None:
    assert dict(gains().schema) == dict(GAINS)
    for model in MODELS:
        control, method = (
            predictions().filter(method=name, model=model, race="b")
            for name in ("original", "fairplay")
        )
        y = control["label"].to_numpy()

        def flagged(rows: pl.DataFrame, how: str) -> np.ndarray:
            if how == "corrected":
                return rows["corrected_score"].to_numpy() >= 0.5
            cut = 0.5 if how == "0.5" else rows[how].to_numpy()
            return rows["score"].to_numpy() >= cut

        parts = {
            "total": ((method, "0.5"), (control, "0.5")),
            "threshold": ((control, "tuned_threshold"), (control, "0.5")),
            "information": ((method, "tuned_threshold"), (control, "tuned_threshold")),
            "group_threshold": ((control, "group_threshold"), (control, "0.5")),
            "group_information": ((method, "group_threshold"), (control, "group_threshold")),
            "corrected": ((method, "corrected"), (control, "0.5")),
        }
        assert set(parts) == {*PARTS, *CONTROL_PARTS}
        for part, (with_it, without) in parts.items():
            of = {"model": model, "by": "race", "group": "b", "part": part}
            for metric, sklearns in (("f1", f1_score), ("tpr", recall_score)):
                told = sklearns(y, flagged(*with_it)) - sklearns(y, flagged(*without))
                assert value(gains(), metric=metric, **of) == pytest.approx(told)
            told = (flagged(*with_it).sum() - flagged(*without).sum()) / y.sum()
            assert value(gains(), metric="gbe", **of) == pytest.approx(told)
        brier = brier_score_loss(y, method["score"]) - brier_score_loss(y, control["score"])
        of = {"model": model, "by": "race", "group": "b", "metric": "brier"}
        assert value(gains(), part="total", **of) == pytest.approx(brier)
        assert value(gains(), part="information", **of) == pytest.approx(brier)
        better = brier_score_loss(y, method["corrected_score"])
        told = better - brier_score_loss(y, control["score"])
        assert value(gains(), part="corrected", **of) == pytest.approx(told)


def test_what_the_columns_do_not_allow_has_no_part() -> None:
    frame = predictions().drop("group_threshold", "corrected_score")
    groupings = groupings_of(frame, BY)
    sizes = {g.name: g.sizes(frame) for g in groupings}
    without = estimate_gains(frame, groupings, sizes, resamples=2000, seed=1)
    assert set(without["part"]) == set(PARTS)
    keys = ["model", "method", "by", "group", "metric", "part"]
    both = without.join(gains(), on=keys)
    assert len(both) == len(without)
    assert both["value"].equals(both["value_right"], check_names=False)


def test_the_mean_of_models_is_theirs_and_its_interval_that_of_a_plain_loop() -> None:
    keys = ["by", "group", "metric", "part"]
    means = gains().filter(pl.col("model") != MEAN_OF_MODELS).group_by(keys).agg(
        pl.col("value").mean()
    )  # fmt: skip
    told = gains().filter(model=MEAN_OF_MODELS).join(means, on=keys)
    assert len(told) == len(means)
    assert told["value"].to_numpy() == pytest.approx(told["value_right"].to_numpy(), nan_ok=True)

    rng = np.random.default_rng(3)
    drawn = []
    arms = {
        (name, model): predictions().filter(method=name, model=model)
        for name in ("original", "fairplay")
        for model in MODELS
    }
    for _ in range(400):
        subjects = rng.integers(0, 300, 300)
        rows = np.concatenate([2 * subjects, 2 * subjects + 1])
        gain = []
        for model in MODELS:
            both = []
            for name in ("fairplay", "original"):
                visits = arms[name, model]
                y = visits["label"].to_numpy()[rows]
                both.append(f1_score(y, visits["score"].to_numpy()[rows] >= 0.3))
            gain.append(both[0] - both[1])
        drawn.append(np.mean(gain))
    row = gains().filter(
        model=MEAN_OF_MODELS, by="overall", metric="f1", part="information"
    ).row(0, named=True)  # fmt: skip
    low, high = np.percentile(drawn, (2.5, 97.5))
    assert (row["low"], row["high"]) == pytest.approx((low, high), abs=0.4 * np.std(drawn))
    # Were models resampled apart, their noise would average out: a narrower interval.
    share = 2 * (1 + min((np.array(drawn) <= 0).sum(), (np.array(drawn) >= 0).sum())) / 401
    assert row["p"] == pytest.approx(share, abs=0.1)


def test_a_model_without_scores_leaves_the_fold_out_for_all() -> None:
    lost = (pl.col("model") == "xgboost") & (pl.col("fold") == 1) & (pl.col("method") != "original")
    frame = predictions().with_columns(
        score=pl.when(lost).then(np.nan).otherwise(pl.col("score"))
    )  # fmt: skip
    groupings = groupings_of(frame, BY)
    sizes = {g.name: g.sizes(frame) for g in groupings}
    table = estimate_gains(frame, groupings, sizes, resamples=50)
    rest = estimate_gains(frame.filter(fold=0), groupings, sizes, resamples=50)
    assert table.equals(rest)


@pytest.mark.parametrize("group", ["a", "b"])
def test_resampled_calibration_is_nearly_that_of_a_new_fit(group: str) -> None:
    model = MODELS[0]
    pair = Pair(arm("original", model), arm("fairplay", model, lift=0.8))
    (grouping,) = groupings_of(pair.control, BY)[1:]
    g = grouping.groups.index(group)
    ((point, many),) = resampled_scores(pair, [grouping], 40, seed=5)
    rng = np.random.default_rng(5)
    mine = (pair.control["race"] == group).to_numpy()
    y = pair.control["label"].to_numpy()[mine].astype(int)
    owner = pair.control["subject_id"].to_numpy()[mine]
    for a, score in enumerate(
        (pair.control["score"], pair.method["score"], pair.method["corrected_score"])
    ):
        p, one = score.to_numpy()[mine], np.ones(len(y))
        found = calibration_slope(y, p, one).value, calibration_intercept(y, p, one).value
        assert point[g, a, 3:] == pytest.approx(found)
    drawn = [np.bincount(rng.integers(0, 300, 300), minlength=300)[owner] for _ in range(40)]
    p = pair.method["score"].to_numpy()[mine]
    again = np.array(
        [
            (
                brier_score_loss(y, p, sample_weight=w),
                calibration_slope(y, p, w.astype(float)).value,
                calibration_intercept(y, p, w.astype(float)).value,
            )
            for w in drawn
        ]
    )
    assert SUMMED == ("brier", "calibration_slope", "calibration_intercept")
    assert many[:, g, 1, 2] == pytest.approx(again[:, 0])
    spread = again.std(axis=0)
    far = np.abs(many[:, g, 1, 3:] - again[:, 1:]) / spread[1:]
    assert np.median(far) < 0.02
    assert far.max() < 0.6  # in the farthest tail of a group of 180 visits


def test_holm_steps_down_and_leaves_out_what_is_unknown() -> None:
    p = np.array([0.01, np.nan, 0.04, 0.03, 0.005])
    assert holm(p) == pytest.approx([0.03, np.nan, 0.06, 0.06, 0.02], nan_ok=True)
    assert holm(np.array([0.9, 0.8])).tolist() == [1, 1]
    assert holm(np.array([])).tolist() == []
    assert np.isnan(holm(np.array([np.nan]))).all()


def test_p_is_small_where_the_interval_is_away_from_nothing_and_corrected_over_groups() -> None:
    rows = gains().filter(status="ok")
    outside = (pl.col("low") > 0) | (pl.col("high") < 0)
    assert (rows.filter(outside)["p"] <= 0.051).all()
    assert (rows.filter(~outside)["p"] >= 0.049).all()
    assert rows.filter(outside)["p"].min() == 2 / 2001
    family = rows.filter(
        model="xgboost", by="race", metric="f1", part="information"
    ).sort("p")  # fmt: skip
    small, large = family["p"]
    assert family["p_holm"].to_list() == pytest.approx(
        [min(1, 2 * small), max(min(1, 2 * small), large)]
    )
    alone = rows.filter(by="overall")
    assert alone["p"].equals(alone["p_holm"], check_names=False)


def test_resamples_give_the_same_bytes_and_groups_add_up() -> None:
    pairs = usable_pairs(
        [Pair(arm("original", m), arm("fairplay", m, lift=0.8)) for m in MODELS]
    )  # fmt: skip
    groupings = groupings_of(pairs[0].control, BY)
    one, two = (resampled_counts(pairs, groupings, 30, seed=2) for _ in range(2))
    for mine, again in zip(one, two, strict=True):
        whole, by_race = (many for _, many in mine)
        for place, counts in whole.items():
            assert np.array_equal(counts.tp, again[0][1][place].tp)
            assert np.array_equal(counts.fn[:, 0], by_race[place].fn.sum(axis=1))
            assert np.isfinite(f1(counts)).all()
    # The same subjects are drawn for both models: as many positives in every resample.
    assert np.array_equal(one[0][1][1][0].positives, one[1][1][1][0].positives)


# ---- means over models ----


def test_over_models_averages_each_fold_and_is_unknown_where_a_model_is() -> None:
    frame = pl.DataFrame(
        {
            "fold": [0, 0, 1, 1],
            "method": "original",
            "model": ["a", "b", "a", "b"],
            "threshold": "0.5",
            "by": "race",
            "metric": "disparate_impact",
            "value": [0.6, 1.0, 0.7, np.nan],
            "status": ["ok", "ok", "ok", "undefined"],
        }
    )
    means = over_models(frame)
    assert means.columns == frame.columns
    assert means["model"].unique().to_list() == [MEAN_OF_MODELS]
    assert means["value"].to_list() == pytest.approx([0.8, np.nan], nan_ok=True)
    assert means["status"].to_list() == ["ok", "undefined"]
    (row,) = over_folds(means).rows(named=True)
    assert (row["mean"], row["folds"]) == (pytest.approx(0.8), 1)
    assert over_models(frame.clear()).schema == frame.schema
