"""The host's side of sampling: keeps the devices busy and brings home what they draw."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import jax
import numpy as np
from jax.sharding import Mesh

from equipoise import schema
from equipoise.errors import DataError, first_line
from equipoise.generator.checkpoint import Generator
from equipoise.generator.gathering import Gathering
from equipoise.generator.lanes import (
    Lanes,
    Tally,
    Visits,
    Work,
    advance,
    everywhere,
    first_numbers,
    key_of,
    local_mesh,
    start,
)
from equipoise.generator.network import Params
from equipoise.generator.orders import Order
from equipoise.generator.sizes import is_out_of_memory
from equipoise.ragged import Nested

#: XLA on a CPU picks other kernels for fewer rows, whose results differ in the last bit: computing
#: a multiple of so many lanes, filled or not, makes the same cohort whatever the batch.
LANES: Final = 64
#: Lanes of a device by kind of device: beyond it, more of them hardly draw more a second.
_MOST: Final = {"cpu": 4 * LANES}
_MOST_ELSEWHERE: Final = 16 * LANES
#: Subjects to a lane that make the time in which lanes run out of them small.
_SUBJECTS_TO_A_LANE: Final = 64
#: Visits of a lane in one call: enough that the host has time between calls.
_STEPS: Final = 8
#: Operations of a call on a CPU, about half a second: Ctrl-C is heard between calls.
_OPERATIONS: Final = 5e10
#: Calls whose visits may wait to be gathered: a bound to memory.
_BACKLOG: Final = 2


def usual_batch(subjects: int) -> int:
    """How many subjects are best in work at once on a device, of so many in the whole plan.

    Of the plan, and not of what is left of it: a job that is resumed has the lanes it had.
    """
    most = _MOST.get(jax.default_backend(), _MOST_ELSEWHERE)
    return min(most, max(LANES, subjects // _SUBJECTS_TO_A_LANE // LANES * LANES))


def lanes_for(batch: int) -> int:
    """How many lanes of a device hold so many subjects: a multiple of `LANES`."""
    return -(-batch // LANES) * LANES


def steps_for(weights: int, lanes: int) -> int:
    """How many visits a lane makes in one call of a network with so many weights."""
    if jax.default_backend() != "cpu":
        return _STEPS
    return max(1, min(_STEPS, int(_OPERATIONS / (2 * weights * lanes))))


@dataclass
class Usage:
    """How well the devices were used. `lane_visits`: the visits that so many steps of so many lanes
    could have made. `starting`: seconds until the devices had work, which is mostly compilation;
    `seconds`: those since. `waited`: those of them in which a device may have had nothing to do, an
    upper bound."""

    devices: int = 0
    subjects: int = 0
    visits: int = 0
    lane_visits: int = 0
    starting: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0

    @property
    def utilisation(self) -> float:
        """The share of lane-steps that made a visit; 1 where nothing was to be done."""
        return self.visits / self.lane_visits if self.lane_visits else 1.0

    @property
    def waiting(self) -> float:
        """The share of the time in which the devices waited for the host."""
        return self.waited / self.seconds if self.seconds else 0.0


class _Watch:
    """When a device was last seen at work, and how long it may have waited since."""

    def __init__(self) -> None:
        self.began = self._busy = time.perf_counter()
        self.waited = 0.0

    def look(self, latest: Any) -> None:
        """Before a call is dispatched: is the one before, which gives `latest`, at work?"""
        now = time.perf_counter()
        if latest.is_ready():
            self.waited += now - self._busy
        self._busy = now


class Draw:
    """Samples runs of an order with one generator, one seed, and so many subjects in work."""

    def __init__(self, generator: Generator, order: Order, seed: int, batch: int) -> None:
        self.usage = Usage()
        self._mesh: Mesh = local_mesh()
        self._graph = generator.graph
        self._params: Params = everywhere(self._mesh, generator.params)
        self._tokens = len(generator.vocabulary)
        self._order, self._seed, self._batch = order, seed, batch
        self._weights = sum(leaf.size for leaf in jax.tree.leaves(generator.params))
        self._steps = steps_for(self._weights, lanes_for(batch))
        self.usage.devices = self._mesh.size

    def run(
        self,
        numbers: range,
        size: int,
        finished: Callable[[range, Nested], None],
        progress: schema.Progress = schema.no_progress,
    ) -> None:
        """Draw these subjects, and hand them to `finished` in runs of `size`, as `Gathering` does.

        That happens in a thread of its own; what `finished` raises is raised here. Raises
        `DataError` if memory runs out.
        """
        try:
            self._run(numbers, size, finished, progress)
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            lanes, weights = lanes_for(self._batch), self._weights
            raise DataError(
                table="sampling",
                want=f"memory for {weights:,} weights ({4 * weights / 1e9:,.2f} GB) and for "
                f"{lanes:,} subjects at work on each of {self._mesh.size} devices",
                got=first_line(error),
                hint="Lower batch (--batch)",
            ) from None

    def _run(
        self,
        numbers: range,
        size: int,
        finished: Callable[[range, Nested], None],
        progress: schema.Progress,
    ) -> None:
        began, starting, ended = time.perf_counter(), self.usage.starting, 0
        gathering = Gathering(numbers, size, self._tokens, finished)
        pending: deque[Future[None]] = deque()
        with ThreadPoolExecutor(1, "gathering") as worker:
            for visits, tally in self._calls(numbers):
                pending.append(worker.submit(gathering.add, visits))
                if len(pending) > _BACKLOG:
                    pending.popleft().result()
                ended += int(tally.ended.sum())
                progress("sample", ended, len(numbers))
            for future in pending:
                future.result()
        started = self.usage.starting - starting
        self.usage.seconds += time.perf_counter() - began - started

    def traced(self, numbers: range) -> tuple[Any, tuple[Any, ...]]:
        """The compiled step and its arguments, to be lowered or exported."""
        work = self._work(numbers)
        lanes = self._start(work, numbers)
        return advance, (self._mesh, self._graph, self._params, work, lanes, self._steps)

    def _calls(self, numbers: range) -> Iterator[tuple[Visits, Tally]]:
        """The visits of each call and its tally; while they are gathered the next call runs."""
        if not numbers:
            return
        began = time.perf_counter()
        work = self._work(numbers)
        lanes, visits, tally = self._advance(work, self._start(work, numbers))
        watch = _Watch()
        self.usage.starting += watch.began - began
        while True:
            watch.look(tally.steps)
            lanes, next_visits, next_tally = self._advance(work, lanes)
            counts = jax.device_get(tally)  # Waits until the call is done.
            self._count(counts)
            yield visits, counts
            if not counts.active.any():
                break
            visits, tally = next_visits, next_tally
        self.usage.waited += watch.waited

    def _count(self, tally: Tally) -> None:
        self.usage.subjects += int(tally.ended.sum())
        self.usage.visits += int(tally.visits.sum())
        self.usage.lane_visits += int(tally.steps.sum()) * lanes_for(self._batch)

    def _work(self, numbers: range) -> Work:
        plan = [*self._order.encode(), np.int32(numbers.stop), np.int32(self._mesh.size)]
        return Work(*everywhere(self._mesh, [*plan, jax.random.key_data(key_of(self._seed))]))

    def _start(self, work: Work, numbers: range) -> Lanes:
        first = first_numbers(self._mesh, numbers.start)
        lanes = lanes_for(self._batch)
        begun: Lanes = start(self._mesh, self._graph, self._params, work, first, self._batch, lanes)
        return begun

    def _advance(self, work: Work, lanes: Lanes) -> tuple[Lanes, Visits, Tally]:
        after: tuple[Lanes, Visits, Tally] = advance(
            self._mesh, self._graph, self._params, work, lanes, self._steps
        )
        return after
