"""The one contract of every balancing method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from equipoise.cohort import Cohort
from equipoise.schema import Progress
from equipoise.training_set import TrainingSet


class BalancingMethod(Protocol):
    """From a training cohort to what the classifiers learn from.

    train: the training subjects; `by`: the group columns to balance.
    tuning: other subjects, which may decide when to stop; never learned from, never returned.
    seed: the same seed and input give the same cohort.

    Every subject of the result that is not marked synthetic is one of `train`. Methods that change
    the data return a Cohort: the real subjects that stay, then the synthetic ones. Those that
    change the learning return a TrainingSet of the data as they are.
    """

    def __call__(
        self,
        train: Cohort,
        by: Sequence[str],
        *,
        tuning: Cohort,
        seed: int,
        progress: Progress,
    ) -> Cohort | TrainingSet: ...
