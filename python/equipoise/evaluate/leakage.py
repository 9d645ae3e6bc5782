"""The guard: nothing is judged on subjects that it has seen."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from equipoise import schema
from equipoise.cohort import Cohort
from equipoise.errors import LeakageError
from equipoise.evaluate.nearest import nearest_distance

#: How many held-out visits are looked for among the synthetic ones, and the fewest codes they have.
LOOKED_AT: Final = 1000
FEWEST_CODES: Final = 5


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


def check_copies(training: Cohort, held_out: Cohort, seed: int = 0) -> None:
    """Raise `LeakageError` if the synthetic visits of `training` are near-copies of held-out ones.

    Looked at are up to `LOOKED_AT` held-out visits of `FEWEST_CODES` codes or more. One is copied
    if a synthetic visit differs in at most a twentieth of its codes while no real training visit
    does in fewer than a fifth: whoever has not seen it has no way to come so near. At least five
    of them, and one in a hundred, are no chance.
    """
    synthetic = training.filter(training.subjects[schema.SYNTHETIC].fill_null(value=False))
    real = training.filter(~training.subjects[schema.SYNTHETIC].fill_null(value=False))
    if not len(synthetic.visits) or not len(real.visits):
        return
    visits = held_out.matrix()
    codes = np.diff(visits.indptr)
    places = np.flatnonzero(codes >= FEWEST_CODES)
    if len(places) > LOOKED_AT:
        rng = np.random.default_rng(seed)
        places = np.sort(rng.choice(places, LOOKED_AT, replace=False))
    near = nearest_distance(visits[places], synthetic.matrix()) <= codes[places] // 20
    alone = nearest_distance(visits[places], real.matrix()) > codes[places] / 5
    copied = int((near & alone).sum())
    if copied >= 5 and copied > len(places) / 100:
        raise LeakageError(
            f"{copied} of {len(places)} held-out visits have a synthetic near-copy, and nothing "
            "like it among the real training visits: what made it has seen them"
        )


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
