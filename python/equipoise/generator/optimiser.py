"""How a gradient becomes a step: Adam or AdamW, clipped, by a schedule."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi
from typing import Final

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


@dataclass(frozen=True)
class Optimiser:
    """What of a configuration is compiled into a step; equal ones share what was compiled."""

    clip_norm: float
    weight_decay: float

    @staticmethod
    def of(config: GeneratorConfig) -> Optimiser:
        """That of a configuration."""
        return Optimiser(float(config.clip_norm), float(config.weight_decay))

    def start(self, params: Params) -> optax.OptState:
        """No moments yet; Optax's own `init` would compile a function per shape."""
        shapes = jax.eval_shape(self._transform().init, params)
        return jax.tree.map(lambda leaf: jnp.asarray(np.zeros(leaf.shape, leaf.dtype)), shapes)

    def step(
        self, params: Params, moments: optax.OptState, gradient: Params, learning_rate: jax.Array
    ) -> tuple[Params, optax.OptState]:
        """Weights and moments after one step."""
        update, moments = self._transform().update(gradient, moments, params)

        def moved(path: tuple[object, ...], weight: jax.Array, change: jax.Array) -> jax.Array:
            faster = _FASTER if dotted(path) in _LOG_ODDS else 1.0
            return weight - learning_rate * faster * change

        after: Params = jax.tree_util.tree_map_with_path(moved, params, update)
        return after, moments

    def _transform(self) -> optax.GradientTransformation:
        parts = [optax.scale_by_adam()]
        if self.clip_norm:
            parts.insert(0, optax.clip_by_global_norm(self.clip_norm))
        if self.weight_decay:
            parts.append(optax.add_decayed_weights(self.weight_decay, mask=_decayed))
        return optax.chain(*parts)


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
