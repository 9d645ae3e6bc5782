"""How a gradient becomes a step: Adam or AdamW, clipped, by a schedule; and their average."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from equipoise.generator.config import GeneratorConfig
from equipoise.generator.network import Params, dotted

#: Weights that are added, not multiplied with: decay would only pull at what they stand for, and
#: the -inf that silences a token would become NaN.
_UNDECAYED: Final = ("bias", "scale", "offset", "condition", "start", "position")

#: Weights that are log-odds themselves. Bins of one lab exclude each other, which is -6 or less;
#: with steps of 1e-3 that takes longer than the rest needs to learn subjects by heart
#: (benches/studies/generator.md).
_LOG_ODDS: Final = ("head.direct_GBB", "head.bias_GB")
#: How many times as far they go in one step.
_FASTER: Final = 10.0
#: What is left of an average after one more step: it spans a hundred steps, give or take.
_KEPT: Final = 0.99


class Moments(NamedTuple):
    """Those of Adam, and the average of the weights so far, which starts from 0 like them.

    A step at a constant rate is as much noise as gain. The average has less of it, and is what is
    looked at and kept (Polyak and Juditsky, 1992; its effect: benches/studies/generator.md).
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
        """No moments yet; Optax's own `init` would compile a function per shape."""
        shapes = Moments(jax.eval_shape(self._transform().init, params), params)
        zeros: Moments = jax.tree.map(lambda x: jnp.asarray(np.zeros(x.shape, x.dtype)), shapes)
        return zeros

    def step(
        self, params: Params, moments: Moments, gradient: Params, learning_rate: jax.Array
    ) -> tuple[Params, Moments]:
        """Weights and moments after one step."""
        update, adam = self._transform().update(gradient, moments.adam, params)

        def moved(path: tuple[object, ...], weight: jax.Array, change: jax.Array) -> jax.Array:
            faster = _FASTER if dotted(path) in _LOG_ODDS else 1.0
            return weight - learning_rate * faster * change

        after: Params = jax.tree_util.tree_map_with_path(moved, params, update)
        average: Params = jax.tree.map(
            lambda old, new: _KEPT * old + (1 - _KEPT) * new, moments.average, after
        )
        return after, Moments(adam, average)

    def _transform(self) -> optax.GradientTransformation:
        parts = [optax.scale_by_adam()]
        if self.clip_norm:
            parts.insert(0, optax.clip_by_global_norm(self.clip_norm))
        if self.weight_decay:
            parts.append(optax.add_decayed_weights(self.weight_decay, mask=_decayed))
        return optax.chain(*parts)


def averaged(average: Params, step: int) -> Params:
    """The weights that `Moments.average` stands for after `step` steps."""
    unbiased = np.float32(1 / (1 - _KEPT**step))
    params: Params = jax.tree.map(lambda x: jnp.asarray(np.asarray(x) * unbiased), average)
    return params


def learning_rate(config: GeneratorConfig, step: int) -> float:
    """At step 1, 2, ...; Optax's schedules would be a compiled function and a wait per step."""
    if step < config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    falling = max(1, config.max_steps - config.warmup_steps)
    share = min(1.0, (step - config.warmup_steps) / falling)
    return config.learning_rate * (1 + cos(pi * share)) / 2


def _decayed(params: Params) -> Params:
    def multiplied(path: tuple[object, ...], _: jax.Array) -> bool:
        return not dotted(path).rsplit(".", 1)[-1].startswith(_UNDECAYED)

    decayed: Params = jax.tree_util.tree_map_with_path(multiplied, params)
    return decayed
