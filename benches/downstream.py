"""What the five models cost, and what the whole experiment would: processor seconds, one thread.

    python benches/downstream.py

Rows are synthetic: 1,301 columns, about 30 ones a row, frequencies by a power law, labels by a
random linear score (a tenth positive). With `--again` scores are
asserted to be the same when fitted again.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from scipy import sparse
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits

from equipoise.balance import METHODS
from equipoise.evaluate.downstream import MODELS

COLUMNS, ONES, FOLDS, LIMIT = 1301, 30, 5, 25 * 60 * 2


def rows(number: int, seed: int) -> tuple[sparse.csr_array, np.ndarray]:
    """(number, COLUMNS) rows of ones and their labels; the law is the same for every seed."""
    rate = 1 / (np.arange(COLUMNS) + 20.0)
    rate *= ONES / rate.sum()
    rng = np.random.default_rng(seed)
    blocks = [
        sparse.csr_array((rng.random((min(5000, number - s), COLUMNS)) < rate).astype(np.float32))
        for s in range(0, number, 5000)
    ]
    X = sparse.csr_array(sparse.vstack(blocks, format="csr"))
    weight = np.random.default_rng(99).normal(0, 0.7, COLUMNS)
    score = X @ weight
    return X, (rng.random(number) < 1 / (1 + np.exp(4.5 - score))).astype(np.int8)


def main() -> None:
    """Print a row for each model and size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="14000,40000")
    parser.add_argument("--again", action="store_true", help="Fit again: the same scores")
    asked = parser.parse_args()
    queries, truth = rows(6000, 1)
    print("| model | rows | fit and score 6,000, s | AUROC |\n|---|---|---|---|")
    seconds: dict[int, float] = {}
    for number in map(int, asked.rows.split(",")):
        X, y = rows(number, 0)
        for name, fit in MODELS.items():
            with threadpool_limits(1):
                start = time.process_time()
                scores = fit(X, y, None, 0, 1).scores(queries)
                took = time.process_time() - start
                if asked.again:
                    assert np.array_equal(scores, fit(X, y, None, 0, 1).scores(queries)), name
            seconds[number] = seconds.get(number, 0.0) + took
            auroc = roc_auc_score(truth, scores)
            print(f"| {name} | {number:,} | {took:.1f} | {auroc:.3f} |", flush=True)
        for name in ("knn",):
            with threadpool_limits(1):
                start = time.process_time()
                rival = KNeighborsClassifier(5, algorithm="brute").fit(X, y).predict_proba(queries)
                took = time.process_time() - start
            print(f"| scikit-learn's {name} | {number:,} | {took:.1f} | "
                  f"{roc_auc_score(truth, rival[:, 1]):.3f} |", flush=True)  # fmt: skip
    for number, whole in seconds.items():
        total = whole * len(METHODS) * FOLDS
        print(f"\nfive models x {len(METHODS)} methods x {FOLDS} folds of {number:,} rows: "
              f"{total:,.0f} s of {LIMIT:,} s (25 minutes of two cores)")  # fmt: skip


if __name__ == "__main__":
    main()
