"""The bootstrap over subjects: arms judged in the same resamples, without a loop over them.

Subjects whose every count is the same are interchangeable, and a resample of S subjects is a
multinomial draw over the few kinds of subjects that there are. That is exact, and its cost does not
grow with S.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from equipoise import schema
from equipoise.evaluate.counts import Counts, Floats, places
from equipoise.evaluate.judging import (
    CORRECTED,
    GROUP_TUNED,
    HALF,
    TUNED,
    Grouping,
    cuts_of,
    predict,
)

Ints = npt.NDArray[np.int64]
#: Control (0) and method (1) at each threshold that a gain speaks of.
ARMS: Final = (
    (0, HALF), (0, TUNED), (1, HALF), (1, TUNED),
    (0, GROUP_TUNED), (1, GROUP_TUNED), (1, CORRECTED),
)  # fmt: skip
#: Counts by place in `ARMS`; arms whose columns are missing are not there.
ArmCounts = Mapping[int, Counts]
#: Numbers held at once while resampling.
CHUNK: Final = 4_000_000
#: Beyond this many draws in all, there are fewer resamples, but never fewer than the next.
DRAWS: Final = 50_000_000
FEWEST_RESAMPLES: Final = 200


class Pair(NamedTuple):
    """The same visits as predicted by the control and by a method, in the same order."""

    control: pl.DataFrame
    method: pl.DataFrame


class Kinds(NamedTuple):
    """U kinds of subjects: how many there are of each, their groups, and their counts.

    number (U,); group (U, groupings) places, -1 for none; cells (U, pairs * arms * 4): tp, fp, fn
    and tn of each arm of each pair. arms: places in `ARMS`.
    """

    number: Ints
    group: Ints
    cells: Floats
    arms: tuple[int, ...]


def usable_pairs(pairs: Sequence[Pair]) -> list[Pair]:
    """Pairs of several models on the visits where all arms have a score and a tuned threshold."""
    known = pl.all_horizontal(pl.col("score", "tuned_threshold").is_finite())
    sound = [arm.filter(known) for arm in _arms_of(pairs)]
    common = sound[0].select(_VISIT)
    for arm in sound[1:]:
        common = common.join(arm.select(_VISIT), on=_VISIT, how="semi")
    arms = [arm.join(common, on=_VISIT, how="semi").sort(_VISIT) for arm in sound]
    return [Pair(*arms[place : place + 2]) for place in range(0, len(arms), 2)]


_VISIT: Final = ["fold", schema.SUBJECT_ID, schema.VISIT_ID]


def resampled_counts(
    pairs: Sequence[Pair], groupings: Sequence[Grouping], resamples: int, seed: int
) -> list[list[tuple[ArmCounts, ArmCounts]]]:
    """For each pair and grouping the counts of its arms: as they are (G,), and resampled (R, G).

    The pairs have the same visits and are judged in the same resamples. With very many kinds of
    subjects there are fewer resamples, see `DRAWS`.
    """
    kinds = _kinds(pairs, groupings)
    enough = DRAWS // max(1, len(kinds.number))
    resamples = min(resamples, max(FEWEST_RESAMPLES, enough))
    point = _sums(kinds, kinds.number[None], groupings)
    parts = [_sums(kinds, drawn, groupings) for drawn in _draws(kinds.number, resamples, seed)]
    many = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return [
        [
            (_counts(one[0], p, kinds, grouping), _counts(more, p, kinds, grouping))
            for one, more, grouping in zip(point, many, groupings, strict=True)
        ]
        for p in range(len(pairs))
    ]


def _arms_of(pairs: Sequence[Pair]) -> list[pl.DataFrame]:
    return [arm for pair in pairs for arm in pair]


def _kinds(pairs: Sequence[Pair], groupings: Sequence[Grouping]) -> Kinds:
    visits = pairs[0].control
    truth = visits[schema.LABEL]
    known = [set(cuts_of(arm)) for arm in _arms_of(pairs)]
    arms = [a for a, (_, cut) in enumerate(ARMS) if all(cut in cuts for cuts in known)]
    rows = {schema.SUBJECT_ID: visits[schema.SUBJECT_ID]}
    for i, grouping in enumerate(groupings):
        rows[f"g{i}"] = pl.Series(places(grouping.of(visits), grouping.groups)[1])
    for p, pair in enumerate(pairs):
        for arm, threshold in (ARMS[a] for a in arms):
            flagged = pl.Series(predict(pair[arm], threshold)[0])
            cells = (truth & flagged, ~truth & flagged, truth & ~flagged, ~truth & ~flagged)
            rows |= {f"c{p} {arm} {threshold} {c}": cell for c, cell in enumerate(cells)}
    group, cell = pl.col("^g.*$"), pl.col("^c.*$").cast(pl.Int32)
    subjects = pl.DataFrame(rows).group_by(schema.SUBJECT_ID).agg(group.first(), cell.sum())
    kinds = subjects.drop(schema.SUBJECT_ID)
    kinds = kinds.group_by(pl.all()).agg(pl.len().alias("number")).sort(pl.all())
    return Kinds(
        kinds["number"].to_numpy().astype(np.int64),
        kinds.select("^g.*$").to_numpy(),
        kinds.select("^c.*$").to_numpy().astype(np.float64),
        tuple(arms),
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
    """For each grouping (R, G, cells): each group's counts under (R, U) numbers of each kind."""
    sums = []
    for i, grouping in enumerate(groupings):
        out = np.zeros((len(drawn), len(grouping.groups), kinds.cells.shape[1]))
        for g in range(len(grouping.groups)):
            members = kinds.group[:, i] == g
            out[:, g] = drawn[:, members] @ kinds.cells[members]
        sums.append(out)
    return sums


def _counts(sums: Floats, pair: int, kinds: Kinds, grouping: Grouping) -> ArmCounts:
    """The counts of one of the pairs, out of the sums (..., pairs * arms * 4) of all."""
    first = 4 * len(kinds.arms) * pair
    return {
        arm: Counts(grouping.groups, *np.moveaxis(sums[..., place : place + 4], -1, 0))
        for place, arm in zip(itertools.count(first, 4), kinds.arms, strict=False)
    }
