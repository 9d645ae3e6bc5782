"""What a method gained over the original data, and how much of it a threshold alone would give.

At threshold 0.5 any balancing "wins" where positives are rare, for it shifts every score up. So the
gain is told in parts, the original data with a tuned threshold being the control:

    total        F1(method, 0.5)     - F1(original, 0.5)
    threshold    F1(original, tuned) - F1(original, 0.5)
    information  F1(method, tuned)   - F1(original, tuned)

and, where predictions have the columns for it, against the two other controls:

    group_threshold    F1(original, tuned by group) - F1(original, 0.5)
    group_information  F1(method, tuned by group)   - F1(original, tuned by group)
    corrected          F1(method, priors corrected) - F1(original, 0.5)

Intervals are 2.5th to 97.5th percentiles of a paired bootstrap over subjects (Efron 1979; subjects
as clusters of visits: Field & Welsh 2007) of the pooled out-of-fold predictions. `p` is two-sided,
from the same resamples: twice the smaller share of them on either side of no gain, (1 + k)/(1 + R)
(Davison & Hinkley 1997, sections 4.2 and 5.4). `p_holm` is Holm's correction (1979) over the groups
of one grouping, metric and part.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import polars as pl

from equipoise.evaluate.benefit import FEWEST_POSITIVES
from equipoise.evaluate.bootstrap import (
    FEWEST_RESAMPLES,
    ArmCounts,
    Pair,
    resampled_counts,
    usable_pairs,
)
from equipoise.evaluate.counts import (
    EMPTY,
    NO_POSITIVES,
    OK,
    RATES,
    TOO_FEW,
    UNDEFINED,
    Counts,
    Floats,
)
from equipoise.evaluate.fairness import BY_SELECTION, FAIRNESS
from equipoise.evaluate.judging import CONTROL, OVERALL, Grouping
from equipoise.evaluate.over_models import MEAN_OF_MODELS
from equipoise.evaluate.score_bootstrap import RANKINGS, SUMMED, corrected_in, resampled_scores

#: One row per model, method, by, group, metric and part.
GAINS: Final[Mapping[str, type[pl.DataType]]] = {
    "model": pl.String,
    "method": pl.String,
    "by": pl.String,
    "group": pl.String,
    "metric": pl.String,
    "part": pl.String,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "status": pl.String,
    "p": pl.Float64,
    "p_holm": pl.Float64,
}
#: Each part as (with, without), places in `bootstrap.ARMS`.
PARTS: Final = {"total": (2, 0), "threshold": (1, 0), "information": (3, 1)}
CONTROL_PARTS: Final = {
    "group_threshold": (4, 0),
    "group_information": (5, 4),
    "corrected": (6, 0),
}
#: The same for the metrics of scores, places among the arms of `resampled_scores`.
_SCORE_PARTS: Final = {"total": (1, 0), "information": (1, 0), "corrected": (2, 0)}
#: A ranking weighs every row of every resample; beyond this many in all it takes fewer of them.
RANKED_ROWS: Final = 20_000_000

_Scores = Sequence[tuple[Floats, Floats]]


class Gain(NamedTuple):
    """One part of one metric: value (G,), resampled (R, G), of the groups that `counts` counts."""

    by: str
    groups: tuple[str, ...]
    metric: str
    part: str
    value: Floats
    resampled: Floats
    counts: Counts


def estimate_gains(
    predictions: pl.DataFrame,
    groupings: Sequence[Grouping],
    sizes: Mapping[str, Floats],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> pl.DataFrame:
    """The gains of every method over `CONTROL`, for each model and their mean: a frame of `GAINS`.

    predictions: the pooled out-of-fold frame of `Results`; sizes: for each grouping's name the (G,)
    subjects of the original data. The metrics are those of `RATES` in each group and those of
    `FAIRNESS` under the group "overall"; of the metrics of scores, which no threshold changes, all
    is information, and rankings have no part "corrected". Of several models the mean of the gains
    comes as "mean of models", each resample taken of all models alike; it is unknown where the gain
    of any model is. Folds where an arm has no score or no tuned threshold under any model are left
    out of both arms. The numbers of a group with fewer than 10 positive visits come with status
    "too_few" and without a p. Without the control: no rows.
    """
    models = predictions["model"].unique(maintain_order=True).to_list()
    methods = predictions["method"].unique(maintain_order=True).to_list()
    tables: dict[str, list[pl.DataFrame]] = {name: [] for name in (*models, MEAN_OF_MODELS)}
    for method in methods if CONTROL in methods else []:
        if method == CONTROL:
            continue
        pairs = usable_pairs([_pair(predictions, model, method) for model in models])
        gains = _gains_of_models(pairs, groupings, sizes, resamples, seed)
        for model, streams in zip(tables, gains, strict=False):
            rows = [(model, method, *row) for gain in streams for row in _rows(gain)]
            tables[model].append(pl.DataFrame(rows, dict(GAINS), orient="row"))
    empty = pl.DataFrame(schema=dict(GAINS))
    return pl.concat([empty, *(table for found in tables.values() for table in found)])


def _pair(predictions: pl.DataFrame, model: str, method: str) -> Pair:
    scored = predictions.filter(pl.col("model") == model)
    return Pair(*(scored.filter(pl.col("method") == name) for name in (CONTROL, method)))


def _gains_of_models(
    pairs: Sequence[Pair],
    groupings: Sequence[Grouping],
    sizes: Mapping[str, Floats],
    resamples: int,
    seed: int,
) -> Iterator[Iterator[Gain]]:
    """The gains of each model in turn, and at last of their mean, if there are several."""
    enough = RANKED_ROWS // max(1, len(pairs[0].control))
    fewer = min(resamples, max(FEWEST_RESAMPLES, enough))
    scores = [resampled_scores(pair, groupings, fewer, seed) for pair in pairs]
    for pair, mine in zip(pairs, scores, strict=True):
        # By itself a model has fewer kinds of subjects, and so more resamples than all together.
        (counts,) = resampled_counts([pair], groupings, resamples, seed)
        yield _gains(counts, mine, groupings, sizes, corrected=corrected_in(pair))
    if len(pairs) > 1:
        counts_of_all = resampled_counts(pairs, groupings, resamples, seed)
        streams = [
            _gains(counts, mine, groupings, sizes, corrected=corrected_in(pairs[0]))
            for counts, mine in zip(counts_of_all, scores, strict=True)
        ]
        yield (_mean(same) for same in zip(*streams, strict=True))


def _mean(gains: Sequence[Gain]) -> Gain:
    value = np.mean([gain.value for gain in gains], axis=0)
    return gains[0]._replace(
        value=value, resampled=np.mean([gain.resampled for gain in gains], axis=0)
    )


def _gains(
    counts: Sequence[tuple[ArmCounts, ArmCounts]],
    scores: _Scores,
    groupings: Sequence[Grouping],
    sizes: Mapping[str, Floats],
    *,
    corrected: bool,
) -> Iterator[Gain]:
    for grouping, (point, many), (score, scored) in zip(groupings, counts, scores, strict=True):
        by, groups, of = grouping.name, grouping.groups, point[0]
        for metric, rate in RATES.items():
            values = [{a: rate(arm) for a, arm in arms.items()} for arms in (point, many)]
            yield from _parts(by, groups, metric, values, of)
        for m, metric in enumerate((*RANKINGS, *SUMMED)):
            for part, (a, b) in _SCORE_PARTS.items():
                if part == "corrected" and (metric in RANKINGS or not corrected):
                    continue
                one, more = (v[..., a, m] - v[..., b, m] for v in (score, scored))
                yield Gain(by, groups, metric, part, one, more, of)
        if grouping.columns:
            for metric, over in FAIRNESS.items():
                values = [
                    {a: over(arm, sizes[by])[..., None] for a, arm in arms.items()}
                    for arms in (point, many)
                ]
                resting_on = of.total() if metric in BY_SELECTION else _second(of)
                yield from _parts(by, (OVERALL,), metric, values, resting_on)


def _second(counts: Counts) -> Counts:
    """Those of the group with the second most positives: a comparison takes two."""
    if len(counts.groups) < 2:
        return counts.total()
    place = np.argsort(-counts.positives, kind="stable")[[1]]
    cells = (counts.tp, counts.fp, counts.fn, counts.tn)
    return Counts((OVERALL,), *(cell[place] for cell in cells))


def _parts(
    by: str,
    groups: tuple[str, ...],
    metric: str,
    values: Sequence[Mapping[int, Floats]],
    counts: Counts,
) -> Iterator[Gain]:
    """One `Gain` per part whose arms are there; values: each arm's, as it is and resampled."""
    for part, (a, b) in {**PARTS, **CONTROL_PARTS}.items():
        if a in values[0] and b in values[0]:
            point, many = (of[a] - of[b] for of in values)
            yield Gain(by, groups, metric, part, point, many, counts)


