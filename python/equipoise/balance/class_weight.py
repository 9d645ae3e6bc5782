"""Class weights: the control that is upsampling in expectation, without a copy of anybody."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from equipoise import schema
from equipoise.balance.plan import REAL, cells_of, check_classes
from equipoise.cohort import Cohort
from equipoise.training_set import TrainingSet


def class_weight(
    train: Cohort,
    by: Sequence[str],
    *,
    tuning: Cohort,  # noqa: ARG001 - part of the contract
    seed: int,  # noqa: ARG001
    progress: schema.Progress = schema.no_progress,  # noqa: ARG001
) -> TrainingSet:
    """The training cohort, each visit weighing m / n of its subject's (label x group) cell.

    m is the largest cell and n the subject's own, in subjects: how often `upsample` shows the
    subject on average. Subjects that are in no cell (unknown label or group) weigh 1.

    scikit-learn's `class_weight="balanced"` is another rule: N / (classes * rows of the class). It
    knows labels but no groups, it counts rows and not subjects, and its weights add up to N. These
    add up to what upsampling would hold, so that a penalty on the coefficients counts as little.

    Raises `DataError` for an unknown group column or when there are not two label classes.
    """
    cells, place = cells_of(train, by)
    check_classes(cells[schema.LABEL])
    n = cells[REAL].to_numpy()
    # The last place is that of -1: in no cell.
    weight = np.append(n.max() / n, 1.0)
    return TrainingSet(train, weights=weight[place[train.subject_of_visit()]])
