"""Tables written piece by piece, as csv, as one gzip stream, or as Parquet.

The same rows give the same bytes however they are cut into pieces.
"""

from __future__ import annotations

import threading
import zlib
from io import BytesIO
from pathlib import Path
from queue import Queue
from typing import Any, BinaryIO, Final, Literal, Protocol

import polars as pl
import polars.selectors as cs
import pyarrow as pa
import pyarrow.parquet as pq

FileFormat = Literal["csv.gz", "csv", "parquet"]
GZIP_LEVEL: Final = 5
GZIP_WINDOW: Final = 31
ROWS_PER_GROUP: Final = 1_000_000


class TableFile(Protocol):
    """A table that grows."""

    def write(self, frame: pl.DataFrame) -> None:
        """Append the rows of `frame`; every piece has the same columns."""

    def close(self) -> None:
        """Finish the file. Call it whether or not the writing succeeded."""


def open_table(folder: Path, name: str, file_format: FileFormat) -> TableFile:
    """A new table called `name` in `folder`."""
    path = folder / f"{name}.{file_format}"
    if file_format == "parquet":
        return _Parquet(path)
    return _Text(path, compress=file_format == "csv.gz")


class _Text:
    """Formats on the caller's thread; compresses and writes on another, a few pieces behind."""

    def __init__(self, path: Path, *, compress: bool) -> None:
        self._file: BinaryIO = path.open("wb")
        self._compressor = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP_WINDOW)
        self._compress = compress
        self._headed = False
        self._failure: BaseException | None = None
        self._pieces: Queue[bytes | memoryview | None] = Queue(maxsize=2)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def write(self, frame: pl.DataFrame) -> None:
        text = BytesIO()
        # As MIMIC-IV writes them: 139 rather than 139.0, and no microseconds.
        frame.with_columns(cs.float().cast(pl.String).str.strip_suffix(".0")).write_csv(
            text, include_header=not self._headed, datetime_format="%Y-%m-%d %H:%M:%S"
        )
        self._headed = True
        self._put(text.getbuffer())

    def close(self) -> None:
        self._pieces.put(None)
        self._thread.join()
        with self._file:
            if self._failure is None and self._compress:
                self._file.write(self._compressor.flush())
        if self._failure is not None:
            raise self._failure

    def _put(self, piece: memoryview) -> None:
        if self._failure is not None:
            raise self._failure
        self._pieces.put(piece)

    def _work(self) -> None:
        while (piece := self._pieces.get()) is not None:
            if self._failure is not None:
                continue
            try:
                self._file.write(self._compressor.compress(piece) if self._compress else piece)
            except BaseException as failure:
                self._failure = failure


class _Parquet:
    """Row groups of one size, whatever the size of the pieces."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: Any = None
        self._waiting: list[pl.DataFrame] = []

    def write(self, frame: pl.DataFrame) -> None:
        self._waiting.append(frame)
        while sum(part.height for part in self._waiting) >= ROWS_PER_GROUP:
            frame = pl.concat(self._waiting)
            self._group(frame[:ROWS_PER_GROUP])
            self._waiting = [frame[ROWS_PER_GROUP:]]

    def close(self) -> None:
        if self._waiting:
            rest = pl.concat(self._waiting)
            if rest.height or self._writer is None:
                self._group(rest)
        if self._writer is not None:
            self._writer.close()

    def _group(self, frame: pl.DataFrame) -> None:
        table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        fields = [
            pa.field(field.name, pa.string() if field.type == pa.large_string() else field.type)
            for field in table.schema
        ]
        # Pages end where chunks do; one chunk, whatever pieces the rows came in.
        table = table.cast(pa.schema(fields)).combine_chunks()
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table, row_group_size=ROWS_PER_GROUP)
