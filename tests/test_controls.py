"""The controls: risks with their priors put right, and a threshold for each group."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, f1_score

from equipoise.evaluate.correction import on_correction, prior_corrected
from equipoise.evaluate.group_thresholds import group_tuned, on_group_tuned
from equipoise.evaluate.judging import groupings_of, judge_fairness, judge_groups
from equipoise.evaluate.thresholds import f1_threshold

BY = ("race", "sex")
ARM = {"fold": 0, "method": "original", "model": "m"}


def cell(method: str, group: str | None, positive: float, visits: float, fold: int = 0) -> dict:
    """One row for the subjects of a group, whatever their label."""
    return {"fold": fold, "method": method, "label": True, "race": group,
            "positive_visits": positive, "visits": visits}  # fmt: skip


def scored(method: str, group: list[str | None], score: list[float], fold: int = 0) -> pl.DataFrame:
    return pl.DataFrame(
        {"fold": fold, "method": method, "race": pl.Series(group, dtype=pl.String), "score": score}
    )


@given(st.integers(0, 2**32 - 1))
def test_correction_is_exact_where_only_the_shares_have_changed(seed: int) -> None:
    """A saturated model on x and group: its risks are shares of counted visits."""
    rng = np.random.default_rng(seed)
    ill, well = rng.integers(1, 30, (2, 3, 4)).astype(float)  # (group, x)
    more = rng.integers(1, 9, (2, 3, 1))  # how often each visit of a cell is repeated
    names = ["a", "b", None]
    cells, frames, truth = [], [], []
    for g, name in enumerate(names):
        both = ((ill[g], well[g]), (ill[g] * more[0, g], well[g] * more[1, g]))
        for method, (one, zero) in zip(("original", "repeated"), both, strict=True):
            cells.append(cell(method, name, one.sum(), one.sum() + zero.sum()))
            frames.append(scored(method, [name] * 4, (one / (one + zero)).tolist()))
            truth.append(ill[g] / (ill[g] + well[g]))
    corrected = prior_corrected(pl.concat(frames), pl.DataFrame(cells), ["race"])
    assert corrected["corrected_score"].to_numpy() == pytest.approx(np.concatenate(truth))
    same = corrected.filter(method="original")
    assert (same["corrected_score"] == same["score"]).all()
    assert corrected.columns == [*frames[0].columns, "corrected_score"]
    assert not list(on_correction(pl.DataFrame(cells), ["race"]))


def test_the_cells_of_a_group_are_summed_over_labels_and_weights_go_before_visits() -> None:
    # 30 of 100 visits are positive; weights make the classes equal.
    cells = pl.DataFrame(
        [
            {**cell("original", "a", 30, 60), "positive_weight": 30.0, "weight": 60.0},
            {**cell("original", "a", 0, 40), "label": False,
             "positive_weight": 0.0, "weight": 40.0},
            {**cell("class_weight", "a", 30, 60), "positive_weight": 50.0, "weight": 71.43},
            {**cell("class_weight", "a", 0, 40), "label": False,
             "positive_weight": 0.0, "weight": 28.57},
        ]
    )  # fmt: skip
    frame = scored("class_weight", ["a"], [0.5])
    assert prior_corrected(frame, cells, ["race"])["corrected_score"].item() == pytest.approx(0.3)
    unweighted = cells.drop("weight", "positive_weight")
    assert prior_corrected(frame, unweighted, ["race"])["corrected_score"].item() == 0.5


def test_a_group_without_odds_is_corrected_as_all_together_and_told() -> None:
    cells = pl.DataFrame(
        [cell("original", "a", 10, 110), cell("original", "b", 0, 10),
         cell("up", "a", 60, 120), cell("up", "b", 30, 60)]
    )  # fmt: skip
    frame = scored("up", ["a", "b", "c", None], [0.5] * 4)
    corrected = prior_corrected(frame, cells, ["race"])["corrected_score"].to_list()
    assert corrected == pytest.approx([10 / 110, 10 / 120, 10 / 120, 10 / 120])
    assert list(on_correction(cells, ["race"])) == [
        f"{method}: race b has no positive or no negative training visit in 1 of 1 folds; "
        "its scores are corrected there as all together are"
        for method in ("original", "up")
    ]


def test_without_the_original_there_is_nothing_to_correct_to() -> None:
    cells = pl.DataFrame([cell("up", "a", 60, 120), cell("original", "a", 1, 9, fold=1)])
    lost = prior_corrected(scored("up", ["a"], [0.5]), cells, ["race"])["corrected_score"]
    assert lost.is_nan().item()
    (note,) = on_correction(cells.filter(method="up"), ["race"])
    assert "no corrected scores" in note


def test_zero_and_one_stay_and_nan_stays_unknown() -> None:
    cells = pl.DataFrame([cell("original", "a", 10, 110), cell("up", "a", 60, 120)])
    frame = scored("up", ["a"] * 3, [0.0, 1.0, np.nan])
    corrected = prior_corrected(frame, cells, ["race"])["corrected_score"].to_numpy()
    assert corrected == pytest.approx([0, 1, np.nan], nan_ok=True)


# ---- a threshold for each group ----


def visits(seed: int, n: int = 400, fold: int = 0) -> pl.DataFrame:
    """Scored visits; group b's scores are lower, and few of group c are positive."""
    rng = np.random.default_rng([seed, fold])
    race = rng.choice(["a", "b", "c"], n, p=[0.5, 0.4, 0.1])
    label = rng.random(n) < np.where(race == "c", 0.05, 0.3)
    score = np.clip(rng.normal(0.35 + 0.25 * label - 0.2 * (race == "b"), 0.15), 0, 1)
    return pl.DataFrame(
        {
            **{name: [value] * n for name, value in (ARM | {"fold": fold}).items()},
            "subject_id": np.arange(n) + 10_000 * fold,
            "visit_id": np.arange(n) + 10_000 * fold,
            "label": label,
            "score": score,
            "tuned_threshold": np.full(n, 0.5 + fold / 100),
            "race": race,
            "sex": rng.choice(["F", "M"], n),
        }
    )


