"""What balancing did to the probabilities, undone.

A classifier that learned where pi' of a group's visits are positive, and not pi as in the data,
tells every risk of that group too high: its odds are multiplied by pi'/(1-pi') / (pi/(1-pi)).
Dividing by that gives back risks that mean what they say (Saerens et al., Neural Computation 14,
2002; Elkan, IJCAI 2001), one factor a group where groups were balanced. It is exact where balancing
changed nothing but the shares of the classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import polars as pl

from equipoise.evaluate.counts import CROSS
from equipoise.evaluate.judging import CONTROL, CORRECTED_SCORE

_ARM: Final = ("fold", "method")


def prior_corrected(
    predictions: pl.DataFrame, cells: pl.DataFrame, by: Sequence[str]
) -> pl.DataFrame:
    """`predictions` with the column `corrected_score` Float64.

    p = p' r / (p' r + 1 - p'), r = odds(pi_g) / odds(pi'_g), pi_g the share of positive visits of
    the group (all of `by` crossed, unknown being a group as well) among the fold's training visits
    under "original", pi'_g under the row's own method. Both are shares of `cells`, of
    weight where they have the columns `weight` and `positive_weight` and of visits elsewhere.

    A group without a visit of either class on either side has no odds, and is corrected by those of
    all visits of the fold together. NaN where these are missing, too, and if "original" is.
    """
    factors = prior_factors(cells, by)
    whole = factors.filter("whole").select(*_ARM, pl.col("factor").alias("of_all"))
    groups = factors.filter(~pl.col("whole")).select(*_ARM, *by, "factor")
    p, factor = pl.col("score"), pl.coalesce("factor", "of_all")
    corrected = p * factor / (p * factor + (1 - p))
    # Where nothing is to be undone, not even rounding may move a score over a threshold.
    corrected = pl.when(factor == 1).then(p).otherwise(corrected)
    return (
        predictions.join(
            groups, on=[*_ARM, *by], how="left", nulls_equal=True, maintain_order="left"
        )
        .join(whole, on=_ARM, how="left", maintain_order="left")
        .with_columns(corrected.fill_null(np.nan).alias(CORRECTED_SCORE))
        .drop("factor", "of_all")
    )


def prior_factors(cells: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """Columns fold, method, `by`, whole Boolean, factor Float64: r of each group and of all.

    Null where a side has no visit of some class, or there is no "original" in the fold.
    """
    odds = pl.concat(
        [
            _odds(cells, by).with_columns(pl.lit(value=False).alias("whole")),
            _odds(cells, ()).with_columns(pl.lit(value=True).alias("whole")),
        ],
        how="diagonal_relaxed",
    )
    keys = ["fold", *by, "whole"]
    real = odds.filter(pl.col("method") == CONTROL).select(*keys, pl.col("odds").alias("real"))
    return (
        odds.join(real, on=keys, how="left", nulls_equal=True, maintain_order="left")
        .with_columns((pl.col("real") / pl.col("odds")).alias("factor"))
        .select(*_ARM, *by, "whole", "factor")
    )


def on_correction(cells: pl.DataFrame, by: Sequence[str]) -> Iterator[str]:
    """Notes: which groups had to be corrected as all visits together are."""
    if CONTROL not in cells["method"]:
        yield f"no corrected scores: there is no method called {CONTROL} to take the shares from"
        return
    lost = prior_factors(cells, by).filter(~pl.col("whole"), pl.col("factor").is_null())
    names = [pl.col(name).fill_null("unknown") for name in by]
    lost = lost.with_columns(pl.concat_str(names, separator=CROSS).alias("group"))
    folds = cells["fold"].n_unique()
    for method, group, count in (
        lost.group_by("method", "group").agg(pl.len()).sort("method", "group").iter_rows()
    ):
        yield (
            f"{method}: {CROSS.join(by)} {group} has no positive or no negative training visit in "
            f"{count} of {folds} folds; its scores are corrected there as all together are"
        )


def _odds(cells: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """Columns fold, method, `by`, odds Float64: positive to negative visits, null if any is 0."""
    weighted = "positive_weight" in cells.columns
    positive, every = ("positive_weight", "weight") if weighted else ("positive_visits", "visits")
    keys = [*_ARM, *by]
    ones = pl.col(positive).sum().cast(pl.Float64)
    zeros = pl.col(every).sum().cast(pl.Float64) - ones
    both = (ones > 0) & (zeros > 0)
    return (
        cells.group_by(keys, maintain_order=True)
        .agg(pl.when(both).then(ones / zeros).alias("odds"))
        .select(*keys, "odds")
    )
