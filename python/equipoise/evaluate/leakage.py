"""The guard: nothing is judged on subjects that it has seen."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from equipoise import schema
from equipoise.cohort import Cohort
from equipoise.errors import LeakageError


def check_leakage(training: Cohort, *, tuning: Cohort, held_out: Cohort) -> None:
    """Raise `LeakageError` if a model about to be fitted on `training` has seen its judges.

    Neither `tuning` nor `held_out` may share a real subject with the other, with `training`, or
    with what the vocabulary was fitted on, which therefore has to say so. Where subjects have a
    `schema.PERSON_ID`, the cohorts may not share a person either.
    """
    fitted_on = training.vocabulary.fitted_on
    if fitted_on is None:
        raise LeakageError("the vocabulary does not say which subjects it was fitted on")
    learned = {"the vocabulary": fitted_on, "the training cohort": _real_ids(training)}
    tuned = {**learned, "the tuning cohort": _real_ids(tuning)}
    for part, judges, seen in (
        (schema.HELD_OUT, _real_ids(held_out), tuned),
        (schema.TUNING, _real_ids(tuning), learned),
    ):
        for where, ids in seen.items():
            leaked = np.intersect1d(judges, ids)
            if len(leaked):
                raise LeakageError(
                    f"{len(leaked)} {part} subjects have been seen by {where}; "
                    f"the first is subject {leaked[0]}"
                )
    if schema.PERSON_ID in held_out.subjects.columns:
        _check_persons(training, tuning, held_out)


def _check_persons(training: Cohort, tuning: Cohort, held_out: Cohort) -> None:
    persons = [_real_ids(part, schema.PERSON_ID) for part in (held_out, tuning, training)]
    for judges, seen in (persons[:2], persons[1:], persons[::2]):
        leaked = np.intersect1d(judges, seen)
        if len(leaked):
            raise LeakageError(
                f"{len(leaked)} persons are in two parts of a fold; the first is person {leaked[0]}"
            )


def _real_ids(cohort: Cohort, column: str = schema.SUBJECT_ID) -> npt.NDArray[np.int64]:
    """The ids of the subjects that are not synthetic, whose ids are numbers of their own."""
    real = ~pl.col(schema.SYNTHETIC).fill_null(value=False)
    return cohort.subjects.filter(real)[column].drop_nulls().to_numpy()
