"""How the compiled reader is told to which visit an event belongs, and until when events count."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, TypedDict

import numpy as np
import numpy.typing as npt
import polars as pl

from equipoise import schema
from equipoise.errors import UsageError
from equipoise.sources.declaration import Stays, When
from equipoise.tasks import Window

Moments = npt.NDArray[np.int64]

#: What the core takes for a moment that is not known, and for one that never comes.
UNKNOWN: Final = np.iinfo(np.int64).min
NEVER: Final = np.iinfo(np.int64).max
MINUTE: Final = 60_000_000
#: What becomes of events, in the core's words.
NO_TIME: Final = "no event time"
OUTSIDE: Final = "outside every visit"
LATE: Final = "after the window"
WANTS_PREDICTION: Final = "until prediction: wants labels with a prediction_time"


class Placing(TypedDict):
    """The argument `placing` of the core's readers; moments in microseconds.

    time: the column of times and its clock. stays: the column of subjects, and each visit's
    subject, start and end, for events without a visit id. window: each visit's last moment that
    counts, and the moment of its events where the table has no times.
    """

    time: tuple[str, str] | None
    stays: tuple[str, Moments, Moments, Moments] | None
    window: tuple[Moments, Moments] | None


def placing_of(
    visits: pl.DataFrame, window: Window | None, when: When | None, subject: str | None = None
) -> Placing | None:
    """How events are placed; None: by their visit id alone.

    `subject` is the column of subjects if events without a visit id are placed by their time.
    Raises `UsageError` for a window or a placing that needs what is not known.
    """
    if window is None and subject is None:
        return None
    if subject is not None and (when is None or when.unit != "time"):
        raise UsageError("attach by time: the source does not say at what time events happened")
    return {
        "time": (when.column, when.unit) if when else None,
        "stays": _stays(visits, subject) if subject else None,
        "window": _window(visits, window, when) if window else None,
    }


def known_in_time(stays: Stays, visits: pl.DataFrame, window: Window) -> Stays:
    """`stays` without what stands in the visits' own table and is known too late for `window`.

    Whatever stands there has no time, and counts as known when its visit ends.
    """
    if stays.cells is None:
        return stays
    if window.anchor not in visits.columns:
        raise UsageError(WANTS_PREDICTION)
    limit = window.limit()
    unknown = pl.col("end").is_null()
    if window.anchor != "prediction_time":
        unknown |= limit.is_null()
    fate = pl.when(unknown).then(pl.lit(NO_TIME)).when(pl.col("end") > limit).then(pl.lit(LATE))
    fates = visits.select(schema.VISIT_ID, fate=fate).drop_nulls("fate")

    def kept(rows: pl.DataFrame | None) -> pl.DataFrame | None:
        return None if rows is None else rows.join(fates, on=schema.VISIT_ID, how="anti")

    cells = stays.cells.join(fates, on=schema.VISIT_ID, how="left")
    cells = cells.with_columns(outcome=pl.coalesce("fate", "outcome")).drop("fate")
    return replace(stays, codes=kept(stays.codes), values=kept(stays.values), cells=cells)


def _stays(visits: pl.DataFrame, subject: str) -> tuple[str, Moments, Moments, Moments]:
    if visits["end"].null_count() == len(visits):
        raise UsageError("attach by time: the source does not say when visits end")
    ids = visits[schema.SUBJECT_ID].to_numpy()
    return subject, ids, _moments(visits["start"]), _moments(visits["end"])


def _window(visits: pl.DataFrame, window: Window, when: When | None) -> tuple[Moments, Moments]:
    ends = _moments(visits["end"])
    if when is not None and when.unit == "minutes":
        if window.anchor != "start":
            raise UsageError(
                "until: events in minutes since admission want a window of admission+TIME"
            )
        return np.full(len(visits), window.minutes * MINUTE, np.int64), ends
    if window.anchor not in visits.columns:
        raise UsageError(WANTS_PREDICTION)
    limits = visits.select(window.limit().alias("limit"))["limit"]
    # A visit without a prediction lies before one that has it.
    return _moments(limits, NEVER if window.anchor == "prediction_time" else UNKNOWN), ends


def _moments(times: pl.Series, unknown: int = UNKNOWN) -> Moments:
    return times.cast(pl.Datetime("us")).cast(pl.Int64).fill_null(unknown).to_numpy()
