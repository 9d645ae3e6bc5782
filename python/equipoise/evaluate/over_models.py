"""The mean over models, as FairPlay's tables have it."""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl

from equipoise.evaluate.counts import OK

MEAN_OF_MODELS: Final = "mean of models"


def over_models(frame: pl.DataFrame) -> pl.DataFrame:
    """The mean of `value` over `model`, for all other columns alike: rows of the same columns.

    frame: `metrics` or `fairness` of `Results`, or some of their rows. A number over groups, such
    as the disparate impact, is so one of every model and fold first and averaged then, which is
    not the one of averaged F1. Means over folds are then those of `results.over_folds`.

    A mean is unknown where that of any model is, with that model's status (the first), so that two
    methods are never compared over different models.
    """
    keys = [name for name in frame.columns if name not in ("model", "value", "status")]
    value, status = pl.col("value").fill_null(np.nan), pl.col("status")
    failed = status.filter(status != OK).first()
    return (
        frame.group_by(keys, maintain_order=True)
        .agg(value.mean().alias("value"), failed.fill_null(OK).alias("status"))
        .with_columns(pl.lit(MEAN_OF_MODELS).alias("model"))
        .select(frame.columns)
    )
