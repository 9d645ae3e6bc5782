"""From the bits of visits, in the order in which lanes end them, to whole runs of records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from equipoise.generator.lanes import WORD, Visits
from equipoise.ragged import Nested, offsets_of, positions


def no_records() -> Nested:
    """Those of nobody."""
    return Nested(np.zeros(1, np.int64), np.zeros(1, np.int64), np.empty(0, np.int32))


class _Drawn(NamedTuple):
    """N visits: the subject's number, the visit's, if it is the last, how many codes; codes."""

    number: npt.NDArray[np.int64]
    visit: npt.NDArray[np.int64]
    ended: npt.NDArray[np.bool_]
    sizes: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int32]


@dataclass(eq=False)
class Gathering:
    """Takes visits in any order and hands out runs of `size` subjects, each once it is whole.

    The last run of `numbers` may be shorter. Only runs that are not whole yet are kept.
    """

    numbers: range
    size: int
    tokens: int
    finished: Callable[[range, Nested], None]
    _parts: dict[int, list[_Drawn]] = field(default_factory=lambda: defaultdict(list))
    _ended: dict[int, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, visits: Visits) -> None:
        """The visits of one call; calls `finished` with whatever run they complete."""
        drawn = decode(visits, self.tokens)
        run = (drawn.number - self.numbers.start) // self.size
        for place in np.unique(run):
            part = _select(drawn, run == place)
            self._parts[place].append(part)
            self._ended[place] += int(part.ended.sum())
            first = self.numbers.start + int(place) * self.size
            numbers = range(first, min(first + self.size, self.numbers.stop))
            if self._ended[place] == len(numbers):
                del self._ended[place]
                self.finished(numbers, _assemble(numbers, self._parts.pop(place)))


def decode(visits: Visits, tokens: int) -> _Drawn:
    """The visits that are any, with their codes below `tokens`, ascending.

    Most words of a visit are 0, so bits are only unpacked from the others.
    """
    active = np.asarray(visits.active)
    words = np.asarray(visits.bits)[active].view(np.uint64)
    row, word = np.nonzero(words)
    bits = np.unpackbits(words[row, word].view(np.uint8).reshape(-1, WORD // 8), axis=1)
    place, bit = np.divmod(np.flatnonzero(bits.view(bool)), WORD)
    codes = word[place] * WORD + bit
    inside = codes < tokens
    return _Drawn(
        np.asarray(visits.number)[active].astype(np.int64),
        np.asarray(visits.visit)[active].astype(np.int64),
        np.asarray(visits.ended)[active],
        np.bincount(row[place[inside]], minlength=len(words)),
        codes[inside].astype(np.int32),
    )


def _select(drawn: _Drawn, keep: npt.NDArray[np.bool_]) -> _Drawn:
    if keep.all():
        return drawn
    number, visit, ended, sizes, codes = drawn
    codes = codes[np.repeat(keep, sizes)]
    return _Drawn(number[keep], visit[keep], ended[keep], sizes[keep], codes)


def _assemble(numbers: range, parts: list[_Drawn]) -> Nested:
    number, visit, _, sizes, codes = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.lexsort((visit, number))
    code_offsets, places = positions(offsets_of(sizes), order)
    visit_offsets = offsets_of(np.bincount(number - numbers.start, minlength=len(numbers)))
    return Nested(visit_offsets, code_offsets, codes[places])
