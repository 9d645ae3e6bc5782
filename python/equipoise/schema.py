"""The words every room shares: column names, table schemas, split names.

Follows MEDS where MEDS has a word (`subject_id`, `prediction_time`, the split names), so that a
reader who knows MEDS can guess the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import polars as pl

SUBJECT_ID: Final = "subject_id"
VISIT_ID: Final = "visit_id"
#: Optional column of subjects: the person behind several subjects, who stays in one part of every
#: split. It is a number, and no group.
PERSON_ID: Final = "person_id"
LABEL: Final = "label"
SPLIT: Final = "split"
SYNTHETIC: Final = "synthetic"

TRAIN: Final = "train"
TUNING: Final = "tuning"
HELD_OUT: Final = "held_out"

#: One row per subject; any further column but `PERSON_ID` is a group (a sensitive feature).
SUBJECTS: Final[Mapping[str, type[pl.DataType]]] = {
    SUBJECT_ID: pl.Int64,
    LABEL: pl.Boolean,
    SPLIT: pl.String,
    SYNTHETIC: pl.Boolean,
}
#: One row per visit, in the order of the subjects, then of time. A null label is unknown.
VISITS: Final[Mapping[str, type[pl.DataType]]] = {VISIT_ID: pl.Int64, LABEL: pl.Boolean}
#: One row per vocabulary column. `bin`, `low` and `high` are null unless `kind` is "lab".
COLUMNS: Final[Mapping[str, type[pl.DataType]]] = {
    "kind": pl.String,
    "code": pl.String,
    "bin": pl.Int8,
    "low": pl.Float64,
    "high": pl.Float64,
    "title": pl.String,
}
#: Every row read from a table is in exactly one row of the ledger: used, or dropped for a reason.
LEDGER: Final[Mapping[str, type[pl.DataType]]] = {
    "table": pl.String,
    "outcome": pl.String,
    "rows": pl.Int64,
}
USED: Final = "used"

#: Called with (what is being done, how much is done, how much there is).
Progress = Callable[[str, int, int], None]


def no_progress(stage: str, done: int, total: int) -> None:
    """The default `Progress`: says nothing."""


def group_names(subjects: pl.DataFrame) -> list[str]:
    """The group columns of a subjects' frame, in its order."""
    return [name for name in subjects.columns if name not in SUBJECTS and name != PERSON_ID]


def check_frame(
    frame: pl.DataFrame, schema: Mapping[str, type[pl.DataType]], name: str
) -> pl.DataFrame:
    """Return `frame` unchanged if it has the columns of `schema` with those types.

    Raises `DataError` naming the column that is missing or of another type.
    """
    from equipoise.errors import DataError

    for column, dtype in schema.items():
        if column not in frame.columns:
            raise DataError(
                table=name, column=column, want="this column", got=", ".join(frame.columns)
            )
        if frame.schema[column] != dtype:
            raise DataError(
                table=name, column=column, want=dtype.__name__, got=str(frame.schema[column])
            )
    return frame
