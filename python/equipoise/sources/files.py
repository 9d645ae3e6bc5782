"""Where a source's tables lie: `NAME.csv.gz`, `NAME.csv`, `NAME.parquet`, or folders of such."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from equipoise.errors import DataError
from equipoise.sources.declaration import Source

SUFFIXES: Final = (".csv.gz", ".csv", ".parquet")


def find_table(root: Path, folders: Sequence[str], table: str) -> list[Path]:
    """The files of `table`, sorted; raises `DataError` that says which names were looked for."""
    for folder in folders:
        for name in (table, table.upper()):
            for suffix in SUFFIXES:
                path = root / folder / f"{name}{suffix}"
                if path.is_file():
                    return [path]
            shards = root / folder / name
            for suffix in SUFFIXES:
                files = sorted(shards.rglob(f"*{suffix}"))
                if files:
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
    raise DataError(
        table=str(root),
        want=f"tables such as {', '.join(tables)} (.csv.gz, .csv or .parquet)",
        got="none of them",
        hint=f"Name the folder that holds {' or '.join(f for f in folders if f != '.')}/",
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
    try:
        return bool(find_table(root, folders, table))
    except DataError:
        return False
