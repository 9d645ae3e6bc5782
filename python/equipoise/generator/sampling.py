"""Exact sampling: one pass over the codes a visit, one row of the decoder, lanes that never idle.

A lane holds one subject; when its record ends, the lane takes the next subject of the plan. Every
random number belongs to (seed, subject number, visit, token), so that a record does not depend on
the lane or the company in which it was made.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import polars as pl
from flax import nnx

from equipoise import schema
from equipoise.cohort import Cohort, last_visit_labels
from equipoise.errors import DataError, UsageError
from equipoise.generator.checkpoint import Generator
from equipoise.generator.conditions import Conditions
from equipoise.generator.model import Memory
from equipoise.generator.network import Graph, Halo, Params
from equipoise.ragged import offsets_of, positions

#: XLA on a CPU picks other kernels for fewer rows, whose results differ in the last bit: computing
#: a multiple of so many lanes, filled or not, makes the same cohort whatever the batch.
LANES: Final = 64
_STEPS: Final = 8


class Plan(Protocol):
    """What `sample` needs of a plan: see `equipoise.balance.plan`."""

    @property
    def cells(self) -> pl.DataFrame:
        """One row per cell: `label`, a String column per name in `by`, `synthetic` (Int64)."""

    @property
    def by(self) -> Sequence[str]:
        """The names of the group columns."""


class _Lanes(NamedTuple):
    """L lanes. `number` is the subject's in the plan; `at` the decoder row to come, 1 for its
    first visit; `row` that row's input; `next` the first number that no lane has taken."""

    memories: list[Memory]
    row: jax.Array
    at: jax.Array
    number: jax.Array
    active: jax.Array
    next: jax.Array


class _Work(NamedTuple):
    """The subjects to make: numbers below `ends[c]` that are in no earlier cell are of cell c."""

    conditions: jax.Array
    ends: jax.Array
    stop: jax.Array
    key: jax.Array


class _Visits(NamedTuple):
    """What steps of the lanes gave; rows where `active` is false mean nothing."""

    number: jax.Array
    visit: jax.Array
    active: jax.Array
    ended: jax.Array
    bits: jax.Array


