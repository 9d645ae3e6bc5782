"""Fine heads: the codes of one visit in their fixed order, each given all codes before it.

A visit has the probability of a normalised product of Bernoullis, P(x) = prod_j P(x_j | x_<j).

Letters: N visits, V = G B tokens in G equal blocks of B, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax


class Head(Protocol):
    """What the rest of the network needs of a head of V tokens, whatever its layers are.

    A token whose bias is -inf is never drawn and has no nats and no gradient.
    """

    tokens: int
    bias_GB: nnx.Param[jax.Array]  # noqa: N815

    def logits(self, h_ND: jax.Array, x_NV: jax.Array) -> jax.Array:
        """(N, V) log-odds of every token given h and the tokens of x_NV before it."""

    def sample(self, h_ND: jax.Array, threshold_NV: jax.Array) -> jax.Array:
        """(N, V) booleans: token j is on iff its logit, given those before it, is above threshold.

        With threshold logit(u), u uniform, this is an exact draw.
        """


def fixed_point(
    evaluate: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    first_NB: jax.Array,
    threshold_NB: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The x with x = [logits(x) > threshold], and what `evaluate` gives beside its logits.

    Where logit j depends only on the tokens before j, every round settles at least one more token,
    so that x is reached in at most B + 1 rounds from anywhere and is the one that ancestral
    sampling gives: token by token, from left to right.
    """
    State = tuple[jax.Array, jax.Array, jax.Array]

    def look(x_NB: jax.Array) -> State:
        logits_NB, beside = evaluate(x_NB)
        return x_NB, logits_NB > threshold_NB, beside

    def moved(state: State) -> jax.Array:
        return jnp.any(state[0] != state[1])

    x_NB, _, beside = lax.while_loop(moved, lambda state: look(state[1]), look(first_NB))
    return x_NB, beside
