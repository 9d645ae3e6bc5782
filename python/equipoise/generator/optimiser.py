"""How a gradient becomes a step: Adam or AdamW, clipped, by a schedule; and their average."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import cos, pi
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import optax

from equipoise.generator.config import GeneratorConfig
from equipoise.generator.network import Params, dotted

#: Weights that are added, not multiplied with: decay would only pull at what they stand for, and
#: the -inf that silences a token would become NaN.
_UNDECAYED: Final = (
    *("bias", "scale", "offset", "condition", "start", "position", "last"),
    *("tell", "member"),
)

#: Weights that are log-odds themselves. Bins of one lab exclude each other, which is -6 or less;
#: with steps of 1e-3 that takes longer than the rest needs to learn subjects by heart
#: (benches/studies/generator.md).
_LOG_ODDS: Final = (
    *("head.direct_GBB", "head.bias_GB", "ending.bias_1"),
    *("systems.bias_S", "systems.direct_SS"),
)
#: How many times as far they go in one step.
_FASTER: Final = 10.0
#: Weights of step t count in the average as t^(this - 1): it spans the last tenth, give or take.
_POWER: Final = 10
#: Steps from one weights that are averaged to the next, which differ little.
EVERY: Final = 10


class Moments(NamedTuple):
    """Those of Adam, and the average of the weights so far; both start from 0.

    A step at a constant rate is as much noise as gain. The average has less of it, and is what is
    looked at and kept (Polyak and Juditsky, 1992; its effect: benches/studies/generator.md). Not a
    step but `averaged` changes it, so that a step need not read and write it.
    """

    adam: optax.OptState
    average: Params


@dataclass(frozen=True)
class Optimiser:
    """What of a configuration is compiled into a step; equal ones share what was compiled."""

    clip_norm: float
    weight_decay: float

    @staticmethod
    def of(config: GeneratorConfig) -> Optimiser:
        """That of a configuration."""
        return Optimiser(float(config.clip_norm), float(config.weight_decay))

    def start(self, params: Params) -> Moments:
        """No moments yet."""
        shapes = Moments(jax.eval_shape(self._transform().init, params), params)
        leaves, structure = jax.tree.flatten(shapes)
        # Compiled as one: a function per shape would take a second, and NumPy's zeros be copied.
        zeros = _zeros(tuple((leaf.shape, leaf.dtype) for leaf in leaves))
        moments: Moments = jax.tree.unflatten(structure, zeros)
        return moments

    def step(
        self, params: Params, moments: Moments, gradient: Params, learning_rate: jax.Array
    ) -> tuple[Params, Moments]:
        """Weights and moments after one step."""
        update, adam = self._transform().update(gradient, moments.adam, params)

        def moved(path: tuple[object, ...], weight: jax.Array, change: jax.Array) -> jax.Array:
            faster = _FASTER if dotted(path) in _LOG_ODDS else 1.0
            return weight - learning_rate * faster * change

        after: Params = jax.tree_util.tree_map_with_path(moved, params, update)
        return after, moments._replace(adam=adam)

    def _transform(self) -> optax.GradientTransformation:
        parts = [optax.scale_by_adam()]
        if self.clip_norm:
            parts.insert(0, optax.clip_by_global_norm(self.clip_norm))
        if self.weight_decay:
            parts.append(optax.add_decayed_weights(self.weight_decay, mask=_decayed))
        return optax.chain(*parts)


def share_of(step: int, since: int) -> float:
    """What the weights after `step` steps weigh in the average, `since` steps after the last.

    Polynomial decay (Shamir and Zhang, 2013): it needs no memory of where the average began, and
    gives the same weight to the same steps however often it is taken.
    """
    return float(1 - (1 - since / step) ** _POWER)


def averaged(average: Params, params: Params, share: jax.Array) -> Params:
    """The average with these weights in it."""
    after: Params = jax.tree.map(lambda old, new: (1 - share) * old + share * new, average, params)
    return after


def learning_rate(config: GeneratorConfig, step: int) -> float:
    """At step 1, 2, ...; Optax's schedules would be a compiled function and a wait per step."""
    if step < config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    falling = max(1, config.max_steps - config.warmup_steps)
    share = min(1.0, (step - config.warmup_steps) / falling)
    return config.learning_rate * (1 + cos(pi * share)) / 2


@partial(jax.jit, static_argnums=0)
def _zeros(shapes: tuple[tuple[tuple[int, ...], Any], ...]) -> list[jax.Array]:
    return [jnp.zeros(shape, dtype) for shape, dtype in shapes]


def _decayed(params: Params) -> Params:
    def multiplied(path: tuple[object, ...], _: jax.Array) -> bool:
        return not dotted(path).rsplit(".", 1)[-1].startswith(_UNDECAYED)

    decayed: Params = jax.tree_util.tree_map_with_path(multiplied, params)
    return decayed
