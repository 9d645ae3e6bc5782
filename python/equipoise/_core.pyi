"""Stubs of the compiled module; `make lint` holds them to it with mypy.stubtest."""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "block_sample",
    "counts",
    "deciles",
    "encode",
    "find_row",
    "halo_sample",
    "instructions",
    "read_codes",
    "read_table",
    "read_values",
    "row_number",
]

_Ledger = list[tuple[str, int]]
_Named = tuple[list[str], _Ledger]
_Offsets = npt.NDArray[np.int64]
_Numbers = npt.NDArray[np.int32]
_Floats = npt.NDArray[np.float64]
# What `equipoise.sources.placing.Placing` says; moments in microseconds.
_Placing = Mapping[str, Any]
# Files, or the name of an Arrow stream and whatever has `__arrow_c_stream__`.
_Events = Sequence[str | PathLike[str]] | tuple[str, Any]
_Progress = Callable[[int, int], object]

def read_table(
    files: Sequence[str | PathLike[str]],
    columns: Sequence[tuple[str, str]],
    *,
    threads: int = 1,
    block: int = 1048576,
    progress: _Progress | None = None,
) -> Any: ...
def read_codes(
    events: _Events,
    columns: Sequence[str | None],
    visits: npt.NDArray[np.int64],
    *,
    left_out: npt.NDArray[np.int64] | None = None,
    placing: _Placing | None = None,
    threads: int = 1,
    block: int = 1048576,
    progress: _Progress | None = None,
) -> tuple[_Offsets, _Numbers, _Named]: ...
def read_values(
    events: _Events,
    columns: Sequence[str | None],
    visits: npt.NDArray[np.int64],
    *,
    left_out: npt.NDArray[np.int64] | None = None,
    known: npt.NDArray[np.int64] | None = None,
    placing: _Placing | None = None,
    threads: int = 1,
    block: int = 1048576,
    progress: _Progress | None = None,
) -> tuple[_Offsets, _Numbers, _Floats, _Named]: ...
def find_row(
    files: Sequence[str | PathLike[str]],
    columns: Sequence[str | None],
    visits: npt.NDArray[np.int64],
    outcome: str,
    *,
    values: bool,
    left_out: npt.NDArray[np.int64] | None = None,
    placing: _Placing | None = None,
    threads: int = 1,
    block: int = 1048576,
) -> None: ...
def row_number(file: str | PathLike[str], place: int) -> int | None: ...
def counts(numbers: _Numbers, known: int) -> npt.NDArray[np.uint64]: ...
def deciles(
    labs: _Numbers,
    values: _Floats,
    slots: _Numbers,
    sizes: npt.NDArray[np.uint64],
    *,
    threads: int = 1,
) -> tuple[_Floats, npt.NDArray[np.bool_]]: ...
def encode(
    codes: tuple[_Offsets, _Numbers, _Numbers],
    labs: tuple[_Offsets, _Numbers, _Floats, _Numbers],
    cuts: _Floats,
    bin_columns: npt.NDArray[np.int32],
    *,
    threads: int = 1,
) -> tuple[_Offsets, _Numbers]: ...
def block_sample() -> object: ...
def halo_sample() -> object: ...
def instructions() -> str: ...
