"""Small random cohorts for tests."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from equipoise.cohort import Cohort, cohort_from_lists
from equipoise.vocabulary import Vocabulary


def toy_cohort(
    subjects: int = 200, columns: int = 24, seed: int = 0, max_visits: int = 4
) -> Cohort:
    """Subjects with sex and race, whose label and group each raise a few of the columns."""
    rng = np.random.default_rng(seed)
    sex = rng.choice(["F", "M"], subjects, p=[0.4, 0.6])
    race = rng.choice(["Asian", "Black", "White"], subjects, p=[0.1, 0.2, 0.7])
    label = rng.random(subjects) < 0.2
    records = []
    for s in range(subjects):
        rate = np.full(columns, 0.08)
        rate[0:3] += 0.5 * label[s]
        rate[3:5] += 0.4 * (sex[s] == "F")
        rate[5:7] += 0.4 * (race[s] == "Black")
        visits = rng.integers(1, max_visits + 1)
        records.append([np.flatnonzero(rng.random(columns) < rate).tolist() for _ in range(visits)])
    frame = pl.DataFrame({"label": label, "sex": sex, "race": race})
    return cohort_from_lists(
        records, frame, Vocabulary.of_codes([f"C{i:02d}" for i in range(columns)])
    )


@dataclass(frozen=True, eq=False)
class ToyRecords:
    """A cohort that can be encoded like `VisitRecords`, if by the same columns."""

    cohort: Cohort

    def encode(self, vocabulary: Vocabulary) -> Cohort:
        return replace(self.cohort, vocabulary=vocabulary)
