"""How a source is declared: which table, which column means what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from equipoise import schema
from equipoise.errors import DataError
from equipoise.tasks import AGE_CUTS, GroupSettings, Task

DIAGNOSIS: Final = "diagnosis"
LAB: Final = "lab"
#: Of `Stays.visits`, where ids are numbers of ours: what tables call the subject and the visit, or
#: null.
SUBJECT_WORD: Final = "subject as written"
VISIT_WORD: Final = "visit as written"
ID_WORDS: Final = (SUBJECT_WORD, VISIT_WORD)
#: Of `Stays.visits`, where ends may be dates: the last moment that may be within the visit.
LATEST_END: Final = "latest end"
#: "id" refuses nulls, the others take an empty cell as null.
ColumnKind = Literal["id", "integer", "float", "text", "time"]
_TIME: Final = (
    r"^(?<date>[0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"([ T](?<clock>[0-9]{2}:[0-5][0-9])(?<second>:[0-5][0-9](\.[0-9]{1,9})?)?"
    r"(Z| UTC|(?<sign>[+-])(?<hours>[01][0-9]|2[0-3])(:?(?<minutes>[0-5][0-9]))?)?)?$"
)


class Reader(Protocol):
    """Reads the named columns of a small table into a frame; raises `DataError`."""

    @property
    def groups(self) -> GroupSettings:
        """How ages and races become groups."""

    def __call__(self, table: str, columns: Mapping[str, ColumnKind]) -> pl.DataFrame: ...

    def files(self, table: str) -> list[Path]:
        """The files of a table; raises `DataError` if there are none."""

    def has(self, table: str) -> bool:
        """Whether a table has files."""

    def where(self, table: str, place: int) -> tuple[str, int | None]:
        """The file and the number of a row of a table, for messages; None if it has several."""


@dataclass(frozen=True)
class Dictionary:
    """A table that gives codes or labs their titles; `key` are its columns that name them.

    versions: those of `key` in which `10.0` is `10`, as in `CodeEvents.systems`.
    """

    table: str
    key: tuple[str, ...]
    title: tuple[str, ...]
    versions: tuple[str, ...] = ()


@dataclass(frozen=True)
class When:
    """When an event happened: a column of times, or of minutes since its visit's start.

    A date without a time of day counts as the end of that day; "date": what is written as its
    midnight, too.
    """

    column: str
    unit: Literal["time", "date", "minutes"] = "time"


@dataclass(frozen=True)
class CodeEvents:
    """A table of coded events. `visit` and `subject`: see `ValueEvents`.

    `system` is the column that says which code system a code belongs to, and `systems` the name of
    each of its values (`10.0` is `10`); without them all codes belong to `only_system`, or one
    called as the kind.
    `split` takes the codes as they stand (raw: their number, code: text) to rows of (raw, system,
    code), for tables that write several codes into one cell.
    """

    table: str
    kind: str
    visit: str | None
    code: str
    system: str | None = None
    systems: Mapping[str, str] = field(default_factory=dict)
    only_system: str | None = None
    split: Callable[[pl.DataFrame], pl.DataFrame] | None = None
    subject: str | None = None
    dictionary: Dictionary | None = None
    when: When | None = None


@dataclass(frozen=True)
class ValueEvents:
    """A table of numeric events. `integer_labs`: the one column of `lab` holds whole numbers.

    `subject`: the column of subjects, where events may be placed by their time; without a column
    `visit` all are.
    """

    table: str
    visit: str | None
    lab: tuple[str, ...]
    value: str
    integer_labs: bool = False
    subject: str | None = None
    dictionary: Dictionary | None = None
    when: When | None = None


@dataclass(frozen=True)
class MixedEvents:
    """A table that holds both: an event with a number is a lab, any other is a code (MEDS).

    visit: the column of visit ids, or None where an event belongs to the visit whose start and end
    enclose it. lab: the columns that name a lab, the first of which is the code.
    name_codes: takes (code,) to rows of (code, kind, system, name, dropped), in the same order;
    `dropped` is the reason why events of this code are left out, or null.
    """

    table: str
    visit: str | None
    subject: str
    lab: tuple[str, ...]
    value: str
    when: When
    name_codes: Callable[[pl.DataFrame], pl.DataFrame]
    dictionary: Dictionary | None = None


@dataclass(frozen=True)
class Stays:
    """What a source's small tables say.

    visits: subject_id, visit_id (Int64), start, end (Datetime, null where a source has no dates),
    and whatever tasks need; in the order of subjects, then of time. `SUBJECT_WORD` and `VISIT_WORD`
    where the tables' ids are no whole numbers, `LATEST_END` where it may not be `end`.
    subjects: subject_id, one String column per group, and `schema.SPLIT` (String) and
    `schema.PERSON_ID` (Int64) where the source has them.
    ledger: `schema.LEDGER` for the tables read, and where known the first `place` of each outcome;
    oddities: what was noticed, and how often.
    codes: visit_id, kind, system, code. values: visit_id, lab, value (finite). cells: visit_id,
    table, outcome of every cell that might be one. All for what stands in the visits' own table.
    """

    visits: pl.DataFrame
    subjects: pl.DataFrame
    ledger: pl.DataFrame
    oddities: Mapping[str, int]
    codes: pl.DataFrame | None = None
    values: pl.DataFrame | None = None
    cells: pl.DataFrame | None = None


@dataclass(frozen=True)
class Source:
    """A source of records.

    folders: where its tables may lie below the root. stay_tables: those that `read_stays` reads.
    optional: tables that may be absent. tasks: tasks that only this source has, by name.
    ledgers_of_stays: what the ledger calls diagnoses and labs that do not come from `codes` and
    `values`. settings: what else the manifest says of how it is read (JSON), by the name of the
    argument that asked for it.
    """

    name: str
    folders: Sequence[str]
    stay_tables: tuple[str, ...]
    read_stays: Callable[[Reader], Stays]
    codes: tuple[CodeEvents, ...] = ()
    values: tuple[ValueEvents, ...] = ()
    mixed: Callable[[Reader], MixedEvents] | None = None
    optional: tuple[str, ...] = ()
    ledgers_of_stays: Mapping[str, str] = field(default_factory=dict)
    tasks: Mapping[str, Task] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def events(self) -> list[CodeEvents | ValueEvents]:
        """Every table of codes, then of values."""
        return [*self.codes, *self.values]

    @property
    def ledgers(self) -> dict[str, list[str]]:
        """Which tables of the ledger count diagnoses alone, and which labs."""
        diagnoses = [events.table for events in self.codes if events.kind == DIAGNOSIS]
        named = {DIAGNOSIS: diagnoses, LAB: [events.table for events in self.values]}
        for kind, table in self.ledgers_of_stays.items():
            named[kind].append(table)
        return {kind: list(dict.fromkeys(tables)) for kind, tables in named.items() if tables}

    @property
    def tables(self) -> list[str]:
        """Every table that is read, each once."""
        dictionaries = [event.dictionary.table for event in self.events if event.dictionary]
        names = [*self.stay_tables, *(event.table for event in self.events), *dictionaries]
        return list(dict.fromkeys(names))

    def config(self, task: Task, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What the manifest says of a reading: the settings, and options `asked` for."""
        told = {name: str(it) if isinstance(it, Path) else it for name, it in asked.items()}
        return {
            "source": self.name,
            "task": task.name,
            "tables": self.ledgers,
            "codes": [events.kind for events in self.codes],
            "lab_key": [list(events.lab) for events in self.values],
            **self.settings,
            **{name: it for name, it in told.items() if it and it != AGE_CUTS},
        }


