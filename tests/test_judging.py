"""How subjects are divided, and where their scores are cut."""

from __future__ import annotations

import numpy as np
import polars as pl

from equipoise.evaluate import notes
from equipoise.evaluate.judging import groupings_of, judge_fairness, judge_groups

BY = ("sex", "race", "age")


def people(n: int = 400, seed: int = 0) -> pl.DataFrame:
    """Visits of two to a subject, with one race that one subject has."""
    rng = np.random.default_rng(seed)
    subject = np.repeat(np.arange(n // 2), 2)
    label = rng.random(n) < 0.3
    race = rng.choice(["x", "y"], n // 2).astype(object)
    race[3] = "rare"
    return pl.DataFrame(
        {
            "subject_id": subject,
            "visit_id": np.arange(n),
            "label": label,
            "score": np.clip(0.3 * label + rng.uniform(0, 0.7, n), 0, 1),
            "tuned_threshold": np.full(n, 0.4),
            "sex": rng.choice(["F", "M"], n // 2)[subject],
            "race": race[subject].astype(str),
            "age": rng.choice(["old", "young"], n // 2)[subject],
        }
    )


def test_groupings_are_each_column_each_pair_and_all() -> None:
    names = [grouping.name for grouping in groupings_of(people(), BY)]
    assert names == [
        "overall", "sex", "race", "age",
        "sex × race", "sex × age", "race × age", "sex × race × age",
    ]  # fmt: skip
    assert [g.name for g in groupings_of(people(), BY[:2])] == [
        "overall", "sex", "race", "sex × race",
    ]  # fmt: skip
    assert [g.name for g in groupings_of(people(), BY[:1])] == ["overall", "sex"]
    assert all(not grouping.left_out for grouping in groupings_of(people(), BY))


def test_small_crossed_groups_are_left_out_by_option_and_told() -> None:
    subjects = people().unique("subject_id")
    groupings = groupings_of(subjects, BY[:2], min_share=0.01)
    (single,) = (g for g in groupings if g.name == "race")
    assert single.groups == ("rare", "x", "y")
    (both,) = (g for g in groupings if g.name == "sex × race")
    (gone,) = both.left_out
    assert gone.endswith("× rare")
    assert set(both.groups) == {f"{s} × {r}" for s in "FM" for r in "xy"}
    (note,) = (n for n in notes.on_data(subjects, BY[:2], 0, groupings) if "left out" in n)
    assert note.startswith("sex × race: too few of the 200 subjects")
    assert note.endswith(f"{gone} (1)")
    # Exactly at the share is not below it.
    at = groupings_of(subjects, BY[:2], min_share=1 / 200)
    assert not any(grouping.left_out for grouping in at)


def test_who_is_left_out_of_a_crossing_is_judged_in_the_larger_groups() -> None:
    visits = people()
    groupings = groupings_of(visits, BY[:2], min_share=0.01)
    table = judge_groups(visits, groupings).filter(metric="f1", threshold="0.5")
    rows = dict(table.group_by("by").agg(pl.col("n").sum()).iter_rows())
    assert rows == {"overall": 400, "sex": 400, "race": 400, "sex × race": 398}
    sizes = {g.name: g.sizes(visits) for g in groupings}
    whole = judge_fairness(visits, groupings, sizes).filter(by="sex × race", threshold="0.5")
    without = visits.filter(pl.col("race") != "rare")
    only = judge_fairness(without, groupings_of(without, BY[:2])[-1:], sizes)
    assert whole.equals(only.filter(by="sex × race", threshold="0.5"))
