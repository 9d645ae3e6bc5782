"""Tasks (what is to be predicted), windows (from what), and groups (for whom it is judged)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal

import polars as pl

from equipoise import schema
from equipoise.errors import DataError, UsageError
from equipoise.ragged import Offsets, offsets_of

OTHER_RACE: Final = "Other/Unknown"
#: Age bands of the FairPlay paper: <=18, 19-74, >=75 years.
AGE_CUTS: Final = (18, 74)
DAYS: Final = 30
PREDICTION_TIME: Final = "prediction_time"
MOST_MINUTES: Final = 100 * 366 * 24 * 60


@dataclass(frozen=True)
class Task:
    """A label: `visit_label` takes the visits' frame to each visit's (Boolean, null is unknown).

    record: where a subject's record ends. "whole": nowhere, the subject's label is that of its last
    visit. "first_event": with the first visit whose label is true, or else the last known one.
    "last_known": with the last visit whose label is known.
    """

    name: str
    title: str
    needs: tuple[str, ...]
    visit_label: Callable[[pl.DataFrame], pl.Series]
    record: Literal["whole", "first_event", "last_known"] = "whole"


def _died_in_hospital(visits: pl.DataFrame) -> pl.Series:
    return visits["died"]


def _dead_within_30_days(visits: pl.DataFrame) -> pl.Series:
    """Death in hospital or by the date of death until 30 days after discharge (whole days).

    A subject without a date of death is taken to live, whatever its discharge does not say: the
    source has to record deaths outside. A death before the visit's first day says nothing of it.
    """
    day = pl.col("dod").dt.date()
    last_day = pl.col("end").dt.date() + pl.duration(days=DAYS)
    by_date = (day <= last_day).fill_null(value=False)
    died = pl.col("died").fill_null(value=False)
    before = (day < pl.col("start").dt.date()).fill_null(value=False)
    known = pl.col("end").is_not_null() & (died | ~before)
    return visits.select(label=pl.when(known).then(by_date | died)).to_series()


def _back_within_30_days(visits: pl.DataFrame) -> pl.Series:
    """Whether the subject's next visit starts within 30 days (to the second) of this one's end.

    Unknown for who died in hospital and where the visit's end is unknown; also where there is no
    such next visit and neither the discharge nor a date of death says that the subject lived, or
    the source says (column `followed_until`) that it stopped looking before.
    """
    gap = pl.col("start").shift(-1).over(schema.SUBJECT_ID) - pl.col("end")
    back = (gap <= pl.duration(days=DAYS)).fill_null(value=False)
    lived = ~pl.col("died")
    if "dod" in visits.columns:
        later = pl.col("dod").dt.date() > pl.col("end").dt.date()
        lived = pl.coalesce(lived, pl.when(later).then(pl.lit(value=True)))
    at_risk = pl.col("end").is_not_null() & lived.fill_null(back)
    if "followed_until" in visits.columns:
        followed = pl.col("end") + pl.duration(days=DAYS) <= pl.col("followed_until")
        at_risk &= back | followed.fill_null(value=True)
    return visits.select(label=pl.when(at_risk).then(back)).to_series()


TASKS: Final[Mapping[str, Task]] = {
    task.name: task
    for task in (
        Task("in_hospital_mortality", "death in hospital", ("died",), _died_in_hospital),
        Task(
            "mortality_30d",
            "death within 30 days of discharge",
            ("died", "dod", "end"),
            _dead_within_30_days,
        ),
        # A row for every discharge at risk of the first readmission: whether a visit is in depends
        # on the past only, and the label stands on the last visit, as in synthetic records.
        Task(
            "readmission_30d",
            "first readmission within 30 days of discharge",
            ("died", "start", "end"),
            _back_within_30_days,
            record="first_event",
        ),
    )
}


def task_named(name: str, own: Mapping[str, Task] | None = None) -> Task:
    """The task called `name`, first of a source's own; raises `UsageError` that lists them all."""
    tasks = {**TASKS, **(own or {})}
    try:
        return tasks[name]
    except KeyError:
        raise UsageError(f"no task is called {name!r}; there are {', '.join(tasks)}") from None


