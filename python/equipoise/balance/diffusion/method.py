"""MCRAGE as a balancing method: who is learned from, and which rows are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from equipoise import schema
from equipoise.balance.diffusion.config import DiffusionConfig
from equipoise.balance.diffusion.variables import variables_of
from equipoise.balance.plan import REAL, SYNTHETIC, cells_of, plan_balance
from equipoise.balance.rows import rows_of, with_rows
from equipoise.cohort import Cohort
from equipoise.errors import DataError

if TYPE_CHECKING:
    from equipoise.balance.diffusion.mcrage import Rows
    from equipoise.generator.conditions import Conditions


def mcrage(
    train: Cohort,
    by: Sequence[str],
    *,
    tuning: Cohort,
    seed: int,
    progress: schema.Progress = schema.no_progress,
    config: DiffusionConfig | None = None,
    ratio: float = 1.0,
    leave_small: bool = False,
) -> Cohort:
    """The training cohort and m - n synthetic subjects of one visit in each (label x group) cell.

    MCRAGE, Behal et al. (arXiv 2310.18430, 2023), with a discrete diffusion in place of their
    Gaussian one: see `equipoise.balance.diffusion`. It learns from the rows of `train` that
    `rows.rows_of` says; those of `tuning` only tell it when to stop. `config` defaults to
    `DiffusionConfig.for_rows`; `ratio` and `leave_small` are those of `plan_balance`.

    A row depends on the model, the seed, its cell and its number in the plan, never on its company.
    Raises what `plan_balance` does, and `DataError` for another vocabulary of `tuning`, if a side
    has no rows to use, if there are no columns, or if the loss is not finite.
    """
    plan = plan_balance(train, by, ratio=ratio, leave_small=leave_small)
    if plan.synthetic == 0:
        return train
    # Imported here: they bring JAX, which most balancing methods do without.
    from equipoise.balance.diffusion.mcrage import draw, fit
    from equipoise.generator.conditions import Conditions

    cells = plan.cells.select(schema.LABEL, *plan.by, pl.col(REAL).alias("subjects"))
    conditions = Conditions(cells, plan.by)
    real = _rows(train, conditions, "train")
    if not tuning.vocabulary.equals(train.vocabulary):
        raise DataError(table="tuning", want="the vocabulary of train", got="another")
    watched = _rows(tuning, conditions, "tuning")
    config = config or DiffusionConfig.for_rows(*real.X.shape)
    variables = variables_of(train.vocabulary, real.X)
    model = fit(real, watched, variables, config, seed, progress)
    wanted = plan.cells[SYNTHETIC].to_numpy()
    new = draw(model, conditions.encode(cells).repeat(wanted, axis=0), seed, progress)
    ends = np.cumsum(wanted)
    return with_rows(train, plan, [new[end - n : end] for n, end in zip(wanted, ends, strict=True)])


def _rows(cohort: Cohort, conditions: Conditions, name: str) -> Rows:
    """The rows in cells whose groups are known; raises `DataError` if there are none."""
    from equipoise.balance.diffusion.mcrage import Rows

    cells, _ = cells_of(cohort, conditions.by)
    X, cell = rows_of(cohort, conditions.by)
    usable = conditions.known(cells)[cell]
    rows = Rows(X[usable], conditions.encode(cells)[cell[usable]])
    if 0 in rows.X.shape:
        raise DataError(
            table=name,
            want="visits with a known label and groups that training has, and columns",
            got="{} such visits, {} columns".format(*rows.X.shape),
        )
    return rows
