"""Who a classifier learns from: the subjects and visits of every (label x group) cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import polars as pl

from equipoise import schema
from equipoise.training_set import TrainingSet

#: One row per observed cell. `subjects` are real and different, `copies` further rows of resampled
#: ones; `visits` are of all, as far as their label is known, and `weight` is how much they count
#: together.
CELL: Final[Mapping[str, type[pl.DataType]]] = {
    schema.LABEL: pl.Boolean,
    "subjects": pl.Int64,
    "copies": pl.Int64,
    "synthetic": pl.Int64,
    "visits": pl.Int64,
    "positive_visits": pl.Int64,
    "weight": pl.Float64,
    "positive_weight": pl.Float64,
    "visit_share": pl.Float64,
}


def count_cells(training: TrainingSet, by: Sequence[str]) -> pl.DataFrame:
    """A frame of `CELL` and `by`, sorted by cell."""
    cohort = training.cohort
    known = cohort.visits[schema.LABEL].is_not_null().to_numpy()
    positive = cohort.visits[schema.LABEL].fill_null(value=False).to_numpy()
    weight = np.ones(len(positive)) if training.weights is None else training.weights
    owner = cohort.subject_of_visit()
    subjects = cohort.subjects.with_columns(
        visits=np.bincount(owner, known, minlength=len(cohort)).astype(np.int64),
        positive_visits=np.bincount(owner, positive, minlength=len(cohort)).astype(np.int64),
        weight=np.bincount(owner, known * weight, minlength=len(cohort)),
        positive_weight=np.bincount(owner, positive * weight, minlength=len(cohort)),
    )
    synthetic = pl.col(schema.SYNTHETIC).fill_null(value=False)
    different = pl.col(schema.SUBJECT_ID).filter(~synthetic).n_unique()
    keys = [schema.LABEL, *by]
    cells = subjects.group_by(keys).agg(
        different.cast(pl.Int64).alias("subjects"),
        ((~synthetic).sum() - different).cast(pl.Int64).alias("copies"),
        synthetic.sum().cast(pl.Int64).alias("synthetic"),
        *(pl.col(name).sum() for name in ("visits", "positive_visits")),
        # Summed in the order of the subjects: the same bytes every time.
        *(pl.col(name).implode().list.sum().first() for name in ("weight", "positive_weight")),
    )
    share = pl.col("visits") / pl.col("visits").sum()
    return cells.sort(keys).with_columns(share.alias("visit_share")).select(*CELL, *by)
