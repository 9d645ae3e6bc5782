"""Visit rows of a cell, and synthetic subjects of one visit made of new rows.

SMOTE, MCRAGE and SMA know single rows, not records of several visits. A row of a (label x group)
cell is a visit whose own label is the cell's: every visit of a negative subject, the last one of a
positive subject. A new row becomes a subject of its own with that one visit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse

from equipoise import schema
from equipoise.balance.plan import REAL, SYNTHETIC, BalancePlan, cells_of, name_of_cell
from equipoise.cohort import Cohort, concat
from equipoise.errors import DataError
from equipoise.ragged import offsets_of


class CellRows(NamedTuple):
    """X: (n, V) CSR of float32 ones; cell: (n,) places in the cells of the plan."""

    X: sparse.csr_array
    cell: npt.NDArray[np.int64]


def rows_of(train: Cohort, by: Sequence[str]) -> CellRows:
    """The rows of every cell of `plan_balance(train, by)`, in visit order.

    Visits of subjects in no cell, and a positive subject's visits before the last, are no rows.
    Raises `DataError` for a cell whose subjects have no visit with their own label.
    """
    cells, place = cells_of(train, by)
    owner = train.subject_of_visit()
    label = train.subjects[schema.LABEL].gather(owner)
    own = (train.visits[schema.LABEL] == label).fill_null(value=False).to_numpy()
    rows = np.flatnonzero(own & (place[owner] >= 0))
    cell = place[owner[rows]]
    bare = np.setdiff1d(np.arange(len(cells)), cell)
    if len(bare):
        row = cells.row(int(bare[0]), named=True)
        raise DataError(
            f"the cell of {name_of_cell(row, by)}",
            table="visits",
            column=schema.LABEL,
            want="at least one visit with the label of its subject",
            got=f"none of {row[REAL]} subjects",
        )
    return CellRows(train.matrix()[rows], cell)


def with_rows(train: Cohort, plan: BalancePlan, made: Sequence[sparse.csr_array]) -> Cohort:
    """`train`, then one synthetic subject with one visit for each new row of each cell.

    made: for each cell of the plan a 0/1 matrix (its `synthetic`, V), in the order of the cells.
    Ids of the new subjects and visits count from 0: `schema.SYNTHETIC` tells them from real ones.
    Raises `DataError` where a cell has another number of rows than the plan asks for.
    """
    wanted = plan.cells[SYNTHETIC].to_list()
    got = [rows.shape[0] for rows in made]
    if got != wanted:
        raise DataError(table="plan", column=SYNTHETIC, want=f"{wanted} rows", got=f"{got}")
    if plan.synthetic == 0:
        return train
    X = sparse.csr_array(sparse.vstack([*made], format="csr"))
    X.eliminate_zeros()
    X.sum_duplicates()
    repeated = np.repeat(np.arange(len(wanted)), wanted)
    cells = plan.cells.select(schema.LABEL, *plan.by)[repeated]
    number = pl.int_range(pl.len(), dtype=pl.Int64)
    subjects = cells.with_columns(
        number.alias(schema.SUBJECT_ID),
        pl.lit(schema.TRAIN).alias(schema.SPLIT),
        pl.lit(value=True).alias(schema.SYNTHETIC),
    )
    visits = cells.select(number.alias(schema.VISIT_ID), schema.LABEL)
    new = Cohort(
        subjects=subjects,
        visits=visits,
        visit_offsets=offsets_of(np.ones(len(cells), np.int64)),
        code_offsets=X.indptr.astype(np.int64),
        codes=X.indices.astype(np.int32),
        vocabulary=train.vocabulary,
    )
    return concat([train, new])
