"""The truth of the simulated hospital: the probability of death given what was recorded.

Death depends on the record alone: codes, the mean of a few labs over the stay, the subject's race
and sex. Latent conditions act only through them, so the probability is exact, not an estimate. That
a visit is the last is told without its date, which says a little more of it (see `simulate`).
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from equipoise.simulate.catalog import load_diagnoses, load_labs
from equipoise.simulate.conditions import (
    CONDITIONS,
    LAB_DEATH,
    RACE_LAB_DEATH,
    RACES,
    SIGN_DEATH,
    SIGN_GROUPS,
)
from equipoise.simulate.people import People, sigmoid
from equipoise.simulate.results import Results
from equipoise.simulate.visits import Visits, starts_of

#: A mean further from its center than this many spreads counts as this far.
FARTHEST = 3.0


def score(people: People, visits: Visits, results: Results) -> NDArray[np.float64]:
    """Log-odds of death in each visit, up to a constant."""
    codes, labs = _code_weights(), _lab_weights()
    race = people.race[visits.subject]
    sex = np.where(people.female[visits.subject], 0, 1) + len(RACES)
    signs = np.zeros(len(visits))
    condition = load_diagnoses().condition - len(CONDITIONS)
    for number, group in enumerate(SIGN_GROUPS):
        belongs = (race == number) | (sex == number)
        signs += SIGN_DEATH[group] * belongs * visits.codes[:, condition == number].sum(axis=1)
    deviations = _mean_deviations(len(visits), results)
    return np.asarray(visits.codes @ codes + signs + (deviations * labs[race]).sum(axis=1))


def solve_intercept(odds: NDArray[np.float64], subject: NDArray[np.int64], rate: float) -> float:
    """The constant that makes the share `rate` of subjects die in one of their visits."""
    first = np.flatnonzero(starts_of(subject))
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        survive = np.multiply.reduceat(1.0 - sigmoid(odds + middle), first)
        low, high = (low, middle) if 1.0 - survive.mean() > rate else (middle, high)
    return (low + high) / 2


@cache
def _code_weights() -> NDArray[np.float64]:
    weights = [condition.death for condition in CONDITIONS] + [0.0] * (len(SIGN_GROUPS) + 1)
    return np.array(weights)[load_diagnoses().condition]


@cache
def _scored_items() -> NDArray[np.int64]:
    names = sorted({*LAB_DEATH, *(name for own in RACE_LAB_DEATH.values() for name in own)})
    return np.array([load_labs().index(name) for name in names])


@cache
def _lab_weights() -> NDArray[np.float64]:
    labels = load_labs().frame["label"].to_list()
    return np.array(
        [
            [
                LAB_DEATH.get(labels[item], 0.0) + RACE_LAB_DEATH[race].get(labels[item], 0.0)
                for item in _scored_items()
            ]
            for race in RACES
        ]
    )


def _mean_deviations(visits: int, results: Results) -> NDArray[np.float64]:
    """How far each visit's recorded mean of each scored lab is from the center; 0 if unmeasured."""
    labs, items = load_labs(), _scored_items()
    column = np.full(labs.frame.height, -1)
    column[items] = np.arange(len(items))
    numbers = labs.numbers[results.number]
    visit = results.specimens.recorded_visit[results.specimen]
    used = (visit >= 0) & (column[results.item] >= 0) & np.isfinite(numbers)
    cell = visit[used] * len(items) + column[results.item[used]]
    size = visits * len(items)
    count = np.bincount(cell, minlength=size).reshape(visits, len(items))
    total = np.bincount(cell, numbers[used], minlength=size).reshape(count.shape)
    mean = np.divide(total, count, out=np.ones(count.shape), where=count > 0)
    is_log = labs.is_log[items]
    level = np.where(is_log, np.log(np.maximum(mean, 1e-3)), mean)
    center = np.where(is_log, np.log(np.where(is_log, labs.center[items], 1.0)), labs.center[items])
    deviation = (level - center) / labs.spread[items]
    return np.where(count > 0, deviation.clip(-FARTHEST, FARTHEST), 0.0)
