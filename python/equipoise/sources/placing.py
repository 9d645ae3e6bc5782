"""How the compiled reader is told to which visit an event belongs, and until when events count."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt
import polars as pl

from equipoise import schema
from equipoise.errors import DataError, UsageError
from equipoise.sources.declaration import LATEST_END, SUBJECT_WORD, VISIT_WORD, Stays, When
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
    subject, start and end, also of those that are left out, for events without a visit id. window:
    each visit's last moment that counts, and the moment of its events where the table has no times.
    words: what tables call visits and subjects, and the numbers of those (word, number).
    """

    time: tuple[str, str] | None
    stays: tuple[str, Moments, Moments, Moments] | None
    window: tuple[Moments, Moments] | None
    words: Words


class Words(NamedTuple):
    """Ids that are words (word, number); None where they are whole numbers."""

    visits: pl.DataFrame | None = None
    subjects: pl.DataFrame | None = None


def words_of(visits: pl.DataFrame) -> Words:
    """What tables call all visits that a source knows, and their subjects."""
    columns = ((VISIT_WORD, schema.VISIT_ID), (SUBJECT_WORD, schema.SUBJECT_ID))
    return Words(
        *(
            visits.select(word=word, number=number).drop_nulls().unique(maintain_order=True)
            if word in visits.columns
            else None
            for word, number in columns
        )
    )


def placing_of(
    visits: pl.DataFrame,
    left_out: pl.DataFrame | None,
    window: Window | None,
    when: When | None,
    subject: str | None = None,
    words: Words | None = None,
) -> Placing | None:
    """How events are placed; None: by their visit id, a whole number, alone.

    `subject` is the column of subjects if events without a visit id are placed by their time; then
    those in visits that are `left_out` are told, too.
    Raises `UsageError` for a window or a placing that needs what is not known, `DataError` if no
    visit says when it was.
    """
    words = words or Words()
    words = words if subject else words._replace(subjects=None)
    if window is None and subject is None and words.visits is None:
        return None
    if subject is not None and (when is None or when.unit != "time"):
        raise UsageError("attach by time: the source does not say at what time events happened")
    return {
        "time": (when.column, when.unit) if when and (window or subject) else None,
        "stays": _stays(visits, left_out, subject) if subject else None,
        "window": _window(visits, window, when) if window else None,
        "words": words,
    }


def known_in_time(stays: Stays, visits: pl.DataFrame, window: Window) -> Stays:
    """`stays` without what stands in the visits' own table and is known too late for `window`.

    Whatever stands there has no time, and counts as known when its visit ends; in a window from
    admission it is always too late, as for the core (see `_window`).
    """
    if stays.cells is None:
        return stays
    if window.anchor not in visits.columns:
        raise UsageError(WANTS_PREDICTION)
    limit = window.limit()
    unknown = pl.col("end").is_null()
    if window.anchor != "prediction_time":
        unknown |= limit.is_null()
    late = (pl.col("end") > limit) | pl.lit(window.anchor == "start")
    fate = pl.when(unknown).then(pl.lit(NO_TIME)).when(late).then(pl.lit(LATE))
    fates = visits.select(schema.VISIT_ID, fate=fate).drop_nulls("fate")

    def kept(rows: pl.DataFrame | None) -> pl.DataFrame | None:
        return None if rows is None else rows.join(fates, on=schema.VISIT_ID, how="anti")

    cells = stays.cells.join(fates, on=schema.VISIT_ID, how="left")
    cells = cells.with_columns(outcome=pl.coalesce("fate", "outcome")).drop("fate")
    return replace(stays, codes=kept(stays.codes), values=kept(stays.values), cells=cells)


def _stays(
    visits: pl.DataFrame, left_out: pl.DataFrame | None, subject: str
) -> tuple[str, Moments, Moments, Moments]:
    columns = [schema.SUBJECT_ID, "start", LATEST_END if LATEST_END in visits.columns else "end"]
    parts = [visits] if left_out is None else [visits, left_out]
    ids, starts, ends = pl.concat([part.select(columns) for part in parts])
    if not (starts.is_not_null() & ends.is_not_null()).any():
        want = "when visits start and end, for events are placed by time"
        raise DataError(table="visits", column="start, end", want=want, got="none that says both")
    return subject, ids.to_numpy(), _moments(starts), _moments(ends)


def _window(visits: pl.DataFrame, window: Window, when: When | None) -> tuple[Moments, Moments]:
    ends = _moments(visits["end"])
    if window.anchor == "start":
        # Else who has such events would be who left, or died, within the window.
        ends = np.where(ends == UNKNOWN, UNKNOWN, NEVER)
    if when is not None and when.unit == "minutes":
        if window.anchor != "start":
            raise UsageError(
                "until: events in minutes since admission want a window of admission+TIME"
            )
        return np.full(len(visits), window.minutes * MINUTE, np.int64), ends
    if window.anchor not in visits.columns:
        raise UsageError(WANTS_PREDICTION)
    limits = visits.select(window.limit().alias("limit"))["limit"]
    # A visit without a limit has no prediction after it.
    return _moments(limits, NEVER if window.anchor == "prediction_time" else UNKNOWN), ends


def _moments(times: pl.Series, unknown: int = UNKNOWN) -> Moments:
    return times.cast(pl.Datetime("us")).cast(pl.Int64).fill_null(unknown).to_numpy()
