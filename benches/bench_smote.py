"""What SMOTE costs, and what SMOTE-N would: `python benches/bench_smote.py`.

Processor seconds and the growth of the process's peak memory on rows of about 30 independent codes.
"""

from __future__ import annotations

import resource
import time
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
from imblearn.over_sampling import SMOTEN
from scipy import sparse

from equipoise.balance.smote import rows_between


def rows_of(count: int, columns: int, seed: int = 0) -> sparse.csr_array:
    """(count, columns) zeros and ones, 30 ones a row wanted, a few codes being common."""
    rng = np.random.default_rng(seed)
    rate = 1 / np.arange(1, columns + 1) ** 0.8
    rate = np.minimum(30 * rate / rate.sum(), 0.9)
    parts = [
        sparse.csr_array((rng.random((min(1000, count - first), columns)) < rate).astype("f4"))
        for first in range(0, count, 1000)
    ]
    return sparse.csr_array(sparse.vstack(parts, format="csr"))


def measure(name: str, ones: float, make: Callable[[], sparse.csr_array | np.ndarray]) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    new = make()
    seconds = time.process_time() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(
        f"{name}: {seconds:.2f} s, {grown:.0f} MiB more, ones a row {ones:.1f} -> "
        f"{new.sum() / new.shape[0]:.1f}"
    )


def smoten(X: sparse.csr_array) -> np.ndarray:
    """As many new rows of the first quarter, which is one cell, as the others together have."""
    count, cell = X.shape[0], X.shape[0] // 4
    classes = np.repeat([0, 1], [cell, count - cell])
    sampler = SMOTEN(sampling_strategy={0: count - cell}, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows, _ = sampler.fit_resample(X.toarray().astype(np.int8), classes)
    return rows[count:]


def main() -> None:
    for count, columns in ((10_000, 1301), (20_000, 1301)):
        X, rng = rows_of(count, columns), np.random.default_rng(0)
        name = f"smote, a cell of {count:,} x {columns:,}, as many new"
        measure(name, X.nnz / count, partial(rows_between, X, X.shape[0], rng))
    for count, columns in ((2000, 300), (2000, 1301), (4000, 1301)):
        X = rows_of(count, columns)
        name = f"SMOTE-N, a cell of {count // 4:,} among {count:,} x {columns:,}"
        measure(name, X.nnz / count, partial(smoten, X))


if __name__ == "__main__":
    main()
