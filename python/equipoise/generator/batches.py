"""Padded batches of a few fixed shapes, so that little is compiled and little is padding.

The subjects of a bucket are dealt like cards, longest first: each batch gets one of every k that
have about as many visits. All batches are then about as full, and a bound on the fullest is known
before any is dealt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from equipoise.cohort import Cohort
from equipoise.generator.conditions import Conditions
from equipoise.generator.model import PADDING
from equipoise.generator.sizes import round_up
from equipoise.ragged import offsets_of, positions

#: A shape costs seconds to compile, so it must have this many batches to be worth it.
_FEW: Final = 8
#: Codes to a list. A visit with more has several lists, so that it sizes nobody else's.
_SLOTS: Final = 16

_Ints = npt.NDArray[np.int64]


class Batch(NamedTuple):
    """B subjects of up to T visits: N visits in all, in L lists of C codes; unused at the ends.

    conditions: (B, K). grid: (B, T), which of the N each visit is, `PADDING` where there is none.
    place: (N,), the inverse, as b T + t. owner: (L,), which of the N each list is of, `PADDING` if
    of none. codes: (L, C) tokens, `PADDING` in unused slots.
    """

    conditions: npt.NDArray[np.float32]
    grid: npt.NDArray[np.int32]
    place: npt.NDArray[np.int32]
    owner: npt.NDArray[np.int32]
    codes: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Bucket:
    """Subjects (places in the cohort) whose batches have one shape.

    subjects: most visits first. full: most subjects of a chunk, which `batches` deals out.
    rows: B. longest: T. visits: N. lists: L.
    """

    subjects: _Ints
    full: int
    rows: int
    longest: int
    visits: int
    lists: int


#: Subjects of one step, as places in the cohort, and the shape of their batches.
Chunk = tuple[_Ints, Bucket]


def last_visits(cohort: Cohort, most: int) -> Cohort:
    """The cohort with only the last `most` visits of every subject."""
    lengths = np.minimum(np.diff(cohort.visit_offsets), most)
    visit_offsets = offsets_of(lengths)
    skipped = np.repeat(cohort.visit_offsets[1:] - visit_offsets[1:], lengths)
    visits = np.arange(visit_offsets[-1]) + skipped
    code_offsets, codes = positions(cohort.code_offsets, visits)
    return replace(
        cohort,
        visits=cohort.visits[visits],
        visit_offsets=visit_offsets,
        code_offsets=code_offsets,
        codes=cohort.codes[codes],
    )


def bucket(cohort: Cohort, rows: int, most: int, parts: int = 1) -> list[Bucket]:
    """Subjects by number of visits, halved from `most`; too few for a shape join the next.

    `rows` is the most subjects in a chunk, of which each of `parts` batches holds its share.
    `most`, not the cohort's own longest record, is halved: other subjects of the same source then
    have the same shapes.
    """
    lengths = np.diff(cohort.visit_offsets)
    lists = np.bincount(cohort.subject_of_visit(), _lists(cohort), len(cohort)).astype(np.int64)
    order = np.lexsort((-lists, -lengths))
    buckets = []
    waiting = np.zeros(len(cohort), bool)
    for low, high in _halving(most):
        waiting |= (lengths > low) & (lengths <= high)
        count = int(waiting.sum())
        if count >= _FEW * rows or (high == most and count):
            buckets.append(_bucket(order[waiting[order]], rows, high, parts, lengths, lists))
            waiting[:] = False
    return buckets


def deal(buckets: list[Bucket], rng: np.random.Generator | None = None) -> list[Chunk]:
    """All subjects once, in chunks; in random company and order if `rng` is given."""
    chunks = []
    for shape in buckets:
        hands = -(-len(shape.subjects) // shape.full)
        dealt = np.full((shape.full, hands), -1)
        dealt.flat[: len(shape.subjects)] = shape.subjects
        if rng is not None:
            dealt = rng.permuted(dealt, axis=1)
        chunks += [(hand[hand >= 0], shape) for hand in dealt.T]
    return chunks if rng is None else [chunks[place] for place in rng.permutation(len(chunks))]


def batches(
    cohort: Cohort, conditions: Conditions, buckets: list[Bucket], end: int
) -> Iterator[tuple[_Ints, Batch]]:
    """The chunks of `deal`, as (places in the cohort, batch); `end` marks the last visit."""
    for subjects, shape in deal(buckets):
        chunk = cohort.take(subjects)
        yield subjects, pad(chunk, conditions.encode(chunk.subjects), shape, end)


class Shares(NamedTuple):
    """Of the rows that are computed, the share that is real: visits, and rows of attention."""

    visits: float
    attention: float


def real_shares(cohort: Cohort, buckets: list[Bucket], parts: int = 1) -> Shares:
    """How little of an epoch is padding."""
    visits = attention = 0
    for shape in buckets:
        computed = parts * -(-len(shape.subjects) // shape.full)
        visits += computed * shape.visits
        attention += computed * shape.rows * (shape.longest + 1)
    # A subject's rows are the start, its condition and all visits but the last.
    real = len(cohort.visits)
    return Shares(real / visits, (real + len(cohort)) / attention)


def pad(cohort: Cohort, condition_SK: npt.NDArray[np.float32], shape: Bucket, end: int) -> Batch:
    """A whole cohort as one batch of that shape, with the token `end` in each last visit."""
    condition_BK = np.pad(condition_SK, ((0, shape.rows - len(cohort)), (0, 0)))

    owner = cohort.subject_of_visit()
    visit = np.arange(len(owner)) - cohort.visit_offsets[owner]
    grid_BT = np.full((shape.rows, shape.longest), PADDING, np.int32)
    grid_BT[owner, visit] = np.arange(len(owner))
    place_N = np.zeros(shape.visits, np.int32)
    place_N[: len(owner)] = owner * shape.longest + visit

    lists = _lists(cohort)
    first = offsets_of(lists)
    owner_L = np.full(shape.lists, PADDING, np.int32)
    owner_L[: first[-1]] = np.repeat(np.arange(len(owner)), lists)
    codes_LC = np.full((shape.lists, _SLOTS), PADDING, np.int32)
    sizes = np.diff(cohort.code_offsets)
    of_visit = np.repeat(np.arange(len(owner)), sizes)
    slot = np.arange(len(cohort.codes)) - cohort.code_offsets[of_visit]
    codes_LC[first[of_visit] + slot // _SLOTS, slot % _SLOTS] = cohort.codes
    last = _last(cohort)
    codes_LC[first[last] + sizes[last] // _SLOTS, sizes[last] % _SLOTS] = end
    return Batch(condition_BK, grid_BT, place_N, owner_L, codes_LC)


def _bucket(
    subjects: _Ints, rows: int, longest: int, parts: int, lengths: _Ints, lists: _Ints
) -> Bucket:
    # As many chunks as there must be, all about as full: one of 64 and one of 6 would cost the
    # same, and teach less evenly.
    hands = -(-len(subjects) // rows)
    full = -(-len(subjects) // hands)
    share = -(-full // parts)
    padded = min(-(-rows // parts), round_up(max(share, 16), 2))
    visits = round_up(_fullest(lengths[subjects], hands, parts), 8)
    padded_lists = round_up(max(8 * padded, _fullest(lists[subjects], hands, parts)), 2)
    return Bucket(subjects, full, padded, longest, min(padded * longest, visits), padded_lists)


def _fullest(sizes: _Ints, hands: int, parts: int) -> int:
    """No batch can hold more: it has one subject of each `hands`, and every so many of those."""
    largest = np.maximum.reduceat(sizes, np.arange(0, len(sizes), hands))
    return max(int(largest[part::parts].sum()) for part in range(parts))


def _last(cohort: Cohort) -> _Ints:
    """The last visit of each subject that has any."""
    last: _Ints = cohort.visit_offsets[1:][np.diff(cohort.visit_offsets) > 0] - 1
    return last


def _lists(cohort: Cohort) -> _Ints:
    """How many lists each visit needs, its end marker included."""
    sizes = np.diff(cohort.code_offsets)
    sizes[_last(cohort)] += 1
    lists: _Ints = -(-sizes // _SLOTS)
    return lists


def _halving(most: int) -> list[tuple[int, int]]:
    """(above, up to): powers of two below `most`, counted from the top."""
    tops = [most >> power for power in reversed(range(most.bit_length()))]
    return list(pairwise([0, *tops]))
