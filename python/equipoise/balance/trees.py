"""Decision trees of one categorical column given sparse binary ones, grown from counts.

CART (Breiman et al. 1984): every node asks for one column, the one that lowers the Gini impurity
most. For two classes the relative fall of the impurity times N is Pearson's chi-squared, for more
it is that of CATANOVA (Light & Margolin, JASA 66:534, 1971). By that a split is tested, with
Bonferroni's correction for the columns to choose from, as in conditional inference trees (Hothorn
et al., J. Comp. Graph. Stat. 15:651, 2006): a hundred columns always hold one that fits by chance,
and trees that follow it predict unseen rows badly (benches/RESULTS.md).

All nodes of a level are split at once. A node's counts are its parent's less its sibling's, so
that only the rows of the smaller of two siblings are ever counted: a tree that peels off a few
rows at a time, as trees of rare columns do, costs little more than its root.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse, special

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

#: A fall of the impurity below this is rounding.
LEAST: Final = 1e-9


@dataclass(frozen=True)
class Stop:
    """When a node stays a leaf.

    min_leaf: a leaf keeps at least so many rows (synthpop's `minbucket`).
    alpha: how often the best of the columns may seem to split what is independent of all of them;
    infinity takes every split, as plain CART does.
    """

    min_leaf: int = 5
    alpha: float = 0.05


class Tree(NamedTuple):
    """Nodes in the order of their levels, the root first.

    feature: (nodes,) the column that is asked for, -1 at a leaf.
    child: (nodes,) where to go if it is 0; if it is 1, to the next one.
    up_to: (nodes, C - 1) share of the node's rows whose class is at most c, for all but the last.
    """

    feature: Ints
    child: Ints
    up_to: Floats

    def leaves(self, z_FM: Bools) -> Ints:
        """(M,) the leaf of each of the M columns of `z_FM`, whose rows are the features."""
        node = np.zeros(z_FM.shape[1], np.int64)
        moving = np.arange(len(node))
        while len(moving):
            at = node[moving]
            feature = self.feature[at]
            asked = feature >= 0
            moving, at, feature = moving[asked], at[asked], feature[asked]
            node[moving] = self.child[at] + z_FM[feature, moving]
        return node

    def draw(self, z_FM: Bools, u_M: Floats) -> Ints:
        """(M,) a class of each leaf's distribution, from uniforms in [0, 1)."""
        drawn: Ints = (u_M[:, None] >= self.up_to[self.leaves(z_FM)]).sum(axis=1)
        return drawn


def grow(x_NP: sparse.csr_array, y_N: Ints, classes: int, stop: Stop) -> Tree:
    """The tree of `y_N` (0 .. classes - 1) given 0/1 columns; N and P must not be 0.

    Leaves hold the observed shares, unsmoothed: a draw is a row of the leaf taken at random
    (Reiter, J. Official Statistics 21:441, 2005).
    """
    dense = x_NP.toarray().astype(bool)
    rows, node = np.arange(len(y_N)), np.zeros(len(y_N), np.int64)
    ones = _ones(x_NP, node * classes + y_N, 1, classes)
    total = np.bincount(y_N, minlength=classes)[None]
    levels: list[Tree] = []
    nodes = 1
    while True:
        best = _best(total, ones, stop)
        split = np.flatnonzero(best >= 0)
        child = np.full(len(best), -1)
        child[split] = nodes + 2 * np.arange(len(split))
        shares = np.cumsum(total, axis=1)[:, :-1] / total.sum(axis=1, keepdims=True)
        levels.append(Tree(best, child, shares))
        if not len(split):
            return Tree(*map(np.concatenate, zip(*levels, strict=True)))
        asked = best[node] >= 0
        rows, node = rows[asked], node[asked]
        side = child[node] - nodes + dense[rows, best[node]]
        y = y_N[rows]
        total = np.bincount(side * classes + y, minlength=2 * len(split) * classes)
        total = total.reshape(-1, classes)
        smaller = _smaller(total)
        counted = side == smaller[side // 2]
        pair = side[counted] // 2
        few = _ones(x_NP[rows[counted]], pair * classes + y[counted], len(split), classes)
        ones = _siblings(few, ones[split], smaller)
        nodes, node = nodes + len(total), side


def fall(within: Ints, total: Ints, ones: Ints) -> Floats:
    """N times the fall of Gini's impurity by each split: (nodes, P).

    within: (nodes, P) rows on the split's 1 side; total: (nodes, C) rows by class; ones:
    (nodes, C, P) those of the 1 side. A side without rows makes it NaN or infinite.
    """
    n = total.sum(axis=1)[:, None]
    zeros = total[:, :, None] - ones
    square = np.square(total).sum(axis=1)[:, None] / n
    one_side, zero_side = np.square(ones).sum(axis=1), np.square(zeros).sum(axis=1)
    gain: Floats = one_side / within + zero_side / (n - within) - square
    return gain


def _best(total: Ints, ones: Ints, stop: Stop) -> Ints:
    """(nodes,) the column to split by, the first of equals; -1: it stays a leaf."""
    n, columns = total.sum(axis=1), ones.shape[2]
    alpha = min(1.0, stop.alpha / columns)
    within = ones.sum(axis=1)
    allowed = np.minimum(within, n[:, None] - within) >= max(stop.min_leaf, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.where(allowed, fall(within, total, ones), 0.0)
        best = gain.argmax(axis=1)
        impurity = n - np.square(total).sum(axis=1) / n
        freedom = (total > 0).sum(axis=1) - 1
        chi2 = (n - 1) * freedom * gain[np.arange(len(n)), best] / impurity
    worth = (freedom > 0) & (chi2 > special.chdtri(np.maximum(freedom, 1), alpha))
    return np.where(worth & (chi2 > LEAST), best, -1)


def _ones(x_NP: sparse.csr_array, key: Ints, nodes: int, classes: int) -> Ints:
    """(nodes, C, P) rows of each node and class that have each column; key: node * C + class."""
    columns = x_NP.shape[1]
    flat = np.repeat(key * columns, np.diff(x_NP.indptr)) + x_NP.indices
    counts = np.bincount(flat, minlength=nodes * classes * columns)
    return counts.reshape(nodes, classes, columns)


def _smaller(total: Ints) -> Ints:
    """(pairs,) which child of each pair has fewer rows."""
    sizes = total.sum(axis=1).reshape(-1, 2)
    smaller: Ints = 2 * np.arange(len(sizes)) + (sizes[:, 1] < sizes[:, 0])
    return smaller


def _siblings(few: Ints, parents: Ints, smaller: Ints) -> Ints:
    both = np.empty((2 * len(few), *few.shape[1:]), np.int64)
    both[smaller] = few
    both[smaller ^ 1] = parents - few
    return both
