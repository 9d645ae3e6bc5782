"""Block-NADE: hidden units that see the codes of earlier blocks, and a triangle within each block.

With h what is known before the visit, x the visit and E, U, D learned, for block g

    a_g = h W + (sum of E over the codes of earlier blocks),    z_g = relu(a_g + b_g),
    logits_g = z_g U_g + c_g + x_g D_g,                         D_g strictly triangular,

a neural autoregressive distribution estimator (Larochelle and Murray, 2011) by blocks, with about
V (2 H + B) weights in place of the 2 V^2 of HALO's pair of masked layers (`triangle.HaloHead`).

Letters: N visits, V = G B tokens, D width, H hidden.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from equipoise.generator import in_core
from equipoise.generator.head import fixed_point

_Block = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]


class BlockHead(nnx.Module):
    """Logits of V tokens given (N, D), and exact sampling in one pass over the blocks."""

    def __init__(self, blocks: int, size: int, *, width: int, hidden: int) -> None:
        self.tokens = blocks * size
        self.read_DH = nnx.Param(jnp.zeros((width, hidden)))
        self.code_GBH = nnx.Param(jnp.zeros((blocks, size, hidden)))
        self.offset_GH = nnx.Param(jnp.zeros((blocks, hidden)))
        self.write_GHB = nnx.Param(jnp.zeros((blocks, hidden, size)))
        self.bias_GB = nnx.Param(jnp.zeros((blocks, size)))
        self.direct_GBB = nnx.Param(jnp.zeros((blocks, size, size)))

    def logits(self, h_ND: jax.Array, x_NV: jax.Array) -> jax.Array:
        """See `Head.logits`."""
        x_NV = x_NV.astype(h_ND.dtype)

        def step(a_NH: jax.Array, inputs: tuple[_Block, jax.Array]) -> tuple[jax.Array, jax.Array]:
            block, x_NB = inputs
            logits_NB = _given_earlier(block, a_NH) + x_NB @ _strict(block)
            return _with_codes(block, a_NH, x_NB), logits_NB

        x_GNB = self._to_blocks(x_NV)
        _, logits_GNB = lax.scan(step, h_ND @ self.read_DH[...], (self._blocks(), x_GNB))
        return self._from_blocks(logits_GNB)

    def sample(self, h_ND: jax.Array, threshold_NV: jax.Array) -> jax.Array:
        """See `Head.sample` and `in_core.sample`."""
        arrays = [self.read_DH[...], *self._blocks()]
        return in_core.sample(in_core.BLOCK, arrays, h_ND, threshold_NV, self.sample_by_xla)

    def sample_by_xla(self, h_ND: jax.Array, threshold_NV: jax.Array) -> jax.Array:
        """`sample` by a scan; within a block a fixed point settles the tokens."""

        def step(a_NH: jax.Array, inputs: tuple[_Block, jax.Array]) -> tuple[jax.Array, jax.Array]:
            block, threshold_NB = inputs
            x_NB = _settle(_given_earlier(block, a_NH), _strict(block), threshold_NB)
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


def _settle(base_NB: jax.Array, direct_BB: jax.Array, threshold_NB: jax.Array) -> jax.Array:
    def evaluate(x_NB: jax.Array) -> tuple[jax.Array, jax.Array]:
        return base_NB + x_NB.astype(base_NB.dtype) @ direct_BB, jnp.zeros(())

    return fixed_point(evaluate, base_NB > threshold_NB, threshold_NB)[0]