def _rows(gain: Gain) -> Iterator[tuple[str | float, ...]]:
    status = [_status(value, gain.counts, g) for g, value in enumerate(gain.value)]
    low, high = _interval(gain.resampled)
    p = np.where(np.array(status) == OK, _p_values(gain.resampled), np.nan)
    for g, corrected in enumerate(holm(p)):
        told = gain.by, gain.groups[g], gain.metric, gain.part
        yield (
            *told, float(gain.value[g]), float(low[g]), float(high[g]), status[g],
            float(p[g]), float(corrected),
        )  # fmt: skip


def _interval(differences: Floats) -> Floats:
    """(2, G) the percentiles of (R, G), over the resamples in which a group can be estimated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        return np.nanpercentile(differences, (2.5, 97.5), axis=0)


def _p_values(differences: Floats) -> Floats:
    """(G,) two-sided p of no gain, over the resamples (R, G) that can be estimated."""
    known = np.isfinite(differences).sum(axis=0)
    fewer = np.minimum((differences <= 0).sum(axis=0), (differences >= 0).sum(axis=0))
    return np.where(known > 0, np.minimum(1, 2 * (1 + fewer) / (1 + known)), np.nan)


def holm(p: Floats) -> Floats:
    """Holm's step-down correction of the finite p values (Scand J Stat 6, 1979); NaN stays."""
    out = np.full(len(p), np.nan)
    order = np.argsort(p)[: np.isfinite(p).sum()]
    out[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return out


def _status(value: float, counts: Counts, g: int) -> str:
    positives = counts.positives[g]
    if counts.n[g] == 0:
        return EMPTY
    if np.isnan(value):
        return UNDEFINED if positives else NO_POSITIVES
    return OK if positives >= FEWEST_POSITIVES else TOO_FEW
