"""What a reader of the results has to know: who was left out, and what could not be estimated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
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


def on_folds(subjects: pl.DataFrame, by: Sequence[str], folds: int) -> Iterator[str]:
    """Notes on cells with fewer subjects than there are folds."""
    keys = [schema.LABEL, *by]
    cells = subjects.drop_nulls(keys).group_by(keys).len().sort(keys)
    for row in cells.filter(pl.col("len") < folds).iter_rows(named=True):
        yield (
            f"{_cell(row, keys)}: {row['len']} subjects, fewer than the {folds} folds, so some "
            "folds have nobody of them to be judged on"
        )


def _left_out(subjects: pl.DataFrame, grouping: Grouping) -> Iterator[str]:
    if grouping.left_out:
        groups = grouping.of(subjects)
        names = ", ".join(f"{name} ({(groups == name).sum()})" for name in grouping.left_out)
        yield (
            f"{grouping.name}: too few of the {len(subjects)} subjects to be judged by itself, "
            f"so left out there: {names}"
        )


def on_results(
    predictions: pl.DataFrame, groupings: Sequence[Grouping], methods: Sequence[str]
) -> Iterator[str]:
    """Notes on the pooled held-out visits of one arm."""
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


def on_cells(training: pl.DataFrame, by: Sequence[str], folds: int) -> Iterator[str]:
    """Notes on the (label x group) cells of the folds' training parts: small, or not there."""
    keys = [schema.LABEL, *by]
    fewest = training.group_by(keys).agg(pl.col("subjects").min(), pl.len().alias("in")).sort(keys)
    for row in fewest.iter_rows(named=True):
        if row["in"] < folds:
            yield f"{_cell(row, keys)}: nobody in {folds - row['in']} of {folds} training parts"
        elif row["subjects"] < SMALL_CELL:
            few = row["subjects"]
            yield f"{_cell(row, keys)}: as few as {few} real subjects in a fold's training part"
    known = training.select(pl.col(keys).drop_nulls().unique().implode())
    for name in by:
        if known[name].list.len().item() == 1:
            yield f"{name} has one value only: there is nothing to balance or to compare by it"
    for cell in product(*(known[name].item().sort().to_list() for name in keys)):
        row = dict(zip(keys, cell, strict=True))
        if fewest.filter(**row).is_empty():
            yield f"{_cell(row, keys)}: nobody, so no method makes any"


def _cell(row: Mapping[str, object], keys: Sequence[str]) -> str:
    return ", ".join(
        f"{key} {str(row[key]).lower() if key == schema.LABEL else row[key]}" for key in keys
    )
