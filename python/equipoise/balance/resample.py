"""Balancing with nothing but the real subjects: leave them, repeat some, or drop some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from equipoise import schema
from equipoise.balance.plan import REAL, cells_of, check_classes
from equipoise.cohort import Cohort

#: FairPlay's own downsampling keeps this many subjects of a cell however small the smallest is.
SMALLEST_CELL: Final = 10


def original(
    train: Cohort,
    by: Sequence[str],
    *,
    tuning: Cohort,  # noqa: ARG001 - part of the contract
    seed: int,  # noqa: ARG001
    progress: schema.Progress = schema.no_progress,  # noqa: ARG001
) -> Cohort:
    """The training cohort as it is: the control of every comparison."""
    train.check_groups(by)
    return train


def upsample(
    train: Cohort,
    by: Sequence[str],
    *,
    tuning: Cohort,  # noqa: ARG001
    seed: int,
    progress: schema.Progress = schema.no_progress,  # noqa: ARG001
) -> Cohort:
    """Every subject once, then m - n of each (label x group) cell drawn with replacement.

    m is the largest cell. Subjects that are in no cell (unknown label or group) stay as they are.
    """
    cells, place = cells_of(train, by)
    check_classes(cells[schema.LABEL])
    rng = np.random.default_rng(seed)
    largest = int(cells[REAL].to_numpy().max())
    chosen = [np.arange(len(train), dtype=np.int64)]
    for cell in range(len(cells)):
        members = np.flatnonzero(place == cell)
        chosen.append(rng.choice(members, largest - len(members), replace=True))
    return train.take(np.concatenate(chosen))


def downsample(
    train: Cohort,
    by: Sequence[str],
    *,
    tuning: Cohort,  # noqa: ARG001
    seed: int,
    progress: schema.Progress = schema.no_progress,  # noqa: ARG001
) -> Cohort:
    """As many of each (label x group) cell, without replacement, as the smallest cell has.

    At least `SMALLEST_CELL` of each, or all of a cell that has fewer. Subjects that are in no cell
    are left out: beside so few they would decide the balance.
    """
    cells, place = cells_of(train, by)
    check_classes(cells[schema.LABEL])
    rng = np.random.default_rng(seed)
    smallest = max(int(cells[REAL].to_numpy().min()), SMALLEST_CELL)
    chosen = []
    for cell in range(len(cells)):
        members = np.flatnonzero(place == cell)
        chosen.append(rng.choice(members, min(smallest, len(members)), replace=False))
    return train.take(np.sort(np.concatenate(chosen)))