def test_each_group_takes_its_own_threshold_or_the_next_larger_groups() -> None:
    held_out, tuning = pl.concat([visits(0), visits(0, fold=1)]), pl.concat(
        [visits(1), visits(1, fold=1)]
    )  # fmt: skip
    groupings = groupings_of(held_out, BY)
    told = group_tuned(held_out, tuning, groupings)
    assert told.drop("group_threshold").equals(held_out)
    for fold in (0, 1):
        mine = tuning.filter(fold=fold)
        # All of race c, and so its crossings, have too few; sexes have enough and are coarser.
        for (race, sex), rows in told.filter(fold=fold).group_by("race", "sex"):
            own = mine.filter(race=race, sex=sex) if race != "c" else mine.filter(sex=sex)
            assert own["label"].sum() >= 10
            best = f1_threshold(own["label"].to_numpy(), own["score"].to_numpy()).value
            assert rows["group_threshold"].unique().to_list() == [best]
    assert mine.filter(race="c")["label"].sum() < 10
    notes = list(on_group_tuned(tuning, groupings))
    assert len(notes) == 3
    assert notes[0].startswith("race c: fewer than 10 positive tuning visits in 2 of 2 folds")
    assert all("larger group" in note for note in notes)


def test_groups_too_small_take_the_common_threshold() -> None:
    held_out, tuning = visits(0), visits(1)
    only_race = groupings_of(held_out, ["race"])
    told = group_tuned(held_out, tuning, only_race).filter(race="c")
    assert (told["group_threshold"] == told["tuned_threshold"]).all()
    unseen = group_tuned(held_out, tuning.clear(), only_race)
    assert (unseen["group_threshold"] == unseen["tuned_threshold"]).all()
    unknown = group_tuned(held_out.with_columns(score=pl.lit(np.nan)), tuning, only_race)
    assert unknown["group_threshold"].is_finite().all()
    lost = tuning.with_columns(score=pl.lit(np.nan))
    assert (group_tuned(held_out, lost, only_race)["group_threshold"] == 0.5).all()
    assert group_tuned(held_out.clear(), tuning, only_race).is_empty()


@pytest.mark.parametrize(("positives", "own"), [(9, False), (10, True)])
def test_ten_positive_tuning_visits_are_enough(positives: int, own: bool) -> None:
    held_out, tuning = visits(0), visits(1)
    place = pl.int_range(pl.len()).over("race")
    tuning = tuning.with_columns(label=place < positives)
    told = group_tuned(held_out, tuning, groupings_of(held_out, ["race"]))
    assert (told["group_threshold"] != told["tuned_threshold"]).all() is own
    notes = list(on_group_tuned(tuning, groupings_of(held_out, ["race"])))
    assert len(notes) == (0 if own else 3)


def test_both_controls_are_judged_beside_the_others() -> None:
    held_out = visits(0)
    groupings = groupings_of(held_out, BY)
    cells = [cell("original", g, 10, 60) for g in "abc"]
    up = [frame.with_columns(method=pl.lit("up")) for frame in (held_out, visits(1))]
    frame = group_tuned(*up, groupings)
    shifted = pl.DataFrame([*cells, *(cell("up", g, 30, 60) for g in "abc")])
    frame = prior_corrected(frame, shifted, ["race"])
    table = judge_groups(frame, groupings)
    assert set(table["threshold"]) == {"0.5", "tuned", "corrected", "group_tuned"}
    told = {
        row["threshold"]: row["value"]
        for row in table.filter(by="race", group="b", metric="f1").iter_rows(named=True)
    }
    b = frame.filter(race="b")
    y = b["label"].to_numpy()
    assert told["corrected"] == pytest.approx(f1_score(y, b["corrected_score"].to_numpy() >= 0.5))
    own = b["score"].to_numpy() >= b["group_threshold"].to_numpy()
    assert told["group_tuned"] == pytest.approx(f1_score(y, own))
    assert told["group_tuned"] != told["tuned"]
    brier = dict(
        table.filter(by="race", group="b", metric="brier").select("threshold", "value").iter_rows()
    )
    assert brier["corrected"] == pytest.approx(brier_score_loss(y, b["corrected_score"]))
    assert brier["group_tuned"] == brier["0.5"] == pytest.approx(brier_score_loss(y, b["score"]))
    sizes = {g.name: g.sizes(held_out) for g in groupings}
    over = judge_fairness(frame, groupings, sizes).filter(by="race", metric="theil")
    assert over["threshold"].to_list() == ["0.5", "tuned", "corrected", "group_tuned"]
    assert over["value"].n_unique() == 3  # one threshold is tuned to 0.5, too
    without = judge_groups(held_out, groupings)
    assert set(without["threshold"]) == {"0.5", "tuned"}
    assert without.filter(threshold="tuned").equals(table.filter(threshold="tuned"))
