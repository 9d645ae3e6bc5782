"""The one contract of every balancing method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from equipoise.cohort import Cohort
from equipoise.schema import Progress


class BalancingMethod(Protocol):
    """From a training cohort to the cohort that the classifiers learn from.

    train: the training subjects; `by`: the group columns to balance.
    tuning: other subjects, which may decide when to stop; never learned from, never returned.
    seed: the same seed and input give the same cohort.

    Every subject of the result that is not marked synthetic is one of `train`.
    """

    def __call__(
        self,
        train: Cohort,
        by: Sequence[str],
        *,
        tuning: Cohort,
        seed: int,
        progress: Progress,
    ) -> Cohort: ...
