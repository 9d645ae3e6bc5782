"""What a reader of the results has to know: who was left out, and what could not be estimated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import polars as pl

from equipoise import schema
from equipoise.evaluate.benefit import FEWEST_POSITIVES
from equipoise.evaluate.fairness import majority
from equipoise.evaluate.judging import CONTROL, Grouping

#: Below this many real subjects in training, a cell teaches a generator little.
SMALL_CELL: Final = 5


def on_data(
    subjects: pl.DataFrame, by: Sequence[str], left_out: int, groupings: Sequence[Grouping]
) -> Iterator[str]:
    """Notes on the subjects with a known label; `left_out` counts the others."""
    if left_out:
        yield f"{left_out} subjects left out: their label is unknown"
    for name in by:
        unknown = subjects[name].null_count()
        if unknown:
            yield f"{unknown} subjects are in no group of {name}: it is unknown"
    for grouping in groupings:
        yield from _left_out(subjects, grouping)
        sizes = grouping.sizes(subjects)
        largest = [
            name for name, size in zip(grouping.groups, sizes, strict=True) if size == sizes.max()
        ]
        if len(largest) > 1:
            first = grouping.groups[majority(sizes)]
            yield f"{grouping.name}: {', '.join(largest)} are equally large; majority is {first}"


def _left_out(subjects: pl.DataFrame, grouping: Grouping) -> Iterator[str]:
    if grouping.left_out:
        groups = grouping.of(subjects)
        names = ", ".join(f"{name} ({(groups == name).sum()})" for name in grouping.left_out)
        yield (
            f"{grouping.name}: too few of the {len(subjects)} subjects to be judged by itself, "
            f"so left out there: {names}"
        )


def on_results(
    predictions: pl.DataFrame,
    cells: pl.DataFrame,
    groupings: Sequence[Grouping],
    methods: Sequence[str],
) -> Iterator[str]:
    """Notes on the pooled held-out visits of one arm, and on the real cells of every fold."""
    if CONTROL not in methods:
        yield f"no gains: there is no method called {CONTROL} to measure them from"
    one = predictions.select("method", "model").row(0)
    arm = predictions.filter(pl.col("method") == one[0], pl.col("model") == one[1])
    for grouping in groupings:
        positive = grouping.of(arm.filter(schema.LABEL))
        for name in grouping.groups:
            found = int((positive == name).sum())
            if found < FEWEST_POSITIVES:
                where = f"{grouping.name} {name}" if grouping.columns else name
                yield (
                    f"{where}: {found} positive visits in all folds together; "
                    f"fewer than {FEWEST_POSITIVES} are too few to judge by"
                )
    yield from _small_cells(cells)


def _small_cells(cells: pl.DataFrame) -> Iterator[str]:
    real = cells.filter(pl.col("method") == cells["method"][0])
    by = cells.columns[cells.columns.index("visit_share") + 1 :]
    keys = [schema.LABEL, *by]
    fewest = real.group_by(keys).agg(pl.col("subjects").min()).sort(keys)
    for row in fewest.filter(pl.col("subjects") < SMALL_CELL).iter_rows(named=True):
        cell = ", ".join(
            f"{key} {str(row[key]).lower() if key == schema.LABEL else row[key]}" for key in keys
        )
        yield f"{cell}: as few as {row['subjects']} real subjects in a fold's training part"
