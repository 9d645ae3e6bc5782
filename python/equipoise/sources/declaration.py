"""How a source is declared: which table, which column means what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import polars as pl

#: "id" refuses nulls, the others take an empty cell as null.
ColumnKind = Literal["id", "integer", "float", "text", "time"]


class Reader(Protocol):
    """Reads the named columns of a small table into a frame; raises `DataError`."""

    def __call__(self, table: str, columns: Mapping[str, ColumnKind]) -> pl.DataFrame: ...


@dataclass(frozen=True)
class Dictionary:
    """A table that gives codes or labs their titles; `key` are its columns that name them."""

    table: str
    key: tuple[str, ...]
    title: tuple[str, ...]


@dataclass(frozen=True)
class CodeEvents:
    """A table of coded events.

    `system` is the column that says which code system a code belongs to, and `systems` the name of
    each of its values; without them all codes belong to the system called as the kind.
    """

    table: str
    kind: str
    visit: str
    code: str
    system: str | None = None
    systems: Mapping[str, str] = field(default_factory=dict)
    dictionary: Dictionary | None = None


@dataclass(frozen=True)
class ValueEvents:
    """A table of numeric events. `integer_labs`: the one column of `lab` holds whole numbers."""

    table: str
    visit: str
    lab: tuple[str, ...]
    value: str
    integer_labs: bool = False
    dictionary: Dictionary | None = None


@dataclass(frozen=True)
class Stays:
    """What a source's small tables say.

    visits: subject_id, visit_id (Int64), start, end (Datetime), and whatever tasks need.
    subjects: subject_id and one String column per group.
    ledger: `schema.LEDGER` for the tables read; oddities: what was noticed, and how often.
    """

    visits: pl.DataFrame
    subjects: pl.DataFrame
    ledger: pl.DataFrame
    oddities: Mapping[str, int]


@dataclass(frozen=True)
class Source:
    """A source of records.

    folders: where its tables may lie below the root. stay_tables: those that `read_stays` reads.
    """

    name: str
    folders: Sequence[str]
    stay_tables: tuple[str, ...]
    read_stays: Callable[[Reader], Stays]
    codes: tuple[CodeEvents, ...] = ()
    values: tuple[ValueEvents, ...] = ()

    @property
    def tables(self) -> list[str]:
        """Every table that is read."""
        events: list[CodeEvents | ValueEvents] = [*self.codes, *self.values]
        dictionaries = [event.dictionary.table for event in events if event.dictionary]
        return [*self.stay_tables, *(event.table for event in events), *dictionaries]