class _Drawn(NamedTuple):
    """Visits brought from the device: the subject's number, the visit's, how many codes; codes."""

    number: npt.NDArray[np.int64]
    visit: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int64]


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
    `numbers` restricts the work to some of them, for resuming and for sharing it out: the records
    are those of the whole. `batch` is how many subjects are in work at once (default: 64, or 256
    for large plans); it does not change the result.

    Raises `DataError` for a plan by other groups than the generator's, for a count that is null or
    negative, and for a cell that no training subject was in; `UsageError` for `numbers` outside
    the plan or a `batch` below 1.
    """
    cells = _check_plan(generator.conditions, plan)
    counts = cells["synthetic"].to_numpy()
    total = int(counts.sum())
    numbers = range(total) if numbers is None else numbers
    if numbers.step != 1 or not 0 <= numbers.start <= numbers.stop <= total < 2**31 - 2**16:
        raise UsageError(f"numbers must be a run of subjects within 0..{total}, got {numbers}")
    if batch is None:
        batch = LANES if len(numbers) < 40 * LANES else 4 * LANES
    if batch < 1:
        raise UsageError(f"batch must be 1 or more, got {batch}")
    # Cells of nobody make up a round number of them, which saves compiling for each number.
    spare = -len(cells) % 16
    conditions = np.pad(generator.conditions.encode(cells), ((0, spare), (0, 0)))
    work = _Work(
        jnp.asarray(conditions),
        jnp.asarray(np.pad(np.cumsum(counts), (0, spare), constant_values=total).astype(np.int32)),
        jnp.asarray(np.int32(numbers.stop)),
        jax.random.fold_in(jax.random.key(seed % 2**32), seed // 2**32 % 2**32),
    )
    drawn = _collect(generator, work, numbers, batch, progress)
    owner = np.repeat(np.arange(len(cells)), counts)[numbers.start : numbers.stop]
    subjects = cells[owner].select(
        pl.Series(schema.SUBJECT_ID, np.arange(numbers.start, numbers.stop, dtype=np.int64)),
        schema.LABEL,
        pl.lit(schema.TRAIN).alias(schema.SPLIT),
        pl.lit(value=True).alias(schema.SYNTHETIC),
        *generator.by,
    )
    return _assemble(subjects, numbers, drawn, generator)


def _check_plan(conditions: Conditions, plan: Plan) -> pl.DataFrame:
    """The cells of the plan, with the generator's names in the generator's order."""
    names = {schema.LABEL: pl.Boolean, **dict.fromkeys(conditions.by, pl.String)}
    if set(plan.by) != set(conditions.by):
        raise DataError(
            table="plan",
            want=f"cells by the generator's groups ({', '.join(conditions.by)})",
            got=f"by ({', '.join(plan.by)})",
        )
    schema.check_frame(plan.cells, {**names, "synthetic": pl.Int64}, "plan")
    cells = plan.cells.select(*names, "synthetic")
    for row in cells.filter(pl.col("synthetic").is_null() | (pl.col("synthetic") < 0)).iter_rows():
        raise DataError(table="plan", column="synthetic", want="0 or more", got=str(row[-1]))
    cells = cells.filter(pl.col("synthetic") > 0)
    for cell in conditions.missing(cells).iter_rows(named=True):
        raise DataError(
            table="plan",
            want="cells that training subjects were in",
            got=", ".join(f"{name}={cell[name]}" for name in names),
            hint="A generator can say nothing of a cell that it never saw",
        )
    return cells


def _collect(
    generator: Generator, work: _Work, numbers: range, batch: int, progress: schema.Progress
) -> _Drawn:
    """All visits of the subjects with these numbers, in the order in which lanes ended them."""
    graph, params = generator.graph, generator.params
    parts = [_Drawn(*(np.empty(0, np.int64) for _ in _Drawn._fields))]
    done = 0
    if not numbers:
        return parts[0]
    lanes = _start(graph, params, work, -(-batch // LANES) * LANES, batch, numbers.start)
    while done < len(numbers):
        lanes, visits = _advance(graph, params, work, lanes)
        number, visit, active, ended, bits = (np.asarray(part) for part in visits)
        x = np.unpackbits(bits[active], axis=1, count=len(generator.vocabulary))
        row, code = np.nonzero(x)
        sizes = np.bincount(row, minlength=len(x))
        parts.append(_Drawn(number[active], visit[active], sizes, code))
        done += int(ended.sum())
        progress("sample", done, len(numbers))
    return _Drawn(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _assemble(
    subjects: pl.DataFrame, numbers: range, drawn: _Drawn, generator: Generator
) -> Cohort:
    number, visit, sizes, codes = drawn
    order = np.lexsort((visit, number))
    code_offsets, places = positions(offsets_of(sizes), order)
    visit_offsets = offsets_of(np.bincount(number - numbers.start, minlength=len(numbers)))
    visits = pl.DataFrame(
        {
            schema.VISIT_ID: np.arange(len(order), dtype=np.int64),
            schema.LABEL: last_visit_labels(visit_offsets, subjects[schema.LABEL]),
        }
    )
    return Cohort(
        subjects=subjects,
        visits=visits,
        visit_offsets=visit_offsets,
        code_offsets=code_offsets,
        codes=codes[places].astype(np.int32),
        vocabulary=generator.vocabulary,
    )


@partial(jax.jit, static_argnames=("graph", "lanes"))
def _start(graph: Graph, params: Params, work: _Work, lanes: int, batch: int, first: int) -> _Lanes:
    halo: Halo = nnx.merge(graph, params)
    memories = halo.coarse.remember_start(lanes)
    nobody_L = jnp.zeros(lanes, jnp.int32)
    empty_LD = jnp.zeros_like(halo.coarse.embed_condition(work.conditions[nobody_L]))
    idle = _Lanes(
        memories, empty_LD, nobody_L + 1, nobody_L, nobody_L > 0, jnp.asarray(first, jnp.int32)
    )
    return _refill(halo, work, idle, jnp.arange(lanes) < batch)


@partial(jax.jit, static_argnames="graph", donate_argnames="lanes")
def _advance(graph: Graph, params: Params, work: _Work, lanes: _Lanes) -> tuple[_Lanes, _Visits]:
    """A few visits of every lane; the leading axis of `_Visits` is the step."""
    halo: Halo = nnx.merge(graph, params)

    def step(lanes: _Lanes, _: None) -> tuple[_Lanes, _Visits]:
        return _one_visit(halo, work, lanes)

    return jax.lax.scan(step, lanes, None, length=_STEPS)


def _one_visit(halo: Halo, work: _Work, lanes: _Lanes) -> tuple[_Lanes, _Visits]:
    h_LD, memories = halo.coarse.step(lanes.row, lanes.at, lanes.memories)
    threshold_LV = thresholds(work.key, lanes.number, lanes.at - 1, halo.head.tokens)
    x_LV = halo.head.sample(h_LD, threshold_LV)
    ended_L = lanes.active & (x_LV[:, -1] | (lanes.at == halo.max_visits))
    bits = jnp.packbits(x_LV, axis=1)
    visits = _Visits(lanes.number, lanes.at - 1, lanes.active, ended_L, bits)
    after = lanes._replace(
        memories=memories,
        row=halo.coarse.embed_visit(x_LV[:, :-1]),
        at=jnp.minimum(lanes.at + 1, halo.max_visits),
    )
    return _refill(halo, work, after, ended_L), visits


def _refill(halo: Halo, work: _Work, lanes: _Lanes, free_L: jax.Array) -> _Lanes:
    """Give every free lane the next subject, and its condition as the row to come.

    Where the model wants it, the other rows get their subject's condition as well.

    The memory of a lane needs no clearing: see `Attention.step`.
    """
    number_L = jnp.where(free_L, lanes.next + jnp.cumsum(free_L) - 1, lanes.number)
    cell_L = jnp.searchsorted(work.ends, number_L, side="right")
    condition_LD = halo.coarse.embed_condition(work.conditions[cell_L])
    rest_LD = lanes.row + condition_LD if halo.coarse.condition_every_visit else lanes.row
    row_LD = jnp.where(free_L[:, None], condition_LD, rest_LD)
    return _Lanes(
        lanes.memories,
        row_LD,
        jnp.where(free_L, 1, lanes.at),
        number_L,
        (lanes.active | free_L) & (number_L < work.stop),
        lanes.next + jnp.sum(free_L, dtype=jnp.int32),
    )


def thresholds(key: jax.Array, number_L: jax.Array, visit_L: jax.Array, tokens: int) -> jax.Array:
    """(L, V) logit(u), u uniform on (0, 1), one stream per subject number and visit.

    u has all 32 random bits: with the usual 23, codes rarer than 1e-7 would come too often.
    """

    def uniform(number: jax.Array, visit: jax.Array) -> jax.Array:
        stream = jax.random.fold_in(jax.random.fold_in(key, number), visit)
        bits = jax.random.bits(stream, (tokens,), jnp.uint32)
        return (bits.astype(jnp.float32) + 0.5) * 2.0**-32

    u_LV = jax.vmap(uniform)(number_L, visit_L)
    return jnp.log(u_LV) - jnp.log1p(-u_LV)
