"""Group Benefit Equality (ClosedLoop): does each group get as many flags as it has cases?"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import polars as pl

from equipoise.evaluate.counts import TOO_FEW, Counts, Floats, count, gbe, precision, tpr

#: Below this many positives a group is not judged.
FEWEST_POSITIVES: Final = 10
#: Below the first a group may be under-served; above the second it is only worth a note.
LOW, HIGH = 0.8, 1.25


def group_benefit_equality(
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    sample_weight: Any = None,
    resamples: int = 2000,
    seed: int = 0,
) -> pl.DataFrame:
    """Group Benefit Equality of each group, with its 95 % interval and what to make of it.

    Columns: group String; n, positives, flagged, gbe, tpr, precision, low, high Float64; flag
    String: "under_served" below 0.8 and "certainly_under_served" if the interval is too, "high"
    above 1.25, "fair" between, "too_few" with fewer than 10 positives. The interval resamples the
    rows of a group, that is, its four counts multinomially (percentile bootstrap, Efron 1979).
    """
    counts = count(
        y_true, y_pred, sensitive_features=sensitive_features, sample_weight=sample_weight
    )
    value = gbe(counts)
    low, high = _interval(counts, resamples, seed)
    names = (TOO_FEW, "certainly_under_served", "under_served", "high")
    cases = (counts.positives < FEWEST_POSITIVES, high < LOW, value < LOW, value > HIGH)
    return pl.DataFrame(
        {
            "group": pl.Series(counts.groups, dtype=pl.String),
            "n": counts.n,
            "positives": counts.positives,
            "flagged": counts.flagged,
            "gbe": value,
            "tpr": tpr(counts),
            "precision": precision(counts),
            "low": low,
            "high": high,
            "flag": np.select(cases, names, default="fair").tolist(),
        }
    )


def _interval(counts: Counts, resamples: int, seed: int) -> tuple[Floats, Floats]:
    """The 2.5th and 97.5th percentiles of GBE over resampled counts, NaN without a positive."""
    rng = np.random.default_rng(seed)
    low, high = np.full((2, len(counts.groups)), np.nan)
    for g, cells in enumerate(np.stack([counts.tp, counts.fp, counts.fn, counts.tn], axis=-1)):
        rows = round(cells.sum())
        if rows and counts.positives[g] > 0:
            drawn = rng.multinomial(rows, cells / cells.sum(), size=resamples).T.astype(float)
            values = gbe(Counts(counts.groups, *drawn))
            low[g], high[g] = np.nanpercentile(values, (2.5, 97.5))
    return low, high