def count_outcomes(table: str, judged: pl.DataFrame) -> pl.DataFrame:
    """The ledger of `table` from its rows' column `outcome`, and the first place of each outcome.

    Rows have to stand as in the table; the first one is at place 0.
    """
    counts = judged.select("outcome").with_row_index("place").group_by("outcome")
    made = counts.agg(pl.len().cast(pl.Int64).alias("rows"), pl.col("place").min().cast(pl.Int64))
    return made.sort("outcome").select(pl.lit(table).alias("table"), "outcome", "rows", "place")


def odd_systems(
    source: Source, table: pl.DataFrame, codes: npt.NDArray[np.int32]
) -> dict[str, int]:
    """How many `codes` (rows of `table`) are of no system that their source knows, where any is."""
    odd: dict[str, int] = {}
    for events in source.codes:
        if events.systems:
            known = pl.col("system").is_in(list(set(events.systems.values())))
            strange = table.select((pl.col("kind") == events.kind) & ~known).to_series()
            if count := int(strange.to_numpy()[codes].sum()):
                name = f"visits' codes whose {events.system} in {events.table} is not understood"
                odd[name] = count
    return odd


def odd_splits(stays: Stays) -> dict[str, int]:
    """How many subjects have no split where others do.

    Raises `DataError` for a person with subjects in two splits, who would be judged on oneself.
    """
    subjects = stays.subjects
    if schema.SPLIT not in subjects.columns or not subjects[schema.SPLIT].count():
        return {}
    if schema.PERSON_ID in subjects.columns:
        persons = subjects.group_by(schema.PERSON_ID, maintain_order=True)
        of_one = pl.col(schema.SPLIT).drop_nulls().unique(maintain_order=True)
        torn = persons.agg(of_one, pl.col(schema.SUBJECT_ID))
        torn = torn.filter(pl.col(schema.SPLIT).list.len() > 1).head(1)
        for splits, ids in torn.select(schema.SPLIT, schema.SUBJECT_ID).iter_rows():
            raise DataError(
                table="subjects",
                column=schema.SPLIT,
                want="all subjects of a person in one split",
                got=f"{' and '.join(splits)} for {', '.join(_called(stays.visits, ids))}",
            )
    splits = subjects[schema.SPLIT].drop_nulls()
    usual = (schema.TRAIN, schema.TUNING, schema.HELD_OUT)
    return {
        "subjects without a split": subjects[schema.SPLIT].null_count(),
        f"subjects in a split that is none of {', '.join(usual)}": int(
            (~splits.is_in(usual)).sum()
        ),
    }


