"""Who is with whom in a step: every chunk has subjects of all lengths and about as many visits.

Lengths are dealt once: the longest record goes first, each to the chunk with fewest visits so far.
An epoch then changes only which of the subjects of one length sits where, so that the largest
chunk is known before any is dealt.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heapreplace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from equipoise.cohort import Cohort

_Ints = npt.NDArray[np.int64]


class Hand(NamedTuple):
    """One step's subjects, as places in the cohort, and to which part of the step each belongs."""

    subjects: _Ints
    part: _Ints


@dataclass(frozen=True)
class Deck:
    """Places for all subjects, those of the longest records first.

    subjects: (S,) places in the cohort. group: (S,) ascending; subjects of one group may change
    places. chunk, part: (S,) the step and the part of it that each place belongs to.
    """

    subjects: _Ints
    group: _Ints
    chunk: _Ints
    part: _Ints
    chunks: int
    parts: int

    @staticmethod
    def of(cohort: Cohort, rows: int, parts: int = 1) -> Deck:
        """About `rows` subjects to a chunk, each dealt on to so many parts."""
        lengths = np.diff(cohort.visit_offsets)
        codes = np.diff(cohort.code_offsets[cohort.visit_offsets])
        subjects = np.lexsort((-codes, -lengths))
        lengths = lengths[subjects]
        chunks = -(-len(subjects) // rows)
        round_ = np.arange(len(subjects)) // chunks
        new = np.diff(lengths, prepend=-1) != 0
        new |= np.diff(round_, prepend=-1) != 0
        chunk = _spread(lengths, chunks)
        part = np.zeros_like(chunk)
        if parts > 1:
            for places in _by(chunk, chunks):
                part[places] = _spread(lengths[places], parts)
        return Deck(subjects, np.cumsum(new) - 1, chunk, part, chunks, parts)

    def cells(self) -> list[_Ints]:
        """The places of each part of each chunk that has any."""
        cells = _by(self.chunk * self.parts + self.part, self.chunks * self.parts)
        return [cell for cell in cells if len(cell)]


def deal(deck: Deck, rng: np.random.Generator | None = None) -> list[Hand]:
    """All subjects once; in random company and order if `rng` is given."""
    subjects = deck.subjects
    if rng is not None:
        subjects = subjects[np.lexsort((rng.random(len(subjects)), deck.group))]
    hands = [Hand(subjects[at], deck.part[at]) for at in _by(deck.chunk, deck.chunks)]
    return hands if rng is None else [hands[place] for place in rng.permutation(len(hands))]


def first_fit(sizes: list[int], room: int) -> tuple[list[int], list[int], int]:
    """For each size the first bench with room for it, and where on it; and how many benches.

    No size is above `room`; largest first, little room is left.
    """
    used: list[int] = []
    benches, seats = [], []
    for size in sizes:
        bench = next((b for b, taken in enumerate(used) if taken + size <= room), len(used))
        if bench == len(used):
            used.append(0)
        benches.append(bench)
        seats.append(used[bench])
        used[bench] += size
    return benches, seats, len(used)


def _spread(sizes: _Ints, bins: int) -> _Ints:
    """To each size, largest first, the bin that has least so far."""
    filled = [(0, bin_) for bin_ in range(bins)]
    chosen = []
    for size in sizes.tolist():
        least, bin_ = filled[0]
        chosen.append(bin_)
        heapreplace(filled, (least + size, bin_))
    return np.array(chosen, np.int64)


def _by(key: _Ints, keys: int) -> list[_Ints]:
    """Where each of the keys stands."""
    order = np.argsort(key, kind="stable")
    return np.split(order, np.cumsum(np.bincount(key, minlength=keys))[:-1])
