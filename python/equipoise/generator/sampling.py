"""Exact sampling: one pass over the codes a visit, one row of the decoder, lanes that never idle.

`lanes` is what is compiled for the devices, `drawing` what the host does meanwhile, `gathering`
what becomes of the visits; `jobs` does the same with shards on disk.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from equipoise import schema
from equipoise.cohort import Cohort, is_earlier, last_visit_labels
from equipoise.errors import UsageError
from equipoise.generator.checkpoint import EARLIER_KNOWN, Generator
from equipoise.generator.drawing import Draw, usual_batch
from equipoise.generator.gathering import no_records
from equipoise.generator.orders import Order, Plan
from equipoise.ragged import Nested


def sample(
    generator: Generator,
    plan: Plan,
    seed: int = 0,
    *,
    batch: int | None = None,
    numbers: range | None = None,
    progress: schema.Progress = schema.no_progress,
) -> Cohort:
    """Draw the synthetic subjects of a plan from the generator's own distribution, exactly.

    Subjects come in the order of the plan's cells; the id of a subject is its number in the plan.
    `numbers` restricts the work to some of them, for sharing it out: the records are those of the
    whole. `batch` is how many subjects are in work at once on each device of this process
    (default: `drawing.usual_batch` of the plan).

    A record depends on the generator, the condition, the seed and the subject's number, never on
    its company. Bit for bit it is promised for one backend, kind of device, version of JAX and
    number of lanes per device, which is `batch` rounded up to a multiple of 64: then the cohort is
    the same for any number of devices and any `numbers`. On a CPU it was also found the same for
    64, 128 and 256 lanes (tests); elsewhere other lanes, devices or versions round logits
    differently in their last bits, and then a few visits in a million differ: the distribution
    does not.

    Raises `DataError` for a plan by other groups than the generator's, for a count that is null or
    negative, and for a cell that no training subject was in; `UsageError` for `numbers` outside
    the plan or a `batch` below 1.
    """
    order = Order.of(generator.conditions, plan)
    numbers = order.run(numbers)
    batch = usual_batch(order.total) if batch is None else batch
    if batch < 1:
        raise UsageError(f"batch must be 1 or more, got {batch}")
    whole = [no_records()]
    draw = Draw(generator, order, seed, batch)
    draw.run(numbers, len(numbers), lambda _, records: whole.append(records), progress)
    return cohort_of(generator, order, numbers, whole[-1])


def cohort_of(generator: Generator, order: Order, numbers: range, records: Nested) -> Cohort:
    """The records of these subjects of the order, and who they are."""
    subjects = order.subjects(numbers)
    visits = pl.DataFrame(
        {
            schema.VISIT_ID: np.arange(len(records.code_offsets) - 1, dtype=np.int64),
            schema.LABEL: _visit_labels(generator, records, subjects[schema.LABEL]),
        }
    )
    codes = records.visit_offsets, records.code_offsets, records.codes
    return Cohort(subjects, visits, *codes, generator.vocabulary)


def _visit_labels(generator: Generator, records: Nested, labels: pl.Series) -> pl.Series:
    """The label at the last visit; at earlier ones false, or unknown as in training.

    Where real subjects have a label for one visit each, negatives of synthetic ones alone would
    change the share of positives that a classifier learns from.
    """
    visits = last_visit_labels(records.visit_offsets, labels)
    if float(generator.report.get(EARLIER_KNOWN, 1)) >= 0.5:
        return visits
    return visits.set(pl.Series(is_earlier(records.visit_offsets)), None)
