"""Maximum likelihood by gradient steps, with looks at the tuning subjects in between.

Where training stands is one value, `Course`; all randomness follows from it and the seed, so that
whoever goes on from a saved one does exactly what would have been done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from time import monotonic
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from equipoise import schema
from equipoise.cohort import Cohort
from equipoise.errors import DataError, first_line
from equipoise.generator.batches import Batch, Shares, pad, real_shares, shape_of
from equipoise.generator.conditions import Conditions
from equipoise.generator.config import GeneratorConfig
from equipoise.generator.dealing import Deck, deal
from equipoise.generator.likelihood import subject_nats
from equipoise.generator.network import (
    Graph,
    Halo,
    Params,
    computing_dtype,
    end_token,
    initialise,
    lowered,
    outline,
    replaced,
)
from equipoise.generator.optimiser import (
    EVERY,
    Moments,
    Optimiser,
    averaged,
    learning_rate,
    share_of,
)
from equipoise.generator.parallel import Layout
from equipoise.generator.sizes import is_out_of_memory
from equipoise.generator.systems import Seen

#: Called at each look with step, train_nll, tuning_nll, learning_rate and subjects_per_second.
Watch = Callable[[Mapping[str, float]], None]


class State(NamedTuple):
    """What a step changes: float32 weights and what the optimiser remembers."""

    params: Params
    moments: Moments


class Best(NamedTuple):
    """The best weights so far, at which step, and what they gave; step 0 is none."""

    params: Params
    nll: float
    step: int


class Look(NamedTuple):
    """A row of `checkpoint.HISTORY`."""

    step: int
    train_nll: float
    tuning_nll: float
    learning_rate: float


@dataclass(frozen=True)
class Course:
    """Where training stands after `step` steps: `place` chunks of this epoch are used up.

    trouble: why it cannot go on, if so.
    """

    state: State
    best: Best
    step: int = 0
    epoch: int = 0
    place: int = 0
    history: tuple[Look, ...] = ()
    trouble: str = ""

    def over(self, config: GeneratorConfig) -> str:
        """Why training ends here; empty if it goes on."""
        if self.trouble:
            return self.trouble
        if (self.step - self.best.step) // config.evaluate_every >= config.patience:
            return "no better for so long as patience allows"
        return "all steps done" if self.step >= config.max_steps else ""


class Keeper(Protocol):
    """What keeps courses on disk: see `snapshots.Snapshots`."""

    def load(self, start: Course) -> Course:
        """The course saved last, with arrays as those of `start`; `start` itself if none is."""

    def save(self, course: Course) -> None:
        """Keep it, if it is time to."""


@dataclass(frozen=True)
class Task:
    """What is fitted to what. `scale`: the loss is the nats of a step times this."""

    fit: Cohort
    tune: Cohort
    conditions: Conditions
    config: GeneratorConfig
    seed: int
    layout: Layout

    def deck(self) -> Deck:
        """The training subjects, by step."""
        return Deck.of(self.fit, self.config.batch_subjects, self.layout.parts)

    def shares(self) -> Shares:
        """Of the rows computed, how many are real."""
        config = self.config
        size = (config.batch_subjects, config.max_visits)
        return real_shares(self.fit, *size, self.layout.parts)


def fit_weights(
    task: Task,
    keeper: Keeper | None = None,
    progress: schema.Progress = schema.no_progress,
    watch: Watch | None = None,
) -> Course:
    """Train until it is over; the weights wanted are `best` of the course that is returned.

    Raises `DataError` if the likelihood was never finite, or if memory ran out.
    """
    config = task.config
    with _memory_named(task):
        seen = Seen.of(task.fit, config.systems)
        log_odds_V = _log_odds(task.fit, seen.visits())
        graph, params = initialise(log_odds_V, len(task.conditions), config, task.seed)
        if config.systems:
            tokens = end_token(len(task.fit.vocabulary), config) + 1
            params = replaced(params, seen.weights(tokens))
        state = State(params, Optimiser.of(config).start(params))
        course = Course(task.layout.put_weights(state), Best(params, np.inf, 0))
        if keeper is not None:
            course = keeper.load(course)
        chunks = _chunks(task, course.epoch, course.place)
        while not course.over(config):
            before, began = course, monotonic()
            course, sums = _stretch(task, graph, course, chunks, progress)
            course = _look(task, graph, course, sums)
            if course.trouble:
                break
            if keeper is not None:
                keeper.save(course)
            if watch is not None:
                rate = (course.step - before.step) * _subjects_a_step(task) / (monotonic() - began)
                watch({**course.history[-1]._asdict(), "subjects_per_second": rate})
    if not course.best.step:
        raise DataError(
            table="training",
            want="a finite likelihood",
            got=course.trouble,
            hint="Lower GeneratorConfig.learning_rate or set clip_norm",
        )
    return course


class _Drawn(NamedTuple):
    """One step's data, and the position after it."""

    epoch: int
    place: int
    visits: int
    batch: Batch


