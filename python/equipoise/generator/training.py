"""Maximum likelihood training of the generator, with early stopping on tuning subjects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
import polars as pl
from flax import nnx

from equipoise import schema
from equipoise.cohort import Cohort
from equipoise.errors import DataError
from equipoise.generator.batches import Batch, batches, bucket, last_visits
from equipoise.generator.checkpoint import HISTORY, Generator
from equipoise.generator.conditions import Conditions
from equipoise.generator.config import GeneratorConfig
from equipoise.generator.likelihood import subject_nats
from equipoise.generator.model import PADDING
from equipoise.generator.network import (
    Graph,
    Halo,
    Params,
    end_token,
    initialise,
)

_ADAM: Final = optax.scale_by_adam()


class _State(NamedTuple):
    params: Params
    adam: optax.OptState


class _Best(NamedTuple):
    params: Params
    nll: float
    step: int


def train_generator(
    cohort: Cohort,
    by: Sequence[str] = ("race", "sex"),
    seed: int = 0,
    *,
    config: GeneratorConfig | None = None,
    tuning: Cohort | None = None,
    progress: schema.Progress = schema.no_progress,
) -> Generator:
    """Fit the distribution of records given the label and the groups in `by`.

    The weights kept are the best for `tuning`, whose subjects must not be in `cohort`; without it a
    tenth of the subjects, drawn by `seed`, is held out. `config` defaults to
    `GeneratorConfig.for_cohort`. Left out, and counted in `Generator.report`: subjects without
    visits, with an unknown label or with an unknown group. Raises `DataError` if fewer than two
    subjects are left, for another vocabulary of `tuning`, or if a column of `by` is missing.
    """
    names = cohort.check_groups(by)
    fit, report = _usable(cohort, names)
    config = config or GeneratorConfig.for_cohort(fit)
    conditions = Conditions.of(fit.subjects, names)
    if tuning is None:
        fit, tune = _hold_out(fit, names, seed)
    else:
        tune = tuning.filter(
            conditions.known(tuning.subjects) & (np.diff(tuning.visit_offsets) > 0)
        )
    for part, what in ((fit, "to train on"), (tune, "for tuning")):
        if not len(part):
            raise DataError(
                table="subjects", want=f"some with visits, label and groups {what}", got="none"
            )
    if not fit.vocabulary.equals(tune.vocabulary):
        raise DataError(table="tuning", want="the cohort's vocabulary", got="another")
    cut = int((np.diff(fit.visit_offsets) > config.max_visits).sum())
    fit, tune = last_visits(fit, config.max_visits), last_visits(tune, config.max_visits)
    best, history = _fit(fit, tune, conditions, config, seed, progress)
    report |= {
        "subjects_trained": len(fit),
        "subjects_tuning": len(tune),
        "cut_to_last_visits": cut,
        "best_step": best.step,
    }
    return Generator(best.params, cohort.vocabulary, conditions, config, history, report)


def _usable(cohort: Cohort, by: list[str]) -> tuple[Cohort, dict[str, int]]:
    """The subjects that can be learned from, and how many of the others there are, by reason."""
    left = np.ones(len(cohort), bool)
    report = {}
    for reason, keep in (
        ("without_visits", np.diff(cohort.visit_offsets) > 0),
        ("label_unknown", cohort.subjects[schema.LABEL].is_not_null().to_numpy()),
        (
            "group_unknown",
            ~cohort.subjects.select(by)
            .select(pl.any_horizontal(pl.all().is_null()))
            .to_series()
            .to_numpy(),
        ),
    ):
        report[reason] = int((left & ~keep).sum())
        left &= keep
    return cohort.filter(left), report


def _hold_out(cohort: Cohort, by: list[str], seed: int) -> tuple[Cohort, Cohort]:
    """Nine tenths and one tenth of the subjects; every cell keeps one subject in the first part."""
    shuffled = cohort.subjects.select(schema.LABEL, *by).with_row_index("place")
    shuffled = shuffled.sample(fraction=1, shuffle=True, seed=seed)
    spare = shuffled.filter(~pl.struct(schema.LABEL, *by).is_first_distinct())["place"]
    held = np.zeros(len(cohort), bool)
    held[spare.head(-(-len(cohort) // 10)).to_numpy()] = True
    return cohort.filter(~held), cohort.filter(held)


def _fit(
    fit: Cohort,
    tune: Cohort,
    conditions: Conditions,
    config: GeneratorConfig,
    seed: int,
    progress: schema.Progress,
) -> tuple[_Best, pl.DataFrame]:
    graph, params = initialise(_log_odds(fit), len(conditions), config, seed)
    state = _State(params, _no_moments(params))
    # One constant, not the batch's own number of visits: every subject weighs the same whichever
    # bucket it is in.
    scale = 1 / (config.batch_subjects * len(fit.visits) / len(fit))
    best = _Best(params, np.inf, 0)
    history, losses, visits = [], [], 0
    for step, batch in enumerate(_forever(fit, conditions, config, seed), start=1):
        state, batch_nll = _train_step(graph, config.learning_rate, scale, state, batch)
        losses.append(batch_nll)
        visits += int((batch.grid != PADDING).sum())
        progress("train", step, config.max_steps)
        if step % config.evaluate_every and step < config.max_steps:
            continue
        nats = subject_nats(graph, state.params, tune, conditions, config)
        tuning_nll = -float(nats.sum()) / len(tune.visits)
        history.append((step, sum(map(float, losses)) / visits, tuning_nll))
        losses, visits = [], 0
        if tuning_nll < best.nll:
            # Copies, for the next step donates the arrays themselves.
            best = _Best(jax.tree.map(np.array, state.params), tuning_nll, step)
        worse = (step - best.step) // config.evaluate_every
        if worse >= config.patience or step >= config.max_steps:
            break
    if not best.step:
        raise DataError(
            table="training",
            want="a finite likelihood",
            got=f"{history[-1][2]} nats at step {history[-1][0]}",
            hint="Lower GeneratorConfig.learning_rate",
        )
    best = best._replace(params=jax.tree.map(jnp.asarray, best.params))
    return best, pl.DataFrame(history, schema=dict(HISTORY), orient="row")


@partial(jax.jit, static_argnames="graph", donate_argnames="state")
def _train_step(
    graph: Graph, learning_rate: float, scale: float, state: _State, batch: Batch
) -> tuple[_State, jax.Array]:
    def loss(params: Params) -> jax.Array:
        halo: Halo = nnx.merge(graph, params)
        return -scale * halo.log_likelihood(*map(jnp.asarray, batch)).sum()

    value, gradient = jax.value_and_grad(loss)(state.params)
    update, adam = _ADAM.update(gradient, state.adam)
    params = jax.tree.map(lambda p, u: p - learning_rate * u, state.params, update)
    return _State(params, adam), value / scale


def _forever(
    cohort: Cohort, conditions: Conditions, config: GeneratorConfig, seed: int
) -> Iterator[Batch]:
    rng = np.random.default_rng(seed)
    buckets = bucket(cohort, config.batch_subjects, config.max_visits)
    end = end_token(len(cohort.vocabulary), config)
    while True:
        for _, batch in batches(cohort, conditions, buckets, end, rng):
            yield batch


def _no_moments(params: Params) -> optax.OptState:
    """Adam's state at the start; its own `init` would compile a function per shape."""
    shapes = jax.eval_shape(_ADAM.init, params)
    return jax.tree.map(lambda leaf: jnp.asarray(np.zeros(leaf.shape, leaf.dtype)), shapes)


def _log_odds(cohort: Cohort) -> npt.NDArray[np.float64]:
    """(V + 1,) of each code in a visit and of the end after it."""
    visits, tokens = len(cohort.visits), len(cohort.vocabulary) + 1
    counts = np.bincount(cohort.codes, minlength=tokens).astype(np.float64)
    counts[-1] = len(cohort)
    share = (counts + 0.5) / (visits + 1)
    log_odds: npt.NDArray[np.float64] = np.log(share) - np.log1p(-share)
    return log_odds
