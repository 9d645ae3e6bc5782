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
        return jax.tree.map(lambda p, u: p - learning_rate * u, params, update), moments

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
