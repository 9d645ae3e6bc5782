"""Which trees predict unseen visits best: the settings of the sequential trees, on real tables.

python benches/sma_settings.py support2|diabetes130|simulated [--data ../shared/data]

Trees of four fifths of the subjects tell each variable of the last fifth's visits from its cell and
the visit's own columns before it. Brier score (0 is best) and negative log-likelihood, no
probability taken below 1e-4, are summed over variables and averaged over visits.
"""

from __future__ import annotations

import argparse
import time
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from scipy import sparse

import equipoise as eq
from equipoise import schema
from equipoise.balance.plan import cells_of
from equipoise.balance.rows import CellRows, rows_of
from equipoise.balance.sequential import SequenceConfig, attributes_of, fit_sequence
from equipoise.balance.trees import Stop

BY = ["race"]
SETTINGS = {
    "every split (CART)": SequenceConfig(stop=Stop(alpha=np.inf)),
    "alpha 5": SequenceConfig(stop=Stop(alpha=5)),
    "alpha 0.5": SequenceConfig(stop=Stop(alpha=0.5)),
    "**as it is: 100 parents, alpha 0.05, leaves of 5**": SequenceConfig(),
    "alpha 0.005": SequenceConfig(stop=Stop(alpha=0.005)),
    "leaves of 20": SequenceConfig(stop=Stop(min_leaf=20)),
    "30 parents": SequenceConfig(parents=30),
    "300 parents": SequenceConfig(parents=300),
    "label and groups alone": SequenceConfig(parents=0),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset", choices=["support2", "diabetes130", "simulated"])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    arguments = parser.parse_args()
    records = read(arguments.dataset, arguments.data)
    known = records.subjects[schema.LABEL].is_not_null().to_numpy()
    learned, unseen = records.take(np.flatnonzero(known)).split(fraction=0.8, seed=0)
    vocabulary = learned.fit_vocabulary()
    train, test = learned.encode(vocabulary), unseen.encode(vocabulary)
    cells, _ = cells_of(train, BY)
    attributes = attributes_of(cells.select(schema.LABEL, *BY))
    rows, held_out = rows_of(train, BY), held(test, cells.select(schema.LABEL, *BY).rows())
    print(f"{arguments.dataset}: {rows.X.shape[0]:,} rows, {held_out.X.shape[0]:,} unseen")
    print("| trees | Brier | -log L | nodes | CPU s |\n|---|---|---|---|---|")
    for name, config in SETTINGS.items():
        start = time.process_time()
        model = fit_sequence(rows, attributes, vocabulary, config)
        seconds = time.process_time() - start
        brier, loss = scores(model, held_out, attributes)
        nodes = sum(len(tree.feature) for tree in model.trees)
        print(f"| {name} | {brier:.3f} | {loss:.2f} | {nodes:,} | {seconds:.1f} |")


def read(dataset: str, data: Path) -> eq.VisitRecords:
    if dataset == "support2":
        return eq.read_tables(data / "support2", "support2")
    with TemporaryDirectory() as scratch:
        if dataset == "simulated":
            from equipoise.simulate import simulate

            out = Path(scratch) / "hospital"
            return eq.read_mimic_iv(simulate(out, patients=12_000, lab_rows_per_patient=100))
        with zipfile.ZipFile(data / "diabetes130" / "dataset_diabetes.zip") as archive:
            archive.extract("dataset_diabetes/diabetic_data.csv", scratch)
        return eq.read_tables(Path(scratch), "diabetes130")


def held(test: eq.Cohort, cells: list[tuple]) -> CellRows:
    """The rows of the test subjects, by the cells of the training ones; others are left out."""
    own, _ = cells_of(test, BY)
    rows = rows_of(test, BY)
    place = {cell: number for number, cell in enumerate(cells)}
    number = np.array([place.get(cell, -1) for cell in own.select(schema.LABEL, *BY).rows()])
    cell = number[rows.cell]
    return CellRows(rows.X[np.flatnonzero(cell >= 0)], cell[cell >= 0])


def scores(model, rows: CellRows, attributes: np.ndarray) -> tuple[float, float]:
    own = attributes[rows.cell].T
    z_FM = np.vstack([own, sparse.csc_array(rows.X)[:, model.order].toarray().T.astype(bool)])
    brier = loss = 0.0
    for variable, tree in zip(model.variables, model.trees, strict=True):
        share = np.diff(tree.up_to[tree.leaves(z_FM)], prepend=0, append=1, axis=1)
        bins = z_FM[variable.first : variable.last]
        actual = np.where(bins.any(axis=0), bins.argmax(axis=0) + 1, 0)
        p = share[np.arange(len(actual)), actual]
        brier += float(np.mean(np.square(share).sum(axis=1) - 2 * p + 1))
        loss -= float(np.mean(np.log(np.maximum(p, 1e-4))))
    return brier, loss


if __name__ == "__main__":
    main()