def label_visits(
    task: Task, visits: pl.DataFrame, source: str = "this source"
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The visits that stay in the records, with the task's label; and how many do not, by reason.

    `visits` are ordered by subject, then by time. Raises `UsageError` if the source does not say
    what the task needs.
    """
    missing = [name for name in task.needs if name not in visits.columns]
    known = [name for name in task.needs if name not in missing]
    if len(visits):
        missing += [name for name in known if visits[name].null_count() == len(visits)]
    if missing:
        raise UsageError(
            f"{source} cannot say {task.name}: it has no {' and no '.join(missing)} of its visits"
        )
    labelled = visits.with_columns(task.visit_label(visits).cast(pl.Boolean).alias(schema.LABEL))
    fate = _fate(task)
    if fate is None:
        return labelled, {}
    judged = labelled.with_columns(fate.alias("fate"))
    counts = dict(judged["fate"].value_counts().sort("fate").iter_rows())
    return judged.filter(pl.col("fate") == schema.USED).drop("fate"), counts


def label_subjects(known: pl.DataFrame, visits: pl.DataFrame) -> tuple[pl.DataFrame, Offsets]:
    """Subjects in the order of their visits, with the last one's label, and the visits' offsets.

    `known`: what a source knows of subjects (`Stays.subjects`).
    """
    grouped = visits.group_by(schema.SUBJECT_ID, maintain_order=True)
    lengths = grouped.len()["len"].to_numpy()
    subjects = grouped.agg(pl.col(schema.LABEL).last())
    subjects = subjects.join(known, on=schema.SUBJECT_ID, how="left", maintain_order="left")
    subjects = subjects.with_columns(pl.lit(value=False).alias(schema.SYNTHETIC))
    if schema.SPLIT not in subjects.columns:
        subjects = subjects.with_columns(pl.lit(None, pl.String).alias(schema.SPLIT))
    more = [name for name in known.columns if name not in schema.SUBJECTS]
    return subjects.select(*schema.SUBJECTS, *more), offsets_of(lengths)


def _fate(task: Task) -> pl.Expr | None:
    label, place = pl.col(schema.LABEL), pl.int_range(pl.len()).over(schema.SUBJECT_ID)
    last_known = place.filter(label.is_not_null()).max().over(schema.SUBJECT_ID)
    first_event = place.filter(label.fill_null(value=False)).min().over(schema.SUBJECT_ID)
    late = (place > last_known).fill_null(value=True)
    fate = pl.when(late & label.is_null()).then(pl.lit("outcome unknown, at the record's end"))
    if task.record == "last_known":
        return fate.otherwise(pl.lit(schema.USED))
    if task.record == "first_event":
        after = (place > first_event).fill_null(value=False)
        return (
            pl.when(after)
            .then(pl.lit("after the subject's first event"))
            .otherwise(fate.otherwise(pl.lit(schema.USED)))
        )
    return None


@dataclass(frozen=True)
class Window:
    """Events later than `anchor` plus `minutes` are left out of a visit."""

    anchor: Literal["start", "end", "prediction_time"]
    minutes: int

    def limit(self) -> pl.Expr:
        """The last moment that counts, from the visits' frame, ordered by subject and time.

        A prediction is made from a subject's visits before it as well: none of them may know more.
        """
        anchor = pl.col(self.anchor)
        if self.anchor == "prediction_time":
            earliest = anchor.cum_min(reverse=True).fill_null(strategy="backward")
            anchor = earliest.over(schema.SUBJECT_ID)
        return anchor + pl.duration(minutes=self.minutes)


_ANCHORS: Final[Mapping[str, Literal["start", "end", "prediction_time"]]] = {
    "admission": "start",
    "discharge": "end",
    "prediction": "prediction_time",
}


def window_of(text: str) -> Window:
    """A window such as `admission+24h`, `discharge-1d` or `prediction`; raises `UsageError`."""
    form = r"(admission|discharge|prediction)(?:([+-]\d{1,12})(m|h|d))?"
    match = re.fullmatch(form, text.strip())
    if match is None:
        raise UsageError(
            f"until: want admission+24h, discharge-1d, prediction or the like (m, h, d), got {text}"
        )
    anchor, number, unit = match.groups()
    minutes = int(number or 0) * {"m": 1, "h": 60, "d": 1440}[unit or "m"]
    if abs(minutes) > MOST_MINUTES:
        raise UsageError(f"until: want a window of at most 100 years, got {text}")
    return Window(_ANCHORS[anchor], minutes)


@dataclass(frozen=True)
class GroupSettings:
    """How ages and races become groups.

    age_cuts: the last year of each band but the highest, ascending.
    race_table: a CSV of race and group to use instead of `sources/race.csv`.
    """

    age_cuts: tuple[int, ...] = AGE_CUTS
    race_table: Path | None = None

    def __post_init__(self) -> None:
        cuts = self.age_cuts
        if not cuts or any(a >= b for a, b in pairwise(cuts)) or cuts[0] < 0:
            raise UsageError(f"age cuts: want ascending whole years such as 18,74, got {cuts}")

    def age_band(self, age: pl.Expr) -> pl.Expr:
        """Bands of whole years, each up to its cut; null, or below 0, is Unknown."""
        cuts = self.age_cuts
        age = pl.when(age >= 0).then(age)
        names = [f"<={cuts[0]}", *(f"{low + 1}-{high}" for low, high in pairwise(cuts))]
        bands = [
            pl.when(age <= cut).then(pl.lit(name)) for cut, name in zip(cuts, names, strict=True)
        ]
        oldest = pl.when(age > cuts[-1]).then(pl.lit(f">={cuts[-1] + 1}"))
        return pl.coalesce(*bands, oldest, pl.lit("Unknown"))

    def race_group(self, race: pl.Series) -> tuple[pl.Series, int]:
        """The group of each race as a source writes it, and how many are not in the table.

        Null and whatever is not in the table is `OTHER_RACE`; only the latter are counted.
        """
        table = read_races(self.race_table)
        # Sorted: texts lie in the file in the order in which they are named here.
        written = race.unique().sort()
        named = written.str.strip_chars().str.to_uppercase().replace_strict(table, default=None)
        groups = race.replace_strict(written, named, default=None, return_dtype=pl.String)
        unknown = int((groups.is_null() & race.is_not_null()).sum())
        return groups.fill_null(OTHER_RACE).alias("race"), unknown


@cache
def read_races(path: Path | None = None) -> dict[str, str]:
    """A table of races (upper case) and their groups; raises `DataError` if it is none."""
    if path is None:
        source = files("equipoise.sources").joinpath("race.csv").read_bytes()
    elif path.is_file():
        source = path.read_bytes()
    else:
        raise DataError(table=str(path), want="a CSV of race and group", got="nothing there")
    name = path.name if path else "race.csv"
    try:
        frame = pl.read_csv(source, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        got = str(error).splitlines()[0]
        raise DataError(table=name, want="a CSV of race and group", got=got) from None
    for column in ("race", "group"):
        if column not in frame.columns:
            raise DataError(
                table=name, column=column, want="this column", got=", ".join(frame.columns)
            )
    frame = frame.with_columns(pl.col("race").str.strip_chars().str.to_uppercase())
    rows = frame.select("race", "group").with_row_index("row", offset=2)
    for row, race, group in rows.iter_rows():
        if not race or not group:
            raise DataError(table=name, row=row, want="a race and its group", got="an empty cell")
    twice = frame.filter(frame.select("race").is_duplicated())["race"]
    if len(twice):
        raise DataError(table=name, column="race", want="each race once", got=f"{twice[0]} twice")
    return dict(rows.select("race", "group").iter_rows())
