"""Padded batches of one fixed shape, so that little is compiled and little is padding.

Subjects of all lengths share a batch: an optimiser that sees one length at a time has log-odds of
the end that follow the last few (benches/studies/generator.md). Who is with whom is `dealing`'s;
short records share a row of attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from equipoise.cohort import Cohort
from equipoise.generator.conditions import Conditions
from equipoise.generator.dealing import Deck, deal, first_fit
from equipoise.generator.model import PADDING
from equipoise.generator.sizes import round_up
from equipoise.ragged import Nested, offsets_of, positions

#: Codes to a list. A visit with more has several lists, so that it sizes nobody else's.
_SLOTS: Final = 16

_Ints = npt.NDArray[np.int64]


class Batch(NamedTuple):
    """B subjects of up to T visits: N visits in all, in L lists of C codes; unused at the ends.

    conditions: (B, K). grid: (P, T), which of the N sits where in P rows of attention, `PADDING`
    where none does; visits of one subject are neighbours. place: (N,), which visit of whom each is,
    as b T + t. owner: (L,), which of the N each list is of, `PADDING` if of none. codes: (L, C)
    tokens, `PADDING` in unused slots.
    """

    conditions: npt.NDArray[np.float32]
    grid: npt.NDArray[np.int32]
    place: npt.NDArray[np.int32]
    owner: npt.NDArray[np.int32]
    codes: npt.NDArray[np.int32]


class Shape(NamedTuple):
    """The shape of a batch: rows is B, longest T, visits N, lists L, benches P."""

    rows: int
    longest: int
    visits: int
    lists: int
    benches: int


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


def shape_of(cohort: Cohort, deck: Deck, most: int) -> Shape:
    """What holds every part of every chunk, whoever is dealt where.

    Sizes are rounded up, and `most` stands for the longest record: other subjects of the same
    source then have the same shape, and what was compiled serves them too.
    """
    lengths = np.diff(cohort.visit_offsets)[deck.subjects]
    lists_N = _lists(cohort.nested)
    lists = np.bincount(cohort.subject_of_visit(), lists_N, len(cohort))[deck.subjects]
    # In each place the subject of its group that has most.
    fullest = np.maximum.reduceat(lists, np.flatnonzero(np.diff(deck.group, prepend=-1)))
    cells = deck.cells()
    benches = [first_fit(lengths[cell].tolist(), most)[2] for cell in cells]
    return Shape(
        rows=round_up(max(len(cell) for cell in cells), 4),
        longest=most,
        visits=round_up(max(int(lengths[cell].sum()) for cell in cells), 8),
        lists=round_up(max(int(fullest[deck.group[cell]].sum()) for cell in cells), 4),
        benches=round_up(max(benches), 4),
    )


def batches(
    cohort: Cohort, conditions: Conditions, rows: int, most: int, end: int
) -> Iterator[tuple[_Ints, Batch]]:
    """All subjects once, about `rows` to a batch, as (places in the cohort, batch).

    most: visits of a subject. end: the token that marks the last visit.
    """
    if not len(cohort):
        return
    deck = Deck.of(cohort, rows)
    shape = shape_of(cohort, deck, most)
    nested, condition_SK = cohort.nested, conditions.encode(cohort.subjects)
    for hand in deal(deck):
        chunk = nested.take(hand.subjects)
        yield hand.subjects, pad(chunk, condition_SK[hand.subjects], shape, end)


class Shares(NamedTuple):
    """Of the rows that are computed, the share that is real: visits, and rows of attention."""

    visits: float
    attention: float


def real_shares(cohort: Cohort, rows: int, most: int, parts: int = 1) -> Shares:
    """How little of an epoch is padding, with about `rows` subjects to a step of so many parts."""
    deck = Deck.of(cohort, rows, parts)
    shape = shape_of(cohort, deck, most)
    computed = parts * deck.chunks
    real = len(cohort.visits)
    # A row of attention has the start, and then what precedes each visit.
    seats = computed * shape.benches
    return Shares(real / (computed * shape.visits), (real + seats) / (seats * (shape.longest + 1)))


def pad(nested: Nested, condition_SK: npt.NDArray[np.float32], shape: Shape, end: int) -> Batch:
    """All subjects as one batch of that shape, with the token `end` in each last visit."""
    condition_BK = np.pad(condition_SK, ((0, shape.rows - len(nested)), (0, 0)))

    owner = nested.subject_of_visit()
    visit = np.arange(len(owner)) - nested.visit_offsets[owner]
    bench, seat, _ = first_fit(np.diff(nested.visit_offsets).tolist(), shape.longest)
    grid_PT = np.full((shape.benches, shape.longest), PADDING, np.int32)
    grid_PT[np.array(bench, int)[owner], np.array(seat, int)[owner] + visit] = np.arange(len(owner))
    place_N = np.zeros(shape.visits, np.int32)
    place_N[: len(owner)] = owner * shape.longest + visit

    lists = _lists(nested)
    first = offsets_of(lists)
    owner_L = np.full(shape.lists, PADDING, np.int32)
    owner_L[: first[-1]] = np.repeat(np.arange(len(owner)), lists)
    codes_LC = np.full((shape.lists, _SLOTS), PADDING, np.int32)
    sizes = np.diff(nested.code_offsets)
    of_visit = np.repeat(np.arange(len(owner)), sizes)
    slot = np.arange(len(nested.codes)) - nested.code_offsets[of_visit]
    codes_LC[first[of_visit] + slot // _SLOTS, slot % _SLOTS] = nested.codes
    last = _last(nested)
    codes_LC[first[last] + sizes[last] // _SLOTS, sizes[last] % _SLOTS] = end
    return Batch(condition_BK, grid_PT, place_N, owner_L, codes_LC)


def _last(nested: Nested) -> _Ints:
    """The last visit of each subject that has any."""
    last: _Ints = nested.visit_offsets[1:][np.diff(nested.visit_offsets) > 0] - 1
    return last


def _lists(nested: Nested) -> _Ints:
    """How many lists each visit needs, its end marker included."""
    sizes = np.diff(nested.code_offsets)
    sizes[_last(nested)] += 1
    lists: _Ints = -(-sizes // _SLOTS)
    return lists
