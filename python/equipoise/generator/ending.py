"""Whether a visit is its record's last, told before its codes instead of after them.

The label of a record shows in its last visit: who dies does so there. Told after the codes, as in
HALO, the end is one token more that the codes foretell, and a label which is known for all visits
alike hardly reaches the codes of one. Told before, the codes are drawn knowing that they are those
of a last visit, and of which label: the same joint distribution in another order of the chain rule
(what it gives: benches/studies/generator.md).

Letters: N visits, D width, K condition bits.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx


class Ending(nnx.Module):
    """Log-odds of the end, and what the codes of a last visit are told."""

    def __init__(self, conditions: int, width: int) -> None:
        self.read_D = nnx.Param(jnp.zeros(width))
        self.bias_1 = nnx.Param(jnp.zeros(1))
        self.last_D = nnx.Param(jnp.zeros(width))
        self.condition_KD = nnx.Param(jnp.zeros((conditions, width)))

    def log_odds(self, h_ND: jax.Array) -> jax.Array:
        """(N,) of each visit being the last, h being what is known before it."""
        return h_ND @ self.read_D[...] + self.bias_1[...]

    def tell(self, h_ND: jax.Array, last_N: jax.Array, condition_NK: jax.Array) -> jax.Array:
        """(N, D) what is known once it is known which visits are last, booleans `last_N`."""
        told_ND = self.last_D[...] + condition_NK @ self.condition_KD[...]
        return h_ND + jnp.where(last_N[:, None], told_ND, 0)
