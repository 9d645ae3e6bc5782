"""Ragged arrays: `offsets` (rows + 1, int64) into flat `values`, in memory and on disk.

pyarrow is imported where files are written or read: extraction alone starts sooner without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from equipoise.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

Offsets = npt.NDArray[np.int64]
Columns = npt.NDArray[np.int32]


def offsets_of(lengths: npt.NDArray[np.integer]) -> Offsets:
    """Offsets (rows + 1) of rows with these lengths."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def positions(offsets: Offsets, rows: npt.NDArray[np.integer]) -> tuple[Offsets, Offsets]:
    """The (new offsets, places in the flat values) of `rows`, in that order; rows may repeat."""
    lengths = (offsets[1:] - offsets[:-1])[rows]
    taken = offsets_of(lengths)
    shift = np.repeat(offsets[:-1][rows] - taken[:-1], lengths)
    return taken, np.arange(taken[-1], dtype=np.int64) + shift


@dataclass(frozen=True, eq=False)
class Nested:
    """S subjects' N visits' K codes as in `Cohort`, without who they are: quick to take from.

    visit_offsets: (S + 1,), code_offsets: (N + 1,), codes: (K,).
    """

    visit_offsets: Offsets
    code_offsets: Offsets
    codes: Columns

    def __len__(self) -> int:
        return len(self.visit_offsets) - 1

    def take(self, subjects: npt.NDArray[np.integer]) -> Nested:
        """The subjects at these places, in this order."""
        visit_offsets, visits = positions(self.visit_offsets, subjects)
        code_offsets, codes = positions(self.code_offsets, visits)
        return Nested(visit_offsets, code_offsets, self.codes[codes])

    def subject_of_visit(self) -> npt.NDArray[np.int64]:
        """(N,) the place of each visit's subject."""
        return np.repeat(np.arange(len(self), dtype=np.int64), np.diff(self.visit_offsets))


def joined(parts: list[Offsets]) -> Offsets:
    """Offsets of the rows of all parts, one after the other."""
    return offsets_of(np.concatenate([np.diff(part) for part in parts]))


def write_arrays(path: Path, arrays: Mapping[str, pa.Array]) -> None:
    """Write Arrow arrays of any lengths as one single-row struct each, uncompressed for mapping."""
    import pyarrow as pa

    rows = {
        name: pa.LargeListArray.from_arrays(pa.array([0, len(array)], pa.int64()), array)
        for name, array in arrays.items()
    }
    batch = pa.record_batch(rows)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def read_arrays(path: Path, types: Mapping[str, str]) -> dict[str, pa.Array]:
    """Memory-map what `write_arrays` wrote: arrays of these Arrow types by name.

    Raises `DataError` if it is damaged, or holds others.
    """
    import pyarrow as pa

    try:
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        # Offsets that run backwards or beyond the end would be followed there.
        batch.validate(full=True)
        arrays = {name: batch.column(name).values for name in batch.schema.names}
        found = {name: str(array.type) for name, array in arrays.items()}
    # `ArrowInvalid` is a `ValueError`, and one bit makes a type that Arrow has not built.
    except (OSError, ValueError, NotImplementedError, AttributeError) as error:
        raise DataError(table=str(path), want="an Arrow file", got=str(error)) from None
    if found != types:
        raise DataError(table=str(path), want=str(dict(types)), got=str(found))
    return arrays


def check_offsets(table: str, column: str, offsets: Offsets, rows: int, values: int) -> None:
    """Raise `DataError` unless these are offsets of so many rows into so many values."""
    if len(offsets) == rows + 1 and offsets[0] == 0 and offsets[-1] == values:
        return
    got = f"{len(offsets)} up to {offsets[-1] if len(offsets) else 'none'}"
    want = f"{rows + 1} offsets from 0 to {values}"
    raise DataError(table=table, column=column, want=want, got=got)


def check_numbers(path: Path, numbers: Columns, below: int, what: str) -> None:
    """Raise `DataError` for one that is none of `what`: what it indexes ends there."""
    low, high = (numbers.min(), numbers.max()) if len(numbers) else (0, -1)
    if low < 0 or high >= below:
        raise DataError(table=str(path), want=f"{what}, below {below}", got=f"{low} to {high}")
