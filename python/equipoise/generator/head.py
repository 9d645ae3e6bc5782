"""The fine model: the codes of one visit in their fixed order, each given all codes before it.

Codes stand in G equal blocks of B. With h what is known before the visit, x the visit and E, U, D
learned, for block g

    a_g = h W + (sum of E over the codes of earlier blocks),    z_g = relu(a_g + b_g),
    logits_g = z_g U_g + c_g + x_g D_g,                         D_g strictly triangular,

a neural autoregressive distribution estimator (Larochelle and Murray, 2011) by blocks. Like HALO's
pair of masked V x V layers it is a normalised product of Bernoullis, P(x) = prod_j P(x_j | x_<j),
with about V (2 H + B) weights in place of 2 V^2.

Letters: N visits, V = G B tokens, D width, H hidden.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

_Block = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]


class Head(nnx.Module):
    """Logits of V tokens given (N, D); exact sampling in one pass over the blocks.

    A token whose bias is -inf is never drawn and has no nats and no gradient.
    """

    def __init__(self, blocks: int, size: int, *, width: int, hidden: int) -> None:
        self.tokens = blocks * size
        self.read_DH = nnx.Param(jnp.zeros((width, hidden)))
        self.code_GBH = nnx.Param(jnp.zeros((blocks, size, hidden)))
        self.offset_GH = nnx.Param(jnp.zeros((blocks, hidden)))
        self.write_GHB = nnx.Param(jnp.zeros((blocks, hidden, size)))
        self.bias_GB = nnx.Param(jnp.zeros((blocks, size)))
        self.direct_GBB = nnx.Param(jnp.zeros((blocks, size, size)))

    def logits(self, h_ND: jax.Array, x_NV: jax.Array) -> jax.Array:
        """(N, V) log-odds of every token given h and the tokens of x_NV before it."""
        x_NV = x_NV.astype(h_ND.dtype)

        def step(a_NH: jax.Array, inputs: tuple[_Block, jax.Array]) -> tuple[jax.Array, jax.Array]:
            block, x_NB = inputs
            logits_NB = _given_earlier(block, a_NH) + x_NB @ _strict(block)
            return _with_codes(block, a_NH, x_NB), logits_NB

        x_GNB = self._to_blocks(x_NV)
        _, logits_GNB = lax.scan(step, h_ND @ self.read_DH[...], (self._blocks(), x_GNB))
        return self._from_blocks(logits_GNB)

    def sample(self, h_ND: jax.Array, threshold_NV: jax.Array) -> jax.Array:
        """(N, V) booleans: token j is on iff its logit, given those before it, is above threshold.

        With threshold logit(u), u uniform, this is an exact draw. Within a block it iterates
        x <- [logits(x) > threshold]: as j depends only on what is before it, every round settles at
        least one more token, so a fixed point is reached and is the one ancestral sampling gives.
        """

        def step(a_NH: jax.Array, inputs: tuple[_Block, jax.Array]) -> tuple[jax.Array, jax.Array]:
            block, threshold_NB = inputs
            x_NB = _fixed_point(_given_earlier(block, a_NH), _strict(block), threshold_NB)
            return _with_codes(block, a_NH, x_NB.astype(a_NH.dtype)), x_NB

        threshold_GNB = self._to_blocks(threshold_NV)
        _, x_GNB = lax.scan(step, h_ND @ self.read_DH[...], (self._blocks(), threshold_GNB))
        return self._from_blocks(x_GNB)

    def _blocks(self) -> _Block:
        return (
            self.code_GBH[...],
            self.offset_GH[...],
            self.write_GHB[...],
            self.bias_GB[...],
            self.direct_GBB[...],
        )

    def _to_blocks(self, x_NV: jax.Array) -> jax.Array:
        return x_NV.reshape(-1, *self.bias_GB.shape).swapaxes(0, 1)

    def _from_blocks(self, x_GNB: jax.Array) -> jax.Array:
        return x_GNB.swapaxes(0, 1).reshape(x_GNB.shape[1], -1)


def _given_earlier(block: _Block, a_NH: jax.Array) -> jax.Array:
    _, offset_H, write_HB, bias_B, _ = block
    return jax.nn.relu(a_NH + offset_H) @ write_HB + bias_B


def _strict(block: _Block) -> jax.Array:
    return jnp.triu(block[4], 1)


def _with_codes(block: _Block, a_NH: jax.Array, x_NB: jax.Array) -> jax.Array:
    return a_NH + x_NB @ block[0]


def _fixed_point(base_NB: jax.Array, direct_BB: jax.Array, threshold_NB: jax.Array) -> jax.Array:
    State = tuple[jax.Array, jax.Array]

    def above(x_NB: jax.Array) -> jax.Array:
        return base_NB + x_NB.astype(base_NB.dtype) @ direct_BB > threshold_NB

    def moved(state: State) -> jax.Array:
        return jnp.any(state[0] != state[1])

    def again(state: State) -> State:
        return state[1], above(state[1])

    first_NB = base_NB > threshold_NB
    return lax.while_loop(moved, again, (first_NB, above(first_NB)))[1]
