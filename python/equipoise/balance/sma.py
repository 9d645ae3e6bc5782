"""SMA: fill the small cells with visits of sequential trees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from equipoise import schema
from equipoise.balance.plan import SYNTHETIC, plan_balance
from equipoise.balance.rows import rows_of, with_rows
from equipoise.balance.sequential import SequenceConfig, attributes_of, draw_rows, fit_sequence
from equipoise.cohort import Cohort
from equipoise.errors import DataError


def sma(
    train: Cohort,
    by: Sequence[str],
    *,
    tuning: Cohort,  # noqa: ARG001 - part of the contract
    seed: int,
    progress: schema.Progress = schema.no_progress,
    config: SequenceConfig | None = None,
    ratio: float = 1.0,
    leave_small: bool = False,
) -> Cohort:
    """The training cohort and m - n one-visit subjects in each cell, drawn by sequential trees.

    Juwara et al. (Patterns 5:100946, 2024). `ratio` and `leave_small` are those of `plan_balance`,
    whose errors this raises; `DataError` too where no cell has a visit.
    """
    plan = plan_balance(train, by, ratio=ratio, leave_small=leave_small)
    if plan.synthetic == 0:
        return train
    rows = rows_of(train, by)
    if rows.X.shape[0] == 0:
        raise DataError(table="visits", want="a visit with the label of its subject", got="none")
    attributes = attributes_of(plan.cells.select(schema.LABEL, *by))
    trees = fit_sequence(
        rows, attributes, train.vocabulary, config or SequenceConfig(), progress=progress
    )
    counts = plan.cells[SYNTHETIC].to_numpy()
    made = draw_rows(trees, np.repeat(attributes, counts, axis=0), seed, progress=progress)
    ends = np.cumsum(counts)
    parts = [made[end - count : end] for end, count in zip(ends, counts, strict=True)]
    return with_rows(train, plan, parts)
