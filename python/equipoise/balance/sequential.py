"""Sequential trees: each column of a visit is drawn given the cell and the columns before it.

Sequential synthesis (Reiter, J. Official Statistics 21:441, 2005; R's synthpop; Emam et al., JAMIA
Open 4:ooab012, 2021) for visits of thousands of sparse binary columns:

- The order is fixed: label and groups, then the variables by falling prevalence, ties by column.
  A lab is one variable, of its bins and "none": no drawn row has two of them. A code is another,
  and so is each bin of a lab of which some row has two.
- A variable's tree sees the label, each level of each group, and those `parents` of the columns
  before it by which the first split alone would lower the impurity most, ties by the order. A
  variable with fewer than `rare` ones sees label and groups alone.
- Every tree learns from the rows of all cells: small cells borrow from the large, except where a
  tree tells them apart. Leaves hold the observed shares, without smoothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import polars as pl
from scipy import sparse

from equipoise import schema
from equipoise.balance.rows import CellRows
from equipoise.balance.trees import LEAST, Bools, Ints, Stop, Tree, fall, grow
from equipoise.vocabulary import LAB, Vocabulary

#: So many columns' co-occurrences are counted at once, and so many rows are drawn at once.
BLOCK: Final = 256
DRAWN: Final = 8192


@dataclass(frozen=True)
class SequenceConfig:
    """parents: columns that a tree chooses from; rare: a variable with fewer ones has none."""

    parents: int = 100
    rare: int = 10
    stop: Stop = field(default_factory=Stop)


class Variable(NamedTuple):
    """The columns `first` .. `last - 1` of the ordered matrix: its tree's classes 1, 2, ..."""

    first: int
    last: int


class Ordered(NamedTuple):
    """z: (n, A + V) CSC, the A attributes, then the columns in the order in which they are drawn.

    order: (V,) the vocabulary's column behind each of them.
    """

    z: sparse.csc_array
    order: Ints
    variables: list[Variable]


class SequentialTrees(NamedTuple):
    """`order` and `variables` as in `Ordered`, and each variable's tree."""

    order: Ints
    variables: list[Variable]
    trees: list[Tree]


def attributes_of(cells: pl.DataFrame) -> Bools:
    """(cells, A) the label, then one column for each level of each group."""
    label, *groups = cells.get_columns()
    levels = [group == level for group in groups for level in group.unique().sort()]
    return np.stack([column.to_numpy() for column in (label, *levels)], axis=1)


def fit_sequence(
    rows: CellRows,
    attributes: Bools,
    vocabulary: Vocabulary,
    config: SequenceConfig,
    progress: schema.Progress = schema.no_progress,
) -> SequentialTrees:
    """The trees of all variables, from at least one row; attributes: (cells, A)."""
    ordered = order_variables(rows, attributes, vocabulary)
    trees = []
    for tree in grow_all(ordered, attributes.shape[1], config):
        trees.append(tree)
        progress("sma: trees", len(trees), len(ordered.variables))
    return SequentialTrees(ordered.order, ordered.variables, trees)


def draw_rows(
    model: SequentialTrees,
    attributes: Bools,
    seed: int,
    progress: schema.Progress = schema.no_progress,
) -> sparse.csr_array:
    """(M, V) 0/1 rows with these attributes (M, A)."""
    blocks = []
    for start in range(0, len(attributes), DRAWN):
        rng = np.random.default_rng((seed, start))
        blocks.append(_draw(model, attributes[start : start + DRAWN], rng))
        progress("sma: rows", min(start + DRAWN, len(attributes)), len(attributes))
    return sparse.csr_array(sparse.vstack(blocks, format="csr"))


def order_variables(rows: CellRows, attributes: Bools, vocabulary: Vocabulary) -> Ordered:
    """The rows with their cells' attributes in front, and all columns in the order of drawing."""
    ones = np.asarray(rows.X.sum(axis=0)).astype(np.int64)
    parts = _parts(rows.X, vocabulary)
    frequent = np.argsort([-ones[part].sum() for part in parts], kind="stable")
    parts = [parts[i] for i in frequent]
    order = np.concatenate([np.zeros(0, np.int64), *parts])
    ends = attributes.shape[1] + np.cumsum([len(part) for part in parts])
    variables = [
        Variable(int(end) - len(part), int(end)) for part, end in zip(parts, ends, strict=True)
    ]
    own = sparse.csc_array(attributes[rows.cell].astype(np.float32))
    z = sparse.hstack([own, rows.X.tocsc()[:, order]], format="csc")
    return Ordered(z, order, variables)


