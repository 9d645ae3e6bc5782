"""Tables that hold codes and values together (MEDS): an event with a number is a lab.

A number that is NaN is none, as pandas writes what is missing; an infinite one is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from equipoise import schema
from equipoise.events import Codes, Values, codes_of_rows
from equipoise.reading import SEPARATOR, Reading, check_names, check_rows, lab_name
from equipoise.sources.attach import (
    FATE,
    VISIT,
    Attaching,
    attach,
    check_columns,
    damaged,
    ids_of,
    scan,
)
from equipoise.sources.declaration import MixedEvents

NUMBER: Final = "__number"
KNOWN: Final = "__known"


def read_mixed(reading: Reading, events: MixedEvents, visits: pl.DataFrame) -> tuple[Values, Codes]:
    """The values and the codes of one table; each row is in the ledger of one of them."""
    files, visit = _placed(reading, events, visits)
    rows = _rows(files, events, visit, (visits, reading.ids_left_out))
    try:
        counts = rows.group_by("code", NUMBER, KNOWN, FATE).agg(pl.len().alias("rows"))
        counted = counts.collect(engine="streaming")
        check_rows(reading.files(events.table), int(counted["rows"].sum()))
        unique = counted.select("code").unique().drop_nulls().sort("code")
        names = events.name_codes(unique)
        kept = names.filter(pl.col("dropped").is_null())
        pairs = (
            rows.filter(~pl.col(NUMBER) & (pl.col(KNOWN) == schema.USED))
            .select("code", schema.VISIT_ID)
            .unique()
            .collect(engine="streaming")
        )
    except pl.exceptions.PolarsError as error:
        raise damaged(files, error) from None
    titles = _titles(reading, events, names)
    coded = pairs.join(kept, on="code").join(titles, on="code", how="left")
    coded = coded.select(schema.VISIT_ID, "kind", "system", pl.col("name").alias("code"), "title")
    codes = codes_of_rows(coded.sort(pl.all()), visits)
    ledger = _ledger(events, counted, names)
    values = _values(reading, events, (files, visit), visits, kept, titles)
    return (
        values._replace(ledger=ledger.filter(pl.col("table").str.ends_with("(values)"))),
        codes._replace(ledger=ledger.filter(pl.col("table").str.ends_with("(codes)"))),
    )


def _placed(reading: Reading, events: MixedEvents, visits: pl.DataFrame) -> tuple[list[Path], str]:
    """Files in which every event has its visit's id, and the name of that column."""
    files = reading.files(events.table)
    if events.visit is not None and reading.window is None:
        check_columns(files, [events.visit, *events.lab, events.value])
        return files, events.visit
    how = Attaching(events.visit, events.subject, [*events.lab, events.value], events.when)
    left_out = reading.left_out if events.visit is None else None
    return attach(files, how, visits, reading.window, reading.scratch, left_out), VISIT


def _rows(
    files: Sequence[Path],
    events: MixedEvents,
    visit: str,
    known_visits: tuple[pl.DataFrame, npt.NDArray[np.int64] | None],
) -> pl.LazyFrame:
    """code, visit_id, whether there is a number, and whether the visit is known (or why not)."""
    rows = scan(files)
    visits, left_out = known_visits
    # The core strips what it reads, too.
    code, id_ = pl.col(events.lab[0]).str.strip_chars(), ids_of(rows, visit)
    fate = pl.col(FATE) if visit == VISIT else pl.lit(None, pl.String)
    known = (
        pl.when(id_.is_null())
        .then(pl.lit("no visit id"))
        .when(id_.is_in(pl.Series([] if left_out is None else left_out, dtype=pl.Int64).implode()))
        .then(pl.lit("visit left out by the task"))
        .when(~id_.is_in(visits[schema.VISIT_ID].implode()))
        .then(pl.lit("unknown visit"))
        .when(code.fill_null("") == "")
        .then(pl.lit("no code"))
        .when(pl.col(NUMBER) & pl.col(events.value).is_infinite())
        .then(pl.lit("value is not finite"))
        .otherwise(pl.lit(schema.USED))
    )
    number = pl.col(events.value).is_not_nan().fill_null(value=False)
    return rows.with_columns(number.alias(NUMBER)).select(
        code.alias("code"),
        id_.alias(schema.VISIT_ID),
        NUMBER,
        known.alias(KNOWN),
        fate.alias(FATE),
    )


def _titles(reading: Reading, events: MixedEvents, names: pl.DataFrame) -> pl.DataFrame:
    titles = reading.titles(events.dictionary, names.select("code"))
    return names.select("code", titles.alias("title"))


def _ledger(events: MixedEvents, counted: pl.DataFrame, names: pl.DataFrame) -> pl.DataFrame:
    judged = counted.join(names.select("code", "dropped"), on="code", how="left")
    kind = pl.when(NUMBER).then(pl.lit("values")).otherwise(pl.lit("codes"))
    outcome = pl.coalesce("dropped", FATE, KNOWN)
    ledger = judged.group_by(
        pl.format("{} ({})", pl.lit(events.table), kind).alias("table"), outcome.alias("outcome")
    ).agg(pl.col("rows").sum().cast(pl.Int64))
    used_first = pl.col("outcome") != schema.USED
    return ledger.sort("table", used_first, "outcome").select(list(schema.LEDGER))


def _values(
    reading: Reading,
    events: MixedEvents,
    where: tuple[list[Path], str],
    visits: pl.DataFrame,
    kept: pl.DataFrame,
    titles: pl.DataFrame,
) -> Values:
    files, visit = where
    ids = visits[schema.VISIT_ID].to_numpy()
    columns = [visit, *events.lab, events.value]
    offsets, labs, values, names, _ = reading.means(events.table, files, columns, ids)
    parts = pl.DataFrame(
        [name.split(SEPARATOR) for name in names],
        schema=dict.fromkeys(events.lab, pl.String),
        orient="row",
    ).rename({events.lab[0]: "code"})
    titled = parts.join(titles, on="code", how="left", maintain_order="left")
    table = titled.select(
        lab_name(parts.columns), lab_name(["title", *parts.columns[1:]]).alias("title")
    )
    keep = parts["code"].is_in(kept["code"].implode()).to_numpy()
    table = table.filter(keep)
    check_names(events, table)
    owner = np.repeat(np.arange(len(visits)), np.diff(offsets))[keep[labs]]
    number = np.cumsum(keep) - 1
    counts = np.bincount(owner, minlength=len(visits))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    chosen = keep[labs]
    ledger = pl.DataFrame(schema=dict(schema.LEDGER))
    labs = number[labs[chosen]].astype(np.int32)
    return Values(offsets, labs, values[chosen], table, ledger)
