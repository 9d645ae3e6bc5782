"""Padded batches of a few fixed shapes, so that little is compiled and little is padding."""

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
from equipoise.ragged import offsets_of, positions

#: A shape costs seconds to compile, so it must have this many batches to be worth it.
_FEW: Final = 8

_Ints = npt.NDArray[np.int64]


class Batch(NamedTuple):
    """B subjects: conditions (B, K), lists of tokens (B, T, C) and numbers of visits (B,).

    The unused rows at the end have 0 visits, unused visits no tokens, unused slots `PADDING`.
    """

    conditions: npt.NDArray[np.float32]
    codes: npt.NDArray[np.int32]
    visits: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Bucket:
    """Subjects (places in the cohort) that share the padded shape (visits, codes)."""

    subjects: _Ints
    visits: int
    codes: int


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


def bucket(cohort: Cohort, rows: int) -> list[Bucket]:
    """Subjects by number of visits, halved from the most; too few for a shape join the next.

    `rows` is the number of subjects in a batch. A visit with very many codes would size every
    batch, so the one subject in a hundred with the longest lists has a bucket apart if the others'
    lists are less than half as long.
    """
    lengths = np.diff(cohort.visit_offsets)
    longest = np.zeros(len(cohort), np.int64)
    owner = cohort.subject_of_visit()
    np.maximum.at(longest, owner, np.diff(cohort.code_offsets))
    usual = int(np.quantile(longest, 0.99, method="higher")) if len(cohort) else 0
    outlier = (longest > usual) & (longest.max(initial=0) > 2 * usual)

    buckets = []
    waiting = np.empty(0, np.int64)
    for low, high in _halving(int(lengths.max(initial=0))):
        inside = np.flatnonzero((lengths > low) & (lengths <= high) & ~outlier)
        waiting = np.concatenate([waiting, inside])
        last = high >= lengths.max()
        if len(waiting) >= _FEW * rows or (last and len(waiting)):
            buckets.append(_bucket(waiting, high, longest))
            waiting = np.empty(0, np.int64)
    if outlier.any():
        apart = np.flatnonzero(outlier)
        buckets.append(_bucket(apart, int(lengths[apart].max()), longest))
    return buckets


def batches(
    cohort: Cohort,
    conditions: Conditions,
    buckets: list[Bucket],
    rows: int,
    rng: np.random.Generator | None = None,
) -> Iterator[tuple[_Ints, Batch]]:
    """All subjects once, as (places in the cohort, batch); in random order if `rng` is given."""
    chunks = []
    for shape in buckets:
        subjects = shape.subjects if rng is None else rng.permutation(shape.subjects)
        chunks += [(subjects[at : at + rows], shape) for at in range(0, len(subjects), rows)]
    for place in range(len(chunks)) if rng is None else rng.permutation(len(chunks)):
        subjects, shape = chunks[place]
        yield subjects, pad(cohort.take(subjects), conditions, rows, shape)


def pad(cohort: Cohort, conditions: Conditions, rows: int, shape: Bucket) -> Batch:
    """A whole cohort as one batch of `rows` subjects, with the end marker in each last visit."""
    condition_BK = np.zeros((rows, len(conditions)), np.float32)
    condition_BK[: len(cohort)] = conditions.encode(cohort.subjects)
    visits_B = np.zeros(rows, np.int32)
    visits_B[: len(cohort)] = np.diff(cohort.visit_offsets)

    owner = cohort.subject_of_visit()
    visit = np.arange(len(owner)) - cohort.visit_offsets[owner]
    sizes = np.diff(cohort.code_offsets)
    code_visit = np.repeat(np.arange(len(owner)), sizes)
    slot = np.arange(len(cohort.codes)) - cohort.code_offsets[code_visit]
    codes_BTC = np.full((rows, shape.visits, shape.codes), PADDING, np.int32)
    codes_BTC[owner[code_visit], visit[code_visit], slot] = cohort.codes
    last = cohort.visit_offsets[1:][np.diff(cohort.visit_offsets) > 0] - 1
    codes_BTC[owner[last], visit[last], sizes[last]] = len(cohort.vocabulary)
    return Batch(condition_BK, codes_BTC, visits_B)


def _bucket(subjects: _Ints, visits: int, longest: _Ints) -> Bucket:
    most = int(longest[subjects].max()) + 1
    return Bucket(subjects, visits, -(-most // 8) * 8)


def _halving(most: int) -> list[tuple[int, int]]:
    """(above, up to): powers of two below `most`, counted from the top."""
    tops = [most >> power for power in reversed(range(most.bit_length()))]
    return list(pairwise([0, *tops]))
