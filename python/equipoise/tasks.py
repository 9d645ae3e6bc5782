"""Tasks (what is to be predicted) and groups (for whom it is judged), as definitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

import polars as pl

from equipoise import schema
from equipoise.errors import UsageError

OTHER_RACE: Final = "Other/Unknown"
#: Age bands of the FairPlay paper: <=18, 19-74, >=75 years.
AGE_CUTS: Final = (18, 74)


@dataclass(frozen=True)
class Task:
    """A label: `visit_label` gives each visit's (Boolean, null is unknown) from the visits' frame.

    A subject's label is that of its last visit.
    """

    name: str
    title: str
    needs: tuple[str, ...]
    visit_label: Callable[[], pl.Expr]


def _died_in_hospital() -> pl.Expr:
    return pl.col("died")


TASKS: Final[Mapping[str, Task]] = {
    "in_hospital_mortality": Task(
        "in_hospital_mortality", "death in hospital", ("died",), _died_in_hospital
    )
}


def task_named(name: str) -> Task:
    """The task called `name`; raises `UsageError` that lists them all."""
    try:
        return TASKS[name]
    except KeyError:
        raise UsageError(f"no task is called {name!r}; there are {', '.join(TASKS)}") from None


def age_band(age: pl.Expr, cuts: tuple[int, int] = AGE_CUTS) -> pl.Expr:
    """Bands of whole years: up to the first cut, up to the second, above; null is Unknown."""
    young, old = cuts
    return (
        pl.when(age <= young)
        .then(pl.lit(f"<={young}"))
        .when(age <= old)
        .then(pl.lit(f"{young + 1}-{old}"))
        .when(age > old)
        .then(pl.lit(f">={old + 1}"))
        .otherwise(pl.lit("Unknown"))
    )


def race_group(race: pl.Series) -> tuple[pl.Series, int]:
    """The group of each race as a hospital writes it, and how many are not in `sources/race.csv`.

    Null and whatever is not in the table is `OTHER_RACE`; only the latter are counted.
    """
    table = _races()
    groups = race.str.strip_chars().str.to_uppercase().replace_strict(table, default=None)
    unknown = int((groups.is_null() & race.is_not_null()).sum())
    return groups.fill_null(OTHER_RACE).alias("race"), unknown


@cache
def _races() -> dict[str, str]:
    text = files("equipoise.sources").joinpath("race.csv").read_bytes()
    frame = pl.read_csv(text, schema={"race": pl.String, "group": pl.String})
    return dict(frame.iter_rows())


def label_visits(task: Task, visits: pl.DataFrame) -> pl.DataFrame:
    """`visits` with the task's label."""
    return visits.with_columns(task.visit_label().cast(pl.Boolean).alias(schema.LABEL))
