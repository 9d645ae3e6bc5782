"""Small random cohorts for tests."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import polars as pl

from equipoise import schema
from equipoise.cohort import Cohort, cohort_from_lists
from equipoise.vocabulary import Vocabulary, VocabularySettings


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
    """A cohort that behaves as `VisitRecords` do."""

    cohort: Cohort

    @property
    def subjects(self) -> pl.DataFrame:
        return self.cohort.subjects

    @property
    def ledger(self) -> pl.DataFrame:
        return pl.DataFrame([("toys", schema.USED, 7)], dict(schema.LEDGER), orient="row")

    def __len__(self) -> int:
        return len(self.cohort)

    def take(self, subjects: npt.NDArray[np.integer]) -> ToyRecords:
        return ToyRecords(self.cohort.take(subjects))

    def fit_vocabulary(self, settings: VocabularySettings) -> Vocabulary:
        ids = self.subjects[schema.SUBJECT_ID].to_numpy()
        return replace(self.cohort.vocabulary, settings=settings, fitted_on=ids)

    def encode(self, vocabulary: Vocabulary) -> Cohort:
        return replace(self.cohort, vocabulary=vocabulary)