def whole_numbers(texts: pl.Series) -> pl.Series:
    """Texts as the core reads ids: `101`, and `101.0` as pandas writes it; any other is null."""
    digits = texts.str.strip_chars().str.extract(r"^(-?[0-9]+)(?:\.0*)?$")
    return digits.cast(pl.Int64, strict=False)


def _called(visits: pl.DataFrame, subjects: Sequence[int]) -> list[str]:
    """What a source's tables call some subjects."""
    names = {subject: str(subject) for subject in subjects}
    if SUBJECT_WORD in visits.columns:
        words = visits.select(schema.SUBJECT_ID, SUBJECT_WORD).drop_nulls()
        names |= dict(words.filter(pl.col(schema.SUBJECT_ID).is_in(subjects)).iter_rows())
    return [names[subject] for subject in subjects]


def as_ids(texts: pl.Series) -> pl.Series:
    """Texts as ids: as the core compares them, `101.0` is 101, and pandas' NaN is nothing."""
    ids = texts.str.strip_chars().str.replace(r"^(-?[0-9]+)\.0*$", "$1")
    return ids.set(ids.is_in(["", "NaN"]), None)


def numbered(texts: pl.Series) -> tuple[pl.Series, pl.Series | None]:
    """Ids as whole numbers; and as words, if the numbers are places in the sorted list of those."""
    words = as_ids(texts)
    numbers = whole_numbers(words)
    if numbers.null_count() == words.null_count():
        return numbers, None
    return words.rank("dense").cast(pl.Int64) - 1, words


def latest_ends(ends: pl.Series, dated: pl.Series) -> pl.Series:
    """`LATEST_END`: who is `dated` has the whole day, and so have all if none has a time."""
    midnight = (ends == ends.dt.truncate("1d")).all()
    day = pl.duration(days=1, microseconds=-1)
    latest = pl.when(pl.lit(midnight) | pl.lit(dated)).then(pl.lit(ends) + day)
    return pl.select(latest.otherwise(pl.lit(ends))).to_series().alias(LATEST_END)


def times_of(texts: pl.Series) -> pl.Series:
    """Texts as the core reads times: a date, or with a time of day; any other is null.

    With an offset from UTC it is the time in UTC.
    """
    return texts.to_frame("text").select(as_time(pl.col("text")).alias(texts.name)).to_series()


def as_time(text: pl.Expr, date_is: str = "00:00:00") -> pl.Expr:
    """The same of an expression. date_is: the time of day, if there is but a date."""
    part = text.str.strip_chars().str.extract_groups(_TIME).struct
    clock = part["clock"] + part["second"].fill_null(":00")
    written = part["date"] + " " + clock.fill_null(date_is)
    form = "%Y-%m-%d %H:%M:%S%.f"
    time = written.str.to_datetime(form, strict=False, time_unit="us")
    hours, minutes = (part[name].cast(pl.Int64).fill_null(0) for name in ("hours", "minutes"))
    offset = pl.duration(minutes=hours * 60 + minutes)
    return pl.when(part["sign"] == "-").then(time + offset).otherwise(time - offset)


def as_whole(column: str) -> pl.Expr:
    """Texts without the `.0` that pandas leaves behind whole numbers."""
    return pl.col(column).str.replace(r"^([0-9]+)\.0*$", "$1")


def plain_fields(settings: object) -> dict[str, Any]:
    """The fields of a dataclass as they come back from JSON."""
    return {name: _plain(value) for name, value in vars(settings).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, tuple | list) else value


def is_first(ids: pl.Series) -> pl.Series:
    """Which rows are the first of their id; that all are is quicker to see."""
    if ids.n_unique() == len(ids):
        return pl.repeat(value=True, n=len(ids), eager=True)
    return ids.is_first_distinct()
