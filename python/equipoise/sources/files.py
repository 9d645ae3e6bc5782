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
    """All tables below a folder, sorted; links are followed, and each real file counts once."""
    found: dict[str, Path] = {}
    walked = set()
    for here, inner, names in os.walk(folder, followlinks=True):
        walked.add(os.path.realpath(here))
        shown = sorted(name for name in inner if not name.startswith(HIDDEN))
        inner[:] = [n for n in shown if os.path.realpath(Path(here, n)) not in walked]
        for name in sorted(names):
            if name.endswith(SUFFIXES) and not name.startswith(HIDDEN):
                found.setdefault(os.path.realpath(Path(here, name)), Path(here, name))
    return sorted(found.values())


def _check_apart(table: str, files: Sequence[Path]) -> None:
    """Raise `DataError` for files that may hold the same rows: unpacked beside the packed ones."""
    seen: dict[Path, Path] = {}
    for path in files:
        stem = path.with_name(path.name.removesuffix(".gz").removesuffix(".csv"))
        stem = stem.with_suffix("") if path.suffix == ".parquet" else stem
        # A folder beside a file of its name counts as unpacked, too.
        other = next((seen[place] for place in (stem, *path.parents) if place in seen), None)
        if other is not None:
            raise DataError(
                table=table,
                want="each part once",
                got=f"{other.name} and {path.relative_to(other.parent)}",
                hint="Move one of the two elsewhere: which of them counts cannot be told",
            )
        seen[stem] = path
