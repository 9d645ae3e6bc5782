"""What 2,000 paired resamples over subjects cost, beside a plain loop that draws the same.

python benches/bootstrap.py [--visits 20000] [--loop 50]

F1 and Group Benefit Equality of five groups, both arms at every threshold. First the gains of the
loop's resamples are asserted to have the same distribution (Kolmogorov-Smirnov, Bonferroni).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
from scipy.special import expit
from scipy.stats import ks_2samp

import extract
from equipoise.evaluate.bootstrap import Pair, resampled_counts, usable_pairs
from equipoise.evaluate.counts import f1, gbe
from equipoise.evaluate.gains import CONTROL_PARTS, PARTS, estimate_gains
from equipoise.evaluate.judging import Grouping, groupings_of
from equipoise.evaluate.score_bootstrap import resampled_scores

RESAMPLES = 2000
MODELS = ("k_neighbors", "logistic_regression", "neural_network", "random_forest", "xgboost")
RACES = ("Asian", "Black", "Hispanic", "Other", "White")
SHARES = (0.03, 0.2, 0.1, 0.07, 0.6)
ALL_PARTS = {**PARTS, **CONTROL_PARTS}


def scored(visits: int, method: str, model: str) -> pl.DataFrame:
    """Two visits a subject, one in ten positive; the method's scores are higher."""
    shared, subjects = np.random.default_rng(0), visits // 2
    owner = np.arange(2 * subjects) // 2
    label = shared.random(len(owner)) < 0.1
    race = shared.choice(RACES, subjects, p=SHARES)[owner]
    ease = shared.normal(0, 1, len(owner))
    own = np.random.default_rng([method == "original", MODELS.index(model)])
    logit = -2.5 + 1.5 * label + 0.7 * ease + own.normal(0, 0.7, len(owner))
    return pl.DataFrame(
        {
            "fold": owner % 5,
            "method": method,
            "model": model,
            "subject_id": owner,
            "visit_id": np.arange(len(owner)),
            "label": label,
            "score": expit(logit + 1.5 * (method != "original")),
            "tuned_threshold": 0.25 + 0.25 * (method != "original"),
            "group_threshold": np.where(race == "White", 0.25, 0.2),
            "corrected_score": expit(logit),
            "race": race,
        }
    )


def rows_by_subject(pair: Pair) -> list[np.ndarray]:
    """The rows of each subject."""
    subject = pair.control["subject_id"].to_numpy()
    return [np.flatnonzero(subject == s) for s in np.unique(subject)]


def looped(pair: Pair, grouping: Grouping, resamples: int, rows_of: list[np.ndarray]) -> np.ndarray:
    """(R, G, parts, 2) gains in F1 and GBE, subject by subject and row by row."""
    rng = np.random.default_rng(1)
    y, race = pair.control["label"].to_numpy(), grouping.of(pair.control).to_numpy()
    flags = {
        place: arm[score].to_numpy() >= (0.5 if cut is None else arm[cut].to_numpy())
        for place, (arm, score, cut) in enumerate(
            [
                (pair.control, "score", None), (pair.control, "score", "tuned_threshold"),
                (pair.method, "score", None), (pair.method, "score", "tuned_threshold"),
                (pair.control, "score", "group_threshold"),
                (pair.method, "score", "group_threshold"), (pair.method, "corrected_score", None),
            ]
        )
    }  # fmt: skip
    out = np.empty((resamples, len(grouping.groups), len(ALL_PARTS), 2))
    for r in range(resamples):
        drawn = rng.integers(0, len(rows_of), len(rows_of))
        rows = np.concatenate([rows_of[s] for s in drawn])
        for g, name in enumerate(grouping.groups):
            mine = rows[race[rows] == name]
            ill = y[mine].sum()
            told = {
                place: (
                    2 * (y[mine] & flag[mine]).sum() / (ill + flag[mine].sum()),
                    flag[mine].sum() / ill,
                )
                for place, flag in flags.items()
            }
            for part, (a, b) in enumerate(ALL_PARTS.values()):
                out[r, g, part] = np.subtract(told[a], told[b])
    return out


def at_once(pair: Pair, grouping: Grouping) -> np.ndarray:
    """The same of `RESAMPLES` resamples of kinds of subjects."""
    (((_, many),),) = resampled_counts([pair], [grouping], RESAMPLES, 0)
    values = {place: np.stack([f1(arm), gbe(arm)], axis=-1) for place, arm in many.items()}
    return np.stack([values[a] - values[b] for a, b in ALL_PARTS.values()], axis=2)


def measure(work: Callable[[], Any]) -> tuple[float, Any]:
    """The least processor seconds of three, and what came out."""
    best, out = np.inf, None
    for _ in range(3):
        start = time.process_time()
        out = work()
        best = min(best, time.process_time() - start)
    return best, out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--visits", type=int, default=20_000)
    parser.add_argument("--loop", type=int, default=50)
    arguments = parser.parse_args()
    frame = pl.concat(
        scored(arguments.visits, method, model)
        for method in ("original", "fairplay") for model in MODELS
    )  # fmt: skip
    pairs = [
        Pair(*(frame.filter(method=method, model=model) for method in ("original", "fairplay")))
        for model in MODELS
    ]
    groupings = groupings_of(frame, ["race"])
    (grouping,) = groupings[1:]
    quick, many = measure(lambda: at_once(*usable_pairs(pairs[:1]), grouping))
    # Found once for all resamples, and so not scaled with them.
    by_subject = rows_by_subject(pairs[0])
    start = time.process_time()
    loop = looped(pairs[0], grouping, arguments.loop, by_subject)
    slow = (time.process_time() - start) / arguments.loop * RESAMPLES
    tests = [ks_2samp(a, b).pvalue for a, b in zip(columns(many), columns(loop), strict=True)]
    if min(tests) * len(tests) < 0.01:
        raise AssertionError(f"not the same distribution: p {min(tests):.2g} of {len(tests)} tests")
    joint, _ = measure(lambda: resampled_counts(usable_pairs(pairs), groupings, RESAMPLES, 0))
    scores, _ = measure(lambda: resampled_scores(pairs[0], groupings, 1000, 0))
    sizes = {g.name: g.sizes(frame) for g in groupings}
    whole, table = measure(lambda: estimate_gains(frame, groupings, sizes))
    print(f"\n{arguments.visits:,} visits, {len(RACES)} groups; {extract.processor()}")
    print("| step | processor s |\n|---|---|")
    for step, seconds in (
        (f"{RESAMPLES:,} resamples of one pair, counted at once", quick),
        (f"the same, a plain loop ({arguments.loop} of them, scaled)", slow),
        (f"{RESAMPLES:,} joint resamples of {len(MODELS)} models, for their mean", joint),
        ("1,000 resamples of AUROC, AP, Brier and calibration of one pair", scores),
        (f"all {len(table):,} gains of one method, {len(MODELS)} models and their mean", whole),
    ):
        print(f"| {step} | {seconds:.2f} |")


def columns(gains: np.ndarray) -> np.ndarray:
    """One row of resamples per group, part and metric."""
    return gains.reshape(len(gains), -1).T


if __name__ == "__main__":
    main()
