"""Who comes to the simulated hospital: subjects, their groups, and what they have had for years."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from equipoise.simulate.conditions import CHRONIC, RACES, Condition

#: What MIMIC-IV 3.1 writes, the race it is to the risk, and about how many admissions have it.
RACE_VALUES: Final = (
    ("WHITE", "white", 336538),
    ("BLACK/AFRICAN AMERICAN", "black", 75482),
    ("OTHER", "other", 19788),
    ("WHITE - OTHER EUROPEAN", "white", 13972),
    ("UNKNOWN", "other", 13870),
    ("HISPANIC/LATINO - PUERTO RICAN", "hispanic", 10903),
    ("HISPANIC OR LATINO", "hispanic", 8287),
    ("ASIAN", "asian", 7809),
    ("ASIAN - CHINESE", "asian", 7644),
    ("WHITE - RUSSIAN", "white", 6597),
    ("BLACK/CAPE VERDEAN", "black", 6205),
    ("HISPANIC/LATINO - DOMINICAN", "hispanic", 6070),
    ("BLACK/CARIBBEAN ISLAND", "black", 3875),
    ("BLACK/AFRICAN", "black", 3495),
    ("UNABLE TO OBTAIN", "other", 3478),
    ("PATIENT DECLINED TO ANSWER", "other", 2162),
    ("PORTUGUESE", "white", 2082),
    ("ASIAN - SOUTH EAST ASIAN", "asian", 1973),
    ("WHITE - EASTERN EUROPEAN", "white", 1886),
    ("HISPANIC/LATINO - GUATEMALAN", "hispanic", 1858),
    ("ASIAN - ASIAN INDIAN", "asian", 1816),
    ("WHITE - BRAZILIAN", "white", 1768),
    ("HISPANIC/LATINO - SALVADORAN", "hispanic", 1680),
    ("AMERICAN INDIAN/ALASKA NATIVE", "other", 1134),
    ("HISPANIC/LATINO - COLUMBIAN", "hispanic", 1117),
    ("HISPANIC/LATINO - MEXICAN", "hispanic", 1099),
    ("SOUTH AMERICAN", "hispanic", 1104),
    ("HISPANIC/LATINO - HONDURAN", "hispanic", 866),
    ("ASIAN - KOREAN", "asian", 829),
    ("HISPANIC/LATINO - CENTRAL AMERICAN", "hispanic", 720),
    ("HISPANIC/LATINO - CUBAN", "hispanic", 674),
    ("MULTIPLE RACE/ETHNICITY", "other", 560),
    ("NATIVE HAWAIIAN OR OTHER PACIFIC ISLANDER", "other", 386),
)
#: Years that `anchor_year` may stand for, and how many of MIMIC-IV's subjects have them.
YEAR_GROUPS: Final = ((2008, 0.30), (2011, 0.22), (2014, 0.20), (2017, 0.17), (2020, 0.11))
INSURANCES: Final = ("Medicare", "Private", "Medicaid", "Other", "No charge")
INSURANCE_SHARES: Final = {
    "old": (0.86, 0.09, 0.03, 0.015, 0.005),
    "young": (0.13, 0.50, 0.28, 0.07, 0.02),
}
ADMITTED_SHARE: Final = 0.613
FIRST_SUBJECT_ID: Final = 10_000_000
SUBJECT_ID_STEP: Final = 10


@dataclass(frozen=True)
class People:
    """Subjects, one entry of every array each; `has` is (subject, chronic condition)."""

    subject_id: NDArray[np.int64]
    female: NDArray[np.bool_]
    race_value: NDArray[np.int64]
    race: NDArray[np.int64]
    age: NDArray[np.int64]
    anchor_year: NDArray[np.int64]
    year_group: NDArray[np.int64]
    real_year: NDArray[np.int64]
    insurance: NDArray[np.int64]
    admitted: NDArray[np.bool_]
    has: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.subject_id)

    def group_names(self) -> NDArray[np.str_]:
        """The race of each subject as the risk knows it."""
        return np.array(RACES)[self.race]


def draw_people(rng: np.random.Generator, first: int, count: int) -> People:
    """Draw the subjects numbered `first` to `first + count`."""
    _, races, weights = zip(*RACE_VALUES, strict=True)
    value = rng.choice(len(weights), count, p=np.array(weights) / sum(weights))
    race = np.array([RACES.index(name) for name in races])[value]
    female = rng.random(count) < 0.52
    age = rng.normal(np.where(race == 0, 58.0, 50.0), 19.0).clip(18, 97).astype(np.int64)
    starts, shares = zip(*YEAR_GROUPS, strict=True)
    group = rng.choice(len(starts), count, p=shares)
    chances = {name: np.cumsum(part) for name, part in INSURANCE_SHARES.items()}
    draw = rng.random(count)
    insurance = np.where(
        age >= 65, np.searchsorted(chances["old"], draw), np.searchsorted(chances["young"], draw)
    )
    return People(
        subject_id=FIRST_SUBJECT_ID
        + SUBJECT_ID_STEP * np.arange(first, first + count)
        + rng.integers(0, SUBJECT_ID_STEP, count),
        female=female,
        race_value=value,
        race=race,
        # As MIMIC-IV: nobody above 89 is told apart.
        age=np.where(age > 89, 91, age),
        anchor_year=rng.integers(2110, 2190, count),
        year_group=group,
        real_year=np.array(starts)[group] + rng.integers(0, 3, count),
        insurance=insurance.clip(0, len(INSURANCES) - 1),
        admitted=rng.random(count) < ADMITTED_SHARE,
        has=rng.random((count, len(CHRONIC))) < chance_of(CHRONIC, age, female, race),
    )


def chance_of(
    conditions: tuple[Condition, ...],
    age: NDArray[np.int64],
    female: NDArray[np.bool_],
    race: NDArray[np.int64],
) -> NDArray[np.float64]:
    """The probability of each condition (columns) for each person (rows)."""
    decades = (age - 60) / 10
    columns = []
    for condition in conditions:
        by_race = np.array([condition.races.get(name, 0.0) for name in RACES])
        odds = np.log(condition.share / (1 - condition.share)) + by_race[race]
        columns.append(odds + condition.per_decade * decades + condition.female * female)
    return sigmoid(np.column_stack(columns))


def can_deliver(people: People) -> NDArray[np.bool_]:
    """Who may have the condition numbered DELIVERY."""
    return people.female & (people.age <= 48)


def sigmoid(odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + exp(-odds))."""
    return np.asarray(1.0 / (1.0 + np.exp(-odds)))


def patients_frame(people: People, dod: pl.Series) -> pl.DataFrame:
    """The table `patients`."""
    groups = [f"{start} - {start + 2}" for start, _ in YEAR_GROUPS]
    return pl.DataFrame(
        {
            "subject_id": people.subject_id,
            "gender": np.where(people.female, "F", "M"),
            "anchor_age": people.age,
            "anchor_year": people.anchor_year,
            "anchor_year_group": np.array(groups)[people.year_group],
            "dod": dod,
        }
    )
