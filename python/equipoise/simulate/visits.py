"""Admissions: how often people come, what is wrong then, what gets coded, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from equipoise.simulate.catalog import load_diagnoses
from equipoise.simulate.conditions import (
    ACUTE,
    CHRONIC,
    CONDITIONS,
    DELIVERY,
    RACES,
    SIGN_GROUPS,
)
from equipoise.simulate.people import People, can_deliver, chance_of, sigmoid

#: Log-odds of failing without any condition; of coming back; the most often anybody comes back.
FAILING: Final = -3.9
RETURNS: Final = 0.04
MOST_RETURNS: Final = 0.93
#: How often a code is recorded of somebody who does not have its condition, or its sign.
FALSE_CODE: Final = 0.002
FALSE_SIGN: Final = 0.02
DAY: Final = 24 * 60
#: Of a stay, in which nothing is measured and death, if it comes, is noted.
LAST_MINUTES: Final = 60
#: ICD-10 came on 1 October 2015; the day of the year is enough.
ICD10_YEAR, ICD10_DAY = 2015, 273


@dataclass(frozen=True)
class Visits:
    """Admissions in the order of subjects, then of time; one entry of every array each.

    `has` is (visit, condition of CONDITIONS), `codes` is (visit, slot of `diagnoses.csv`);
    `returns` is the probability that another admission follows, if this one is survived.
    Times are minutes since 1970.
    """

    subject: NDArray[np.int64]
    has: NDArray[np.bool_]
    failing: NDArray[np.bool_]
    codes: NDArray[np.bool_]
    returns: NDArray[np.float64]
    admitted: NDArray[np.int64]
    discharged: NDArray[np.int64]
    is_icd10: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.subject)

    def __getitem__(self, keep: NDArray[np.bool_]) -> Visits:
        return Visits(*(getattr(self, name)[keep] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Stays:
    """The admissions that happened, and how they ended; `died` counts only where `dies`."""

    visits: Visits
    hadm_id: NDArray[np.int64]
    chance: NDArray[np.float64]
    dies: NDArray[np.bool_]
    died: NDArray[np.int64]


def draw_visits(rng: np.random.Generator, people: People) -> Visits:
    """Draw every admission that would happen if nobody died in hospital."""
    first = np.flatnonzero(people.admitted)
    ill = _draw_illness(rng, people, first)
    returns = _return_chance(ill[2])
    # Geometric: whether a visit is the last one does not depend on how many came before it.
    more = rng.geometric(1.0 - returns) - 1
    later = np.repeat(first, more)
    illnesses = [
        np.concatenate(pair) for pair in zip(ill, _draw_illness(rng, people, later), strict=True)
    ]
    subject = np.concatenate([first, later])
    order = np.argsort(subject, kind="stable")
    has, failing, codes = (part[order] for part in illnesses)
    subject = subject[order]
    admitted, discharged = _draw_times(rng, people, subject, has, failing)
    return Visits(
        subject=subject,
        has=has,
        failing=failing,
        codes=codes,
        returns=np.repeat(returns, more + 1),
        admitted=admitted,
        discharged=discharged,
        is_icd10=_is_icd10(people, subject, admitted),
    )


def starts_of(subject: NDArray[np.int64]) -> NDArray[np.bool_]:
    """True at the first visit of every subject."""
    return np.asarray(np.diff(subject, prepend=-1) != 0)


def _draw_illness(
    rng: np.random.Generator, people: People, subject: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Conditions, whether the body fails, and the codes recorded, of one visit per `subject`."""
    chance = chance_of(ACUTE, people.age[subject], people.female[subject], people.race[subject])
    chance[:, DELIVERY - len(CHRONIC)] *= can_deliver(people)[subject]
    has = np.hstack([people.has[subject], rng.random(chance.shape) < chance])
    odds = FAILING + has @ np.array([condition.failing for condition in CONDITIONS])
    failing = rng.random(len(subject)) < sigmoid(odds)
    signs = np.zeros((len(subject), len(SIGN_GROUPS)), bool)
    rows = np.arange(len(subject))
    signs[rows, people.race[subject]] = failing
    signs[rows, len(RACES) + ~people.female[subject]] = failing
    catalog = load_diagnoses()
    nobody = np.ones((len(subject), 1), bool)
    active = np.hstack([has, signs, nobody])[:, catalog.condition]
    false = np.where(catalog.condition < len(CONDITIONS), FALSE_CODE, FALSE_SIGN)
    chances = np.where(active, catalog.chance, false.astype(np.float32))
    codes = rng.random(chances.shape, np.float32) < chances
    return has, failing, codes


def _return_chance(codes: NDArray[np.bool_]) -> NDArray[np.float64]:
    weights = np.array([condition.returns for condition in CONDITIONS] + [0.0] * 8)
    odds = RETURNS + codes @ weights[load_diagnoses().condition]
    return sigmoid(odds).clip(0.0, MOST_RETURNS)


def _draw_times(
    rng: np.random.Generator,
    people: People,
    subject: NDArray[np.int64],
    has: NDArray[np.bool_],
    failing: NDArray[np.bool_],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Minutes of admission and discharge; stays of one subject never overlap."""
    burden = 0.10 * has[:, len(CHRONIC) :].sum(axis=1) + 0.5 * failing
    stay = np.exp(rng.normal(1.05 + burden, 0.75)) * DAY
    stay = stay.clip(180, 120 * DAY).astype(np.int64)
    first = starts_of(subject)
    visits = np.bincount(subject, minlength=len(people))[subject]
    # Frequent visitors come more often, rather than for decades.
    gap = (rng.exponential(4 * 365 * DAY / (visits + 3)) + DAY).astype(np.int64)
    year = (people.anchor_year - 1970).astype("datetime64[Y]").astype("datetime64[m]")
    begin = year.astype(np.int64)[subject] + rng.integers(0, 365 * DAY, len(subject))
    step = np.where(first, 0, gap + np.concatenate([[0], stay])[: len(stay)])
    elapsed = np.cumsum(step)
    elapsed -= np.maximum.accumulate(np.where(first, elapsed, 0))
    admitted = begin[first][np.cumsum(first) - 1] + elapsed
    return admitted, admitted + stay


def _is_icd10(
    people: People, subject: NDArray[np.int64], admitted: NDArray[np.int64]
) -> NDArray[np.bool_]:
    date = admitted.astype("datetime64[m]")
    year = date.astype("datetime64[Y]")
    day = (date - year.astype("datetime64[m]")).astype(np.int64) // DAY
    shift = people.real_year[subject] - people.anchor_year[subject]
    real = year.astype(np.int64) + 1970 + shift
    return np.asarray((real > ICD10_YEAR) | ((real == ICD10_YEAR) & (day >= ICD10_DAY)))
