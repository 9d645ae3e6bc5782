"""Separate models: nothing is balanced, each group gets a classifier of its own."""

from __future__ import annotations

from collections.abc import Sequence

from equipoise import schema
from equipoise.balance.plan import cells_of, check_classes
from equipoise.cohort import Cohort
from equipoise.training_set import TrainingSet


def separate(
    train: Cohort,
    by: Sequence[str],
    *,
    tuning: Cohort,  # noqa: ARG001 - part of the contract
    seed: int,  # noqa: ARG001
    progress: schema.Progress = schema.no_progress,  # noqa: ARG001
) -> TrainingSet:
    """The training cohort, to be learned apart for each combination of the groups `by`.

    Who fits the classifiers decides which group is too small for one of its own and is scored by
    the classifier of all (`evaluate.learning.fit_predictor`).

    Raises `DataError` for an unknown group column or when there are not two label classes.
    """
    cells, _ = cells_of(train, by)
    check_classes(cells[schema.LABEL])
    return TrainingSet(train, apart=tuple(by))
