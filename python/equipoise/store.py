"""Folders that are either finished or absent.

A folder is written beside its final place and renamed into it in one step, so that whatever is
found under the final name is whole. What a killed run leaves is a hidden draft beside it, which the
next run that writes under the same name removes. `manifest.json` says what made the folder; it
holds no time of day, so that the same input and seed give the same bytes.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from equipoise.errors import DataError, UsageError

if sys.platform != "win32":
    import fcntl

MANIFEST: Final = "manifest.json"
DRAFT: Final = "unfinished"
REPLACED: Final = "replaced"
WORK: Final = "work"


@contextmanager
def writing(
    out: Path | str,
    kind: str,
    *,
    force: bool = False,
    seed: int | None = None,
    config: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
    sealed: bool = False,
) -> Iterator[Path]:
    """Yield an empty folder to write into; on leaving, add the manifest and move it to `out`.

    Nothing is left behind when the body raises. Raises `UsageError` if `out` exists, unless
    `force`, and `OSError` that names `out` if it cannot be written. `inputs` maps each input's name
    to its digest (see `digest`). `sealed` adds the digest of every file, for `check_seal`.
    """
    out = Path(out)
    check_free(out, force)
    out.parent.mkdir(parents=True, exist_ok=True)
    _sweep(out, DRAFT)
    with _draft_of(out) as draft:
        yield draft
        manifest: dict[str, Any] = {
            "kind": kind,
            "equipoise": version("equipoise"),
            "seed": seed,
            "config": dict(config or {}),
            "inputs": dict(inputs or {}),
        }
        if sealed:
            manifest["files"] = digest(sorted(draft.iterdir()))
            manifest["seal"] = _seal(manifest)
        write_json(draft / MANIFEST, manifest)
        check_free(out, force)  # Another run may have been faster.
        _replace(draft, out)


@contextmanager
def _draft_of(out: Path) -> Iterator[Path]:
    """A new folder beside `out`, locked by this process, and removed when the body raises."""
    new = _beside(out, "new")
    new.mkdir()
    with _locked(new):
        # Under the name that is swept only once it is locked; the lock goes with the folder.
        draft = new.rename(_beside(out, DRAFT))
        try:
            yield draft
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise OSError(f"while writing {out}: {error}") from error
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise


def _beside(out: Path, suffix: str) -> Path:
    return out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}.{suffix}"


def _sweep(out: Path, suffix: str) -> None:
    """Remove what runs that were killed left beside `out`; what a living run works on is locked."""
    if sys.platform == "win32":
        return  # Without locks the living cannot be told from the dead.
    for left in out.parent.glob(f".{glob.escape(out.name)}.{'[0-9a-f]' * 8}.{suffix}"):
        with suppress(OSError), _locked(left):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold `folder` until the body ends or the process dies; raises `OSError` if another does."""
    if sys.platform == "win32":
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


@contextmanager
def resuming(out: Path | str, resume: bool, *, pieces: bool = False) -> Iterator[Path]:
    """Yield the hidden folder beside `out` where a long work keeps what it has done so far.

    It goes when the body ends or finds the data bad, and stays when it is stopped or dies; without
    `resume`, what an earlier run left is removed first. `pieces`: what is kept is whole in itself,
    and stays whatever goes wrong. Raises `UsageError` if a living run works there.
    """
    work = work_of(out)
    work.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(_locked(work))
        except BlockingIOError:
            raise UsageError(f"another run is at work on {out}") from None
        if not resume:
            _empty(work)
        try:
            yield work
        except BaseException as error:
            of_no_use = isinstance(error, DataError) and not pieces
            if of_no_use or not any(work.iterdir()):
                shutil.rmtree(work)
            raise
        shutil.rmtree(work)


def work_of(out: Path | str) -> Path:
    """The folder that `resuming` yields."""
    return Path(out).parent / f".{Path(out).name}.{WORK}"


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def check_free(out: Path | str, force: bool) -> None:
    """Raise `UsageError` if `out` already exists and may not be replaced."""
    out = Path(out)
    if not out.exists():
        return
    if not force:
        raise UsageError(f"{out} exists already; choose another name or pass --force to replace it")
    if not _is_ours(out):
        raise UsageError(f"{out} was not written by equipoise, so --force will not remove it")