def grow_all(ordered: Ordered, attributes: int, config: SequenceConfig) -> Iterator[Tree]:
    """The trees of all variables, in their order, whose features are columns of `ordered.z`."""
    z, given = ordered.z, np.arange(attributes)
    ones = np.diff(z.indptr)
    frequent = [v for v in ordered.variables if ones[v.first : v.last].sum() >= config.rare]
    joints = _joint_counts(z, frequent, attributes)
    for variable in ordered.variables:
        y = _classes(z, variable)
        total = np.bincount(y, minlength=variable.last - variable.first + 1)
        parents = given
        # The rare ones are the last, so that the counts do not run out of step.
        if len(y) - total[0] >= config.rare:
            within = ones[attributes : variable.first]
            chosen = preselected(within, total, next(joints), config)
            parents = np.concatenate([given, attributes + chosen])
        tree = grow(z[:, parents].tocsr(), y, len(total), config.stop)
        yield tree._replace(feature=np.where(tree.feature < 0, -1, parents[tree.feature]))


def preselected(within: Ints, total: Ints, joint: Ints, config: SequenceConfig) -> Ints:
    """The columns (at most `parents`) whose split alone tells most of a variable, most first.

    within: (P,) ones of each column; total: (C,) rows of each class; joint: (C - 1, P) rows that
    have both the class, from 1 on, and the column. A column that cannot split is never chosen.
    """
    useful = np.minimum(within, total.sum() - within) >= max(config.stop.min_leaf, 1)
    inside = np.concatenate([(within - joint.sum(axis=0))[None], joint])
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.where(useful, fall(within[None], total[None], inside[None])[0], 0.0)
    best = np.argsort(-gain, kind="stable")[: config.parents]
    return best[gain[best] > LEAST]


def _joint_counts(
    z: sparse.csc_array, variables: Sequence[Variable], attributes: int
) -> Iterator[Ints]:
    """For each variable (its columns, all columns before it) in how many rows both occur."""
    start = 0
    while start < len(variables):
        stop = start + 1
        first = variables[start].first
        while stop < len(variables) and variables[stop].last - first <= BLOCK:
            stop += 1
        last = variables[stop - 1].last
        # Whole numbers in float32: exact up to 16 million rows.
        block = (z[:, first:last].T @ z[:, attributes:last]).toarray().astype(np.int64)
        for variable in variables[start:stop]:
            own = block[variable.first - first : variable.last - first]
            yield own[:, : variable.first - attributes]
        start = stop


def _classes(z: sparse.csc_array, variable: Variable) -> Ints:
    """(n,) 0 where a row has none of the variable's columns, else which, from 1 on."""
    y = np.zeros(z.shape[0], np.int64)
    spans = z.indptr[variable.first : variable.last + 1]
    y[z.indices[spans[0] : spans[-1]]] = np.repeat(np.arange(1, len(spans)), np.diff(spans))
    return y


def _parts(X: sparse.csr_array, vocabulary: Vocabulary) -> list[Ints]:
    """The columns of each variable, in the order of their first ones."""
    names = vocabulary.columns.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("place"))
    of_lab = names.filter(pl.col("kind") == LAB).group_by("code", maintain_order=True)
    labs = [frame["place"].to_numpy() for _, frame in of_lab]
    by_column = X.tocsc()
    exclusive = [lab for lab in labs if by_column[:, lab].sum(axis=1).max(initial=0) <= 1]
    single = np.setdiff1d(names["place"], np.concatenate([np.zeros(0, np.int64), *exclusive]))
    return sorted([*exclusive, *single[:, None]], key=lambda part: int(part[0]))


def _draw(model: SequentialTrees, attributes: Bools, rng: np.random.Generator) -> sparse.csr_array:
    made, given = len(attributes), attributes.shape[1]
    z_FM = np.zeros((given + len(model.order), made), bool)
    z_FM[:given] = attributes.T
    for variable, tree in zip(model.variables, model.trees, strict=True):
        drawn = tree.draw(z_FM, rng.random(made))
        rows = np.flatnonzero(drawn)
        z_FM[variable.first - 1 + drawn[rows], rows] = True
    place, rows = np.nonzero(z_FM[given:])
    shape = (made, len(model.order))
    ones = np.ones(len(rows), np.float32)
    return sparse.csr_array((ones, (rows, model.order[place])), shape=shape)
