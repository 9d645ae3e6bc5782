"""The folder of a sampling job: what the job is, and the shards that are done.

A shard is an Arrow file of the visits of some subjects; its name holds its number and the digest of
its bytes, so that one rename makes it both present and checkable. Whoever works on the same job
would write the same bytes, so that nothing needs a lock.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from equipoise import store
from equipoise.errors import DataError, UsageError
from equipoise.ragged import Nested

if TYPE_CHECKING:
    import pyarrow as pa

JOB: Final = "job.json"
_SHARD: Final = re.compile(r"shard-(\d{6,})\.([0-9a-f]{32})\.arrow")
_DRAFT: Final = re.compile(r"\.(job\.json|shard-.+\.arrow)\.[0-9a-f]{8}\.new")


@dataclass(frozen=True)
class Shards:
    """The shards of one job in its folder. `job` is everything that their bytes depend on."""

    folder: Path
    job: Mapping[str, Any]

    @staticmethod
    def open(folder: Path, job: Mapping[str, Any], *, resume: bool) -> Shards:
        """Begin a job, or go on with it.

        Raises `UsageError` if the folder holds one and `resume` is false, or holds another, or what
        is no job's.
        """
        path = folder / JOB
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            others = [found.name for found in folder.iterdir() if not _is_ours(found)]
            if others:
                raise UsageError(
                    f"{folder} is where the job would be, and holds {min(others)}, which is none "
                    "of it; move it, or choose another --out"
                )
            text = json.dumps(job, indent=2, sort_keys=True, default=store.plain)
            _write_whole(path, text.encode())
        elif not resume:
            raise UsageError(
                f"{folder} holds an unfinished job; --resume goes on with it, --force starts anew"
            )
        shards = Shards(folder, job)
        shards._refuse_another(store.read_json(path))
        return shards

    def done(self) -> dict[int, Path]:
        """The shards that are there, by number; raises `DataError` if there are two of one."""
        found: dict[int, Path] = {}
        for path in sorted(self.folder.iterdir()):
            match = _SHARD.fullmatch(path.name)
            if match is None:
                continue
            if int(match[1]) in found:
                raise DataError(
                    table=str(self.folder),
                    want=f"one shard {int(match[1])}",
                    got=f"{found[int(match[1])].name} and {path.name}",
                    hint="Machines of one job must have the same devices and versions: delete both",
                )
            found[int(match[1])] = path
        return found

    def write(self, number: int, records: Nested) -> None:
        """Write a shard; it is there as a whole or not at all. Raises `OSError` that names it."""
        import pyarrow as pa

        lists = pa.LargeListArray.from_arrays(records.code_offsets, pa.array(records.codes))
        lists = pa.LargeListArray.from_arrays(records.visit_offsets, lists)
        about = {"job": self._digest, "number": str(number)}
        batch = pa.record_batch({"codes": lists}).replace_schema_metadata(about)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
        data = sink.getvalue()
        digest = hashlib.sha256(data).hexdigest()[:32]
        _write_whole(self.folder / f"shard-{number:06}.{digest}.arrow", data)

    def read(self, path: Path) -> Nested:
        """A shard; raises `DataError` unless its bytes are those written for it in this job."""
        import pyarrow as pa

        data = path.read_bytes()
        match = _SHARD.fullmatch(path.name)
        if match is None or hashlib.sha256(data).hexdigest()[:32] != match[2]:
            raise _damaged(path, "the bytes that its name promises", "others")
        batch = pa.ipc.open_file(pa.BufferReader(data)).get_batch(0)
        about = batch.schema.metadata or {}
        job, number = (about.get(name, b"none").decode() for name in (b"job", b"number"))
        if job != self._digest:
            raise _damaged(path, f"a shard of job {self._digest}", f"one of {job}")
        if number != str(int(match[1])):
            raise _damaged(path, f"shard {int(match[1])}", f"shard {number}")
        return _records(batch.column("codes"))

    @staticmethod
    def remove(folder: Path) -> None:
        """Delete the job in a folder, and the folder if nothing else is in it."""
        with suppress(OSError):
            # The job last: shards without it would be taken for those of the next.
            ours = filter(_is_ours, folder.iterdir())
            for path in sorted(ours, key=lambda path: path.name == JOB):
                path.unlink()
            folder.rmdir()

    @property
    def _digest(self) -> str:
        text = json.dumps(self.job, sort_keys=True, default=store.plain)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _refuse_another(self, found: Mapping[str, Any]) -> None:
        for name in sorted(self.job.keys() | found.keys()):
            if found.get(name) != self.job.get(name):
                raise UsageError(
                    f"{self.folder} holds another job, whose {name} is {found.get(name)} and not "
                    f"{self.job.get(name)}; --force starts anew"
                )


def _is_ours(path: Path) -> bool:
    return path.name == JOB or any(form.fullmatch(path.name) for form in (_SHARD, _DRAFT))


def _records(codes: pa.LargeListArray) -> Nested:
    visits = codes.values
    return Nested(
        codes.offsets.to_numpy(),
        visits.offsets.to_numpy(),
        np.asarray(visits.values.to_numpy(), np.int32),
    )


def _damaged(path: Path, want: str, got: str) -> DataError:
    hint = "Delete it and call again with --resume"
    return DataError(table=str(path), want=want, got=got, hint=hint)


def _write_whole(path: Path, data: Any) -> None:
    """Write a file that is whole, and on the disk, as soon as it has its name."""
    new = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.new")
    try:
        with new.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise OSError(f"while writing {path}: {error}") from error


def _sync_folder(folder: Path) -> None:
    """Make renames in a folder last, where a system knows how."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