def _is_ours(out: Path) -> bool:
    """Whether `out` is an empty folder, or one with a manifest as `writing` leaves it."""
    if not out.is_dir():
        return False
    if not any(out.iterdir()):
        return True
    try:
        return {"kind", "equipoise", "config", "inputs"} <= read_json(out / MANIFEST).keys()
    except DataError:
        return False


def read_manifest(folder: Path | str, kind: str | None = None) -> dict[str, Any]:
    """The manifest of a finished folder; raises `DataError` if there is none or of another kind."""
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        got = "a folder without one" if folder.is_dir() else "nothing there"
        raise DataError(table=str(folder), want=f"a finished folder with {MANIFEST}", got=got)
    manifest = read_json(path)
    if "kind" not in manifest:
        raise DataError(table=str(path), want="a manifest of equipoise", got="other JSON")
    if kind is not None and manifest["kind"] != kind:
        raise DataError(
            table=str(folder), want=f"a folder of kind {kind}", got=str(manifest["kind"])
        )
    return manifest


def check_seal(folder: Path | str, kind: str) -> dict[str, Any]:
    """The manifest of a folder written `sealed`.

    Raises `DataError` naming the file that is missing or has other bytes than were written, the
    manifest included.
    """
    folder = Path(folder)
    manifest = read_manifest(folder, kind)
    if manifest.get("seal") != _seal(manifest):
        raise DataError(
            table=str(folder / MANIFEST), want="the manifest that was saved", got="other"
        )
    for name, want in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise DataError(table=str(path), want="this file", got="none")
        if digest([path])[name] != want:
            raise DataError(
                table=str(path), want=f"the file that was saved, {want}", got="other bytes"
            )
    return manifest


def _seal(manifest: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in manifest.items() if name != "seal"}
    text = json.dumps(rest, sort_keys=True, ensure_ascii=False, default=plain)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys (the same value gives the same bytes)."""
    how: dict[str, Any] = {"indent": 2, "sort_keys": True, "ensure_ascii": False}
    write_text(path, json.dumps(value, allow_nan=False, default=plain, **how) + "\n")


def plain(value: Any) -> Any:
    """A NumPy scalar as Python's own, for `json.dumps`, which knows none (seeds of `np.arange`)."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"want what JSON can hold, got {type(value).__name__}")


def write_text(path: Path, text: str) -> None:
    """The file is there in one step: a run that is killed leaves none, or a whole one."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a finished folder; raises `DataError` if it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, "JSON", error) from None
    if not isinstance(value, dict):
        raise DataError(table=str(path), want="a JSON object", got=type(value).__name__)
    return value


def write_frame(frame: pl.DataFrame, path: Path) -> None:
    """An Arrow file of a frame, the same bytes for the same rows.

    How polars lays out views of texts, and in how many pieces a frame is, depends on its threads.
    """
    frame.rechunk().write_ipc(path, compat_level=pl.CompatLevel.oldest())


def read_frame(path: Path) -> pl.DataFrame:
    """A frame of a finished folder; raises `DataError` if it is missing or damaged."""
    try:
        return pl.read_ipc(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise _damaged(path, "an Arrow file", error) from None


def read_array(path: Path) -> npt.NDArray[Any]:
    """A NumPy array of a finished folder (never a pickle); raises `DataError` if it is damaged."""
    try:
        array: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(path, "a NumPy array", error) from None
    return array


def _damaged(path: Path, want: str, error: Exception) -> DataError:
    return DataError(table=str(path), want=want, got=str(error).splitlines()[0])


def digest(paths: Iterable[Path], below: Path | None = None) -> dict[str, str]:
    """SHA-256 of every file, for the manifest: by its name, or by its path below a folder."""
    return {
        path.relative_to(below).as_posix() if below else path.name: digest_of(path)
        for path in paths
    }


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def _replace(draft: Path, out: Path) -> None:
    for file in (path for path in draft.rglob("*") if path.is_file()):
        with file.open("rb+") as handle:
            os.fsync(handle.fileno())
    if not out.exists():
        draft.rename(out)
        return
    old = out.rename(_beside(out, REPLACED))
    draft.rename(out)
    shutil.rmtree(old, ignore_errors=True)
    _sweep(out, REPLACED)
