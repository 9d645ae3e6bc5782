"""Whether MCRAGE's diffusion has the right marginals: SUPPORT2, against held-out visits.

    python benches/studies/mcrage.py [--data ../shared/data] [--seed 0]

Four fifths of the subjects are learned from (a tenth of them tells when to stop); as many visits
are drawn, in the same cells. R2 is that of the columns' shares, and of the shares of pairs of
columns, against the last fifth; "training visits" is what no generator can expect to pass.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse

import equipoise as eq
from equipoise import schema
from equipoise.balance.diffusion.config import DiffusionConfig
from equipoise.balance.diffusion.mcrage import Rows, draw, fit
from equipoise.balance.diffusion.variables import variables_of
from equipoise.balance.plan import REAL, cells_of
from equipoise.balance.rows import CellRows, rows_of
from equipoise.generator.conditions import Conditions
from equipoise.ragged import offsets_of

BY = ["race"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    records = eq.read_tables(asked.data / "support2", "support2")
    learning, held_out = records.split(fraction=0.8, seed=asked.seed)
    fitting, tuning = learning.split(fraction=0.9, seed=asked.seed)
    vocabulary = eq.Vocabulary.fit(fitting)
    train, tune, judge = (part.encode(vocabulary) for part in (fitting, tuning, held_out))
    real, watched, unseen = (rows_of(part, BY) for part in (train, tune, judge))
    cells, _ = cells_of(train, BY)
    conditions = Conditions(cells.select(schema.LABEL, *BY, pl.col(REAL).alias("subjects")),
                            tuple(BY))  # fmt: skip
    bits = conditions.encode(cells)[real.cell]
    config = DiffusionConfig.for_rows(*real.X.shape)
    start = time.process_time()
    model = fit(
        Rows(real.X, bits),
        Rows(watched.X, conditions.encode(cells_of(tune, BY)[0])[watched.cell]),
        variables_of(vocabulary, real.X),
        config,
        asked.seed,
        schema.no_progress,
    )
    trained = time.process_time()
    new = draw(model, bits, asked.seed, schema.no_progress)
    done = time.process_time()
    print(f"{len(real.cell)} visits to learn from, {real.X.shape[1]} columns; {config}")
    print(f"fitted in {trained - start:.0f} s of processors, drawn in {done - trained:.0f} s\n")
    table(real, CellRows(new, real.cell), alone(real, asked.seed), unseen, cells)
    print(f"\nVisits with two bins of one lab: {doubled(new, vocabulary)} of {new.shape[0]}")


def table(
    real: CellRows, new: CellRows, single: CellRows, unseen: CellRows, cells: pl.DataFrame
) -> None:
    print("| cell | held-out visits | | R2 columns | R2 pairs | codes a visit | sd |")
    print("|---|---|---|---|---|---|---|")
    sizes = np.bincount(unseen.cell, minlength=len(cells))
    for place in [None, *np.flatnonzero(sizes >= 100)]:
        name = "all" if place is None else " ".join(str(v) for v in cells.row(int(place))[:-1])
        truth = part(unseen, place)
        for what, rows in (
            ("training visits", real), ("mcrage", new), ("columns drawn alone", single)
        ):  # fmt: skip
            got = part(rows, place)
            lengths = np.diff(got.indptr)
            print(
                f"| {name} | {truth.shape[0]} | {what} | {r2(shares(truth), shares(got)):.4f} | "
                f"{r2(pairs(truth), pairs(got)):.4f} | {lengths.mean():.2f} | {lengths.std():.2f} |"
            )
    lengths = np.diff(unseen.X.indptr)
    print(f"\nHeld out: {lengths.mean():.2f} codes a visit, sd {lengths.std():.2f}.")


def alone(real: CellRows, seed: int) -> CellRows:
    """Each column drawn by its share in the cell, without the others."""
    rng = np.random.default_rng(seed)
    dense = np.zeros(real.X.shape, np.float32)
    for place in np.unique(real.cell):
        rows = np.flatnonzero(real.cell == place)
        share = real.X[rows].mean(axis=0)
        dense[rows] = rng.random((len(rows), real.X.shape[1])) < share
    return CellRows(sparse.csr_array(dense), real.cell)


def part(rows: CellRows, place: Any) -> sparse.csr_array:
    return rows.X if place is None else rows.X[np.flatnonzero(rows.cell == place)]


def shares(X: sparse.csr_array) -> npt.NDArray[np.float64]:
    return np.asarray(X.mean(axis=0)).ravel()


def pairs(X: sparse.csr_array) -> npt.NDArray[np.float64]:
    both = (X.T @ X).toarray() / X.shape[0]
    return both[np.triu_indices(len(both), 1)]


def r2(truth: npt.NDArray[np.float64], got: npt.NDArray[np.float64]) -> float:
    return float(1 - ((truth - got) ** 2).sum() / ((truth - truth.mean()) ** 2).sum())


def doubled(X: sparse.csr_array, vocabulary: eq.Vocabulary) -> int:
    is_lab = (vocabulary.columns["kind"] == "lab").to_numpy()
    lab = vocabulary.columns["code"].rank("dense").to_numpy().astype(int)
    belongs = sparse.csr_array(
        (np.ones(is_lab.sum()), lab[is_lab], offsets_of(is_lab.astype(np.int64))),
        shape=(len(is_lab), lab.max() + 1),
    )
    return int(((X @ belongs).toarray() > 1).any(axis=1).sum())


if __name__ == "__main__":
    main()
