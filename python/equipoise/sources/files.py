"""Where a source's tables lie: `NAME.csv.gz`, `NAME.csv`, `NAME.parquet`, or folders of such."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from equipoise.errors import DataError
from equipoise.sources.declaration import Source

SUFFIXES: Final = (".csv.gz", ".csv", ".parquet")
#: How names begin that are no part of a table, for Hadoop and Arrow as for us: what a writer left
#: half done, and what notebooks and other systems put beside the parts.
HIDDEN: Final = (".", "_")


def find_table(root: Path, folders: Sequence[str], table: str) -> list[Path]:
    """The files of `table`, sorted.

    Raises `DataError` that says which names were looked for, or which two files may be one.
    """
    if files := _files_of(root, folders, table):
        _check_apart(table, files)
        return files
    tried = ", ".join(f"{table}{suffix}" for suffix in SUFFIXES)
    raise DataError(
        table=str(root),
        want=f"one of {tried} in {' or '.join(f'{f}/' for f in folders)}",
        got="none",
    )


def check_root(root: Path, folders: Sequence[str], tables: Sequence[str]) -> None:
    """Raise `DataError` if `root` is no folder, or holds none of the tables."""
    if not root.is_dir():
        got = "a file" if root.exists() else "nothing there"
        raise DataError(table=str(root), want="a folder of tables", got=got)
    if any(has_table(root, folders, table) for table in tables):
        return
    within = " or ".join(folder for folder in folders if folder != ".")
    raise DataError(
        table=str(root),
        want=f"tables such as {', '.join(tables)} (.csv.gz, .csv or .parquet)",
        got="none of them",
        hint=f"Name the folder that holds {within}/" if within else None,
    )


def all_files(source: Source, root: Path) -> list[Path]:
    """The files of all tables that `source` reads below `root`; raises `DataError`."""
    found = []
    for table in source.tables:
        if table not in source.optional or has_table(root, source.folders, table):
            found += find_table(root, source.folders, table)
    return found


def has_table(root: Path, folders: Sequence[str], table: str) -> bool:
    """Whether `table` has files."""
    return bool(_files_of(root, folders, table))


def _files_of(root: Path, folders: Sequence[str], table: str) -> list[Path]:
    """Those in the first of the folders that has any: one of each name, or all in a folder."""
    for folder in folders:
        for name in (table, table.upper()):
            named = [root / folder / f"{name}{suffix}" for suffix in SUFFIXES]
            files = [path for path in named if path.is_file()] + _below(root / folder / name)
            if files:
                return files
    return []


def _below(folder: Path) -> list[Path]:
    """All tables below a folder, sorted; links are followed, and each real file counts once.

    Raises `DataError` for a folder that cannot be read.
    """
    found: dict[str, Path] = {}
    walked = set()
    if not folder.is_dir():
        return []
    for here, inner, names in os.walk(folder, followlinks=True, onerror=_refuse_folder):
        walked.add(os.path.realpath(here))
        shown = sorted(name for name in inner if not name.startswith(HIDDEN))
        inner[:] = [n for n in shown if os.path.realpath(Path(here, n)) not in walked]
        for name in sorted(names):
            if name.endswith(SUFFIXES) and not name.startswith(HIDDEN):
                found.setdefault(os.path.realpath(Path(here, name)), Path(here, name))
    return sorted(found.values())


def _refuse_folder(error: OSError) -> None:
    want = "a folder that can be read"
    raise DataError(table=str(error.filename), want=want, got=str(error.strerror)) from None


def _check_apart(table: str, files: Sequence[Path]) -> None:
    """Raise `DataError` for files that may hold the same rows: unpacked beside the packed ones."""
    parts: dict[Path, Path] = {}
    for path in files:
        _refuse_both(table, parts.setdefault(_stem(path), path), path)
    for path in files:
        # A folder beside a file of its name counts as unpacked, too.
        for folder in path.parents:
            _refuse_both(table, parts.get(folder, path), path)


def _stem(path: Path) -> Path:
    name = path.name.removesuffix(".gz").removesuffix(".csv").removesuffix(".parquet")
    return path.with_name(name)


def _refuse_both(table: str, one: Path, other: Path) -> None:
    if one != other:
        raise DataError(
            table=table,
            want="each part once",
            got=f"{one.name} and {other.relative_to(one.parent)}",
            hint="Move one of the two elsewhere: which of them counts cannot be told",
        )