class _Sums(NamedTuple):
    """What steps gave since the last look: loss of each, still on the device, and all visits."""

    losses: list[jax.Array]
    visits: int


def _stretch(
    task: Task, graph: Graph, course: Course, chunks: Iterator[_Drawn], progress: schema.Progress
) -> tuple[Course, _Sums]:
    """The steps until the next look."""
    config, optimiser, dtype = task.config, Optimiser.of(task.config), computing_dtype(task.config)
    # One constant, not the batch's own number of visits: every subject weighs the same in
    # whatever company.
    scale = 1 / (config.batch_subjects * len(task.fit.visits) / len(task.fit))
    state, step, losses, visits = course.state, course.step, [], 0
    until = min(config.max_steps, (step // config.evaluate_every + 1) * config.evaluate_every)
    while step < until:
        step += 1
        drawn = next(chunks)
        rate = learning_rate(config, step)
        how = (graph, optimiser, dtype, task.layout)
        state, loss = _train_step(*how, rate, scale, state, drawn.batch)
        since = (step - course.step - 1) % EVERY + 1
        if since == EVERY or step == until:
            state = _remember(task.layout, share_of(step, since), state)
        losses.append(loss)
        visits += drawn.visits
        progress("train", step, config.max_steps)
    after = replace(course, state=state, step=step, epoch=drawn.epoch, place=drawn.place)
    return after, _Sums(losses, visits)


def _look(task: Task, graph: Graph, course: Course, sums: _Sums) -> Course:
    """The course with a row more of history, and with these weights if they are the best."""
    losses = np.array([float(loss) for loss in sums.losses])
    bad = np.flatnonzero(~np.isfinite(losses))
    if len(bad):
        step = course.step - len(losses) + 1 + int(bad[0])
        return replace(course, trouble=_trouble("the loss", losses[bad[0]], step, task.config))
    params = task.layout.whole_weights(course.state.moments.average)
    nats = subject_nats(graph, params, task.tune, task.conditions, task.config)
    tuning_nll = -float(nats.sum()) / len(task.tune.visits)
    if not isfinite(tuning_nll):
        what = "the loss of tuning subjects"
        return replace(course, trouble=_trouble(what, tuning_nll, course.step, task.config))
    rate = learning_rate(task.config, course.step)
    row = Look(course.step, float(losses.sum()) / sums.visits, tuning_nll, rate)
    course = replace(course, history=(*course.history, row))
    if tuning_nll >= course.best.nll:
        return course
    # Copies, for the next step donates the arrays themselves.
    return replace(course, best=Best(jax.tree.map(np.array, params), tuning_nll, course.step))


def _trouble(what: str, value: float, step: int, config: GeneratorConfig) -> str:
    rate = learning_rate(config, step)
    return f"{what} was {value} at step {step}, with learning rate {rate:.3g}"


def _train_step(
    graph: Graph,
    optimiser: Optimiser,
    dtype: Any,
    layout: Layout,
    rate: float,
    scale: float,
    state: State,
    batch: Batch,
) -> tuple[State, jax.Array]:
    """State and nats lost after one batch whose first axes are (rounds, devices).

    Two compiled parts: in one, a CPU would ask the system for room for all gradients at once, and
    give it back, at every step.
    """
    loss, gradient = _gradient(graph, dtype, layout, scale, state.params, batch)
    return _moved(optimiser, layout, rate, state, gradient), loss


@partial(jax.jit, static_argnames=("graph", "dtype", "layout"))
def _gradient(
    graph: Graph, dtype: Any, layout: Layout, scale: float, params: Params, batch: Batch
) -> tuple[jax.Array, Params]:
    """Nats lost, and the gradient of `scale` times that."""

    def loss(params: Params, part: Batch) -> jax.Array:
        halo: Halo = graph.with_weights(lowered(params, dtype))
        return -scale * halo.log_likelihood(*map(jnp.asarray, part)).sum()

    def losses(params: Params, parts: Batch) -> jax.Array:
        if layout.devices == 1:
            return loss(params, Batch(*(array[0] for array in parts)))
        return jax.vmap(loss, in_axes=(None, 0))(params, parts).sum()

    with_gradient = jax.value_and_grad(losses)

    def add(sums: Any, parts: Batch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, sums, with_gradient(params, parts)), None

    if layout.rounds == 1:
        value, gradient = with_gradient(params, Batch(*(array[0] for array in batch)))
    else:
        nothing = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
        (value, gradient), _ = jax.lax.scan(add, nothing, batch)
    return value / scale, layout.keep_weights(gradient)


@partial(jax.jit, static_argnames=("optimiser", "layout"), donate_argnames="state")
def _moved(
    optimiser: Optimiser, layout: Layout, rate: float, state: State, gradient: Params
) -> State:
    """The state after one step of the optimiser."""
    params, moments = optimiser.step(state.params, state.moments, gradient, jnp.asarray(rate))
    return layout.keep_weights(State(params, moments))


@partial(jax.jit, static_argnames="layout", donate_argnames="state")
def _remember(layout: Layout, share: float, state: State) -> State:
    """The state with its weights in their average, which no step touches."""
    average = averaged(state.moments.average, state.params, jnp.asarray(share))
    return layout.keep_weights(state._replace(moments=state.moments._replace(average=average)))


def _chunks(task: Task, epoch: int, place: int) -> Iterator[_Drawn]:
    """One step's data after the other for ever, from a position on."""
    deck = task.deck()
    shape = shape_of(task.fit, deck, task.config.max_visits)
    end = end_token(len(task.fit.vocabulary), task.config)
    layout = task.layout
    # Taken from at every step: frames would cost more than the step of a small network.
    nested, condition_SK = task.fit.nested, task.conditions.encode(task.fit.subjects)
    while True:
        order = deal(deck, np.random.default_rng([task.seed, epoch]))
        for at in range(place, len(order)):
            subjects, part_of = order[at]
            chunk = nested.take(subjects)
            rng = np.random.default_rng([task.seed, epoch, at])
            hidden = task.config.condition_dropout
            condition_BK = task.conditions.hide(condition_SK[subjects], hidden, rng)
            parts = []
            for part in layout.own_parts():
                own = np.flatnonzero(part_of == part)
                parts.append(pad(chunk.take(own), condition_BK[own], shape, end))
            visits = int(chunk.visit_offsets[-1])
            yield _Drawn(epoch, at + 1, visits, layout.put_batch(parts))
        epoch, place = epoch + 1, 0


def _subjects_a_step(task: Task) -> float:
    return len(task.fit) / -(-len(task.fit) // task.config.batch_subjects)


@contextmanager
def _memory_named(task: Task) -> Iterator[None]:
    """Say what was too large where memory runs out."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        config = task.config
        shapes = outline(len(task.fit.vocabulary), len(task.conditions), config)[1]
        weights = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        raise DataError(
            table="training",
            want=f"memory for {weights:,} weights (with moments, average and gradient "
            f"{20 * weights / 1e9:,.2f} GB) and a batch of {config.batch_subjects} subjects "
            f"of up to {config.max_visits} visits in {task.layout.parts} parts",
            got=first_line(error),
            hint="Raise GeneratorConfig.accumulate, or lower batch_subjects, width or head_hidden",
        ) from None


def _log_odds(cohort: Cohort, visits_V: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(V + 1,) of each code in the visits that may have it, and of the end after any."""
    counts = np.bincount(cohort.codes, minlength=len(visits_V) + 1).astype(np.float64)
    counts[-1] = len(cohort)
    # Of a system that no visit is of, a code is as rare as one that no visit has.
    may_V = np.where(visits_V > 0, visits_V, len(cohort.visits))
    share = (counts + 0.5) / (np.append(may_V, len(cohort.visits)) + 1)
    log_odds: npt.NDArray[np.float64] = np.log(share) - np.log1p(-share)
    return log_odds
