"""The bootstrap over subjects: two arms judged in the same resamples, without a loop over them.

Subjects whose every count is the same are interchangeable, and a resample of S subjects is a
multinomial draw over the few kinds of subjects that there are. That is exact, and its cost does not
grow with S. Rankings have no such short cut: they weigh every row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from equipoise import schema
from equipoise.evaluate.counts import Counts, Floats, places
from equipoise.evaluate.judging import HALF, TUNED, Grouping, predict

Ints = npt.NDArray[np.int64]
#: Control and method, each at both thresholds.
ARMS: Final = ((0, HALF), (0, TUNED), (1, HALF), (1, TUNED))
#: Numbers held at once while resampling.
CHUNK: Final = 4_000_000


class Pair(NamedTuple):
    """The same visits as predicted by the control and by a method, in the same order."""

    control: pl.DataFrame
    method: pl.DataFrame


class Kinds(NamedTuple):
    """U kinds of subjects: how many there are of each, their groups, and their counts.

    number (U,); group (U, groupings) places, -1 for none; cells (U, 16): tp, fp, fn and tn of each
    of the four `ARMS`.
    """

    number: Ints
    group: Ints
    cells: Floats


def usable_pair(control: pl.DataFrame, method: pl.DataFrame) -> Pair:
    """Both arms on the visits where both have a score and a tuned threshold."""
    keys = ["fold", schema.SUBJECT_ID, schema.VISIT_ID]
    control, method = control.sort(keys), method.sort(keys)
    number = pl.col("score", "tuned_threshold").is_finite()
    sound = pl.all_horizontal(number)
    keep = control.select(sound.alias("keep"))["keep"] & method.select(sound.alias("keep"))["keep"]
    return Pair(control.filter(keep), method.filter(keep))


def resampled_counts(
    pair: Pair, groupings: Sequence[Grouping], resamples: int, seed: int
) -> list[tuple[list[Counts], list[Counts]]]:
    """For each grouping the counts of the four `ARMS`: as they are (G,), and resampled (R, G)."""
    kinds = _kinds(pair, groupings)
    point = _sums(kinds, kinds.number[None], groupings)
    parts = [_sums(kinds, drawn, groupings) for drawn in _draws(kinds.number, resamples, seed)]
    many = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return [
        (_arms(one[0], grouping), _arms(more, grouping))
        for one, more, grouping in zip(point, many, groupings, strict=True)
    ]


def resampled_rankings(
    pair: Pair, groupings: Sequence[Grouping], resamples: int, seed: int
) -> list[tuple[Floats, Floats]]:
    """For each grouping AUROC and average precision: (G, arm, metric) and (R, G, arm, metric).

    The two arms are control and method; tied scores count half, as in scikit-learn.
    """
    ids, owner = np.unique(pair.control[schema.SUBJECT_ID].to_numpy(), return_inverse=True)
    ranks = [_rank_groups(pair, grouping, owner) for grouping in groupings]
    point = [_rank_all(rank, np.ones((1, len(ids)))) for rank in ranks]
    rng = np.random.default_rng(seed)
    rows = max(1, CHUNK // max(1, len(owner)))
    parts = []
    for start in range(0, resamples, rows):
        drawn = [_resample(rng, len(ids)) for _ in range(min(rows, resamples - start))]
        parts.append([_rank_all(rank, np.stack(drawn)) for rank in ranks])
    many = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return [(one[0], more) for one, more in zip(point, many, strict=True)]


class Ranked(NamedTuple):
    """The n rows of one group by falling score, and its K distinct scores that a positive has.

    owner (n,): places of the rows' subjects; positive (P,): places of the positives among the rows;
    rows, hits (K, 2): the rows, and the positives, before and up to each such score.
    """

    owner: Ints
    positive: Ints
    rows: Ints
    hits: Ints

    @staticmethod
    def of(owner: Ints, truth: npt.NDArray[np.bool_], score: Floats) -> Ranked:
        """Rank n rows; ties stay together."""
        order = np.argsort(-score, kind="stable")
        falling, positive = score[order], np.flatnonzero(truth[order])
        distinct = np.unique(-falling[positive])
        rows = np.stack([np.searchsorted(-falling, distinct, side) for side in _SIDES], axis=1)
        return Ranked(owner[order], positive, rows, np.searchsorted(positive, rows))


_SIDES: Final = ("left", "right")


def weighted_ranking(ranked: Ranked, subjects: Floats) -> Floats:
    """(R, 2) AUROC and average precision under (R, S) weights of the subjects.

    AUROC is the Mann-Whitney statistic, ties counting half (Hanley & McNeil 1982); average
    precision is sum_k (R_k - R_{k-1}) P_k over the distinct scores, as in scikit-learn. NaN where a
    class has no weight.
    """
    weight = subjects[:, ranked.owner]
    above = _cumulated(weight)
    tp = _cumulated(weight[:, ranked.positive])
    positives, negatives = tp[:, -1], above[:, -1] - tp[:, -1]
    hits, flagged = tp[:, ranked.hits], above[:, ranked.rows]
    gained = hits[..., 1] - hits[..., 0]
    beaten = negatives[:, None] - (flagged - hits).mean(axis=-1)
    whole = np.maximum(flagged[..., 1], np.finfo(np.float64).tiny)
    precision = hits[..., 1] / whole
    both = np.stack([(gained * beaten).sum(1), (gained * precision).sum(1)], axis=1)
    out = np.full_like(both, np.nan)
    known = ((positives > 0) & (negatives > 0))[:, None]
    scale = np.stack([positives * negatives, positives], axis=1)
    np.divide(both, scale, out=out, where=known)
    return out


def _cumulated(weight: Floats) -> Floats:
    """Running sums along the rows, beginning with 0."""
    sums = np.zeros((weight.shape[0], weight.shape[1] + 1))
    np.cumsum(weight, axis=1, out=sums[:, 1:])
    return sums


def _rank_groups(pair: Pair, grouping: Grouping, owner: Ints) -> list[list[Ranked]]:
    """For each group, its rows as ranked by the control and by the method."""
    _, place = places(grouping.of(pair.control), grouping.groups)
    truth = pair.control[schema.LABEL].to_numpy()
    scores = [arm["score"].to_numpy() for arm in pair]
    members = [np.flatnonzero(place == g) for g in range(len(grouping.groups))]
    return [
        [Ranked.of(owner[rows], truth[rows], score[rows]) for score in scores] for rows in members
    ]


def _rank_all(ranks: list[list[Ranked]], subjects: Floats) -> Floats:
    """(R, G, arm, metric) under (R, S) weights of the subjects."""
    out = np.empty((len(subjects), len(ranks), 2, 2))
    for g, arms in enumerate(ranks):
        for a, ranked in enumerate(arms):
            out[:, g, a] = weighted_ranking(ranked, subjects)
    return out


def _resample(rng: np.random.Generator, subjects: int) -> Floats:
    """How often each subject is drawn when as many as there are are drawn with replacement."""
    drawn = rng.integers(0, subjects, subjects) if subjects else np.empty(0, np.int64)
    return np.bincount(drawn, minlength=subjects).astype(np.float64)


def _kinds(pair: Pair, groupings: Sequence[Grouping]) -> Kinds:
    truth = pair.control[schema.LABEL]
    rows = {schema.SUBJECT_ID: pair.control[schema.SUBJECT_ID]}
    for i, grouping in enumerate(groupings):
        rows[f"g{i}"] = pl.Series(places(grouping.of(pair.control), grouping.groups)[1])
    for a, (arm, threshold) in enumerate(ARMS):
        flagged = pl.Series(predict(pair[arm], threshold)[0])
        cells = (truth & flagged, ~truth & flagged, truth & ~flagged, ~truth & ~flagged)
        rows |= {f"c{a}{c}": cell for c, cell in enumerate(cells)}
    group, cell = pl.col("^g.*$"), pl.col("^c.*$").cast(pl.Int64)
    subjects = pl.DataFrame(rows).group_by(schema.SUBJECT_ID).agg(group.first(), cell.sum())
    kinds = subjects.drop(schema.SUBJECT_ID)
    kinds = kinds.group_by(pl.all()).agg(pl.len().alias("number")).sort(pl.all())
    return Kinds(
        kinds["number"].to_numpy().astype(np.int64),
        kinds.select("^g.*$").to_numpy(),
        kinds.select("^c.*$").to_numpy().astype(np.float64),
    )


def _draws(number: Ints, resamples: int, seed: int) -> Iterator[Floats]:
    """(R, U) how often each kind is drawn, some resamples at a time."""
    if not len(number):
        yield np.empty((resamples, 0))
        return
    rng = np.random.default_rng(seed)
    rows = max(1, CHUNK // len(number))
    share = number / number.sum()
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        yield rng.multinomial(number.sum(), share, size=size).astype(np.float64)


def _sums(
    kinds: Kinds, drawn: npt.NDArray[np.generic], groupings: Sequence[Grouping]
) -> list[Floats]:
    """For each grouping (R, G, 16): the counts of each group under (R, U) numbers of each kind."""
    sums = []
    for i, grouping in enumerate(groupings):
        out = np.zeros((len(drawn), len(grouping.groups), kinds.cells.shape[1]))
        for g in range(len(grouping.groups)):
            members = kinds.group[:, i] == g
            out[:, g] = drawn[:, members] @ kinds.cells[members]
        sums.append(out)
    return sums


def _arms(sums: Floats, grouping: Grouping) -> list[Counts]:
    return [
        Counts(grouping.groups, *np.moveaxis(sums[..., 4 * a : 4 * a + 4], -1, 0))
        for a in range(len(ARMS))
    ]
