"""The oracle of simulated data: fresh patients of the same hospital, the ceiling of balancing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, sqrt
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from equipoise import schema, store
from equipoise.balance.methods import BalancingMethod
from equipoise.balance.plan import SYNTHETIC, BalancePlan, name_of_cell, plan_balance
from equipoise.cohort import Cohort, concat
from equipoise.errors import DataError
from equipoise.vocabulary import Vocabulary

#: A larger share of the training subjects found again, code for code, is no accident.
MOST_FOUND_AGAIN: Final = 0.5


class FreshRecords(Protocol):
    """What the oracle needs of `VisitRecords`."""

    def encode(self, vocabulary: Vocabulary, /) -> Cohort: ...


def oracle_from(fresh: FreshRecords | Path | str) -> BalancingMethod:
    """A balancing method that fills cells with people of a further simulated hospital.

    fresh: records of a hospital with the same settings as the one under study and another seed, or
    the folder they are saved in, which is cheaper to send to another process.
    """
    return Oracle(Path(fresh) if isinstance(fresh, str) else fresh)


@dataclass(frozen=True)
class Oracle:
    """See `oracle_from`."""

    fresh: FreshRecords | Path

    def digest(self) -> str | None:
        """Of the manifest of the records it draws from, if they are in a folder."""
        if not isinstance(self.fresh, Path):
            return None
        manifest = self.fresh / store.MANIFEST
        return store.digest_of(manifest) if manifest.is_file() else None

    def __call__(
        self,
        train: Cohort,
        by: Sequence[str],
        *,
        tuning: Cohort,  # noqa: ARG002 - part of the contract
        seed: int,
        progress: schema.Progress = schema.no_progress,  # noqa: ARG002
        ratio: float = 1.0,
    ) -> Cohort:
        """The training cohort and m - n fresh subjects of each (label x group) cell.

        They are drawn without replacement, encoded by `train.vocabulary`, marked synthetic, and get
        ids above those of `train`. `ratio` is that of `plan_balance`, whose errors this raises.
        Raises `DataError` if there are too few fresh subjects of a cell, saying how many more it
        takes, and if they are those of `train` again.
        """
        plan = plan_balance(train, by, ratio=ratio)
        if plan.synthetic == 0:
            return train
        fresh = self._records().encode(train.vocabulary)
        _check_fresh(train, fresh)
        chosen = _draw(fresh, plan, np.random.default_rng(seed))
        return concat([train, _as_synthetic(fresh.take(chosen), train)])

    def _records(self) -> FreshRecords:
        if not isinstance(self.fresh, Path):
            return self.fresh
        from equipoise.records import VisitRecords

        return VisitRecords.load(self.fresh)


def _draw(fresh: Cohort, plan: BalancePlan, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Places of as many subjects of each cell as the plan asks for, none of them twice."""
    keys = [schema.LABEL, *fresh.check_groups(plan.by)]
    people = fresh.subjects.select(*keys, pl.int_range(pl.len(), dtype=pl.Int64).alias("place"))
    members = people.group_by(keys).agg("place")
    cells = plan.cells.join(members, on=keys, how="left", maintain_order="left")
    cells = cells.with_columns(pl.col("place").fill_null([]))
    _check_enough(cells, plan.by, len(fresh))
    chosen = [
        rng.choice(np.asarray(place, np.int64), wanted, replace=False)
        for place, wanted in cells.select("place", SYNTHETIC).iter_rows()
    ]
    return np.concatenate(chosen)


def _check_enough(cells: pl.DataFrame, by: Sequence[str], fresh: int) -> None:
    have = pl.col("place").list.len()
    scarce = cells.with_columns(have.cast(pl.Int64).alias("have")).filter(
        pl.col("have") < pl.col(SYNTHETIC)
    )
    if scarce.is_empty():
        return
    rarest = scarce.sort(pl.col("have") / pl.col(SYNTHETIC), maintain_order=True).row(0, named=True)
    wanted, got = rarest[SYNTHETIC], rarest["have"]
    # Three standard deviations more, so that the next hospital is not too small by chance.
    times = (wanted + 3 * sqrt(wanted)) / max(got, 1)
    raise DataError(
        f"too few for the cell of {name_of_cell(rarest, by)}",
        table="fresh records",
        want=f"{wanted:,} subjects",
        got=f"{got:,} among {fresh:,}",
        hint=f"Simulate {times:.1f} times as many patients (about {ceil(fresh * (times - 1)):,} "
        "subjects more)",
    )


def _check_fresh(train: Cohort, fresh: Cohort) -> None:
    """Raise `DataError` if the fresh subjects are those under study: these are its judges too."""
    known = set(_records_of(fresh))
    records = [record for record in _records_of(train) if record]
    again = sum(record in known for record in records)
    if again > MOST_FOUND_AGAIN * len(records):
        raise DataError(
            table="fresh records",
            want="other subjects than those under study",
            got=f"the very records of {again:,} of {len(records):,} training subjects",
            hint="Simulate with another seed",
        )


def _records_of(cohort: Cohort) -> list[bytes]:
    """Each subject's codes, visit after visit."""
    ends = cohort.code_offsets[cohort.visit_offsets].tolist()
    return [cohort.codes[start:end].tobytes() for start, end in pairwise(ends)]


def _as_synthetic(people: Cohort, train: Cohort) -> Cohort:
    """The people marked synthetic, with ids above those of `train`."""
    groups = [name for name in train.groups if name in people.groups]
    subjects = people.subjects.select(*schema.SUBJECTS, *groups).with_columns(
        _ids_above(train.subjects, schema.SUBJECT_ID),
        pl.lit(schema.TRAIN).alias(schema.SPLIT),
        pl.lit(value=True).alias(schema.SYNTHETIC),
    )
    visits = people.visits.select(list(schema.VISITS)).with_columns(
        _ids_above(train.visits, schema.VISIT_ID)
    )
    return replace(people, subjects=subjects, visits=visits)


def _ids_above(frame: pl.DataFrame, column: str) -> pl.Expr:
    first: int = frame.select(pl.col(column).max().fill_null(-1) + 1).item()
    return pl.int_range(first, first + pl.len(), dtype=pl.Int64).alias(column)
