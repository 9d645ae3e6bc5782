"""HALO's fine head: two masked linear layers over [h ; x], of which only the triangles are stored.

HALO (Theodorou et al., 2023, Methods) maps z = [h ; x], D + V numbers, through

    a = relu(tril(W1) z + b1),    o = tril(W2) a + b2,    logit of code c = o[D - 1 + c].

So unit D - 1 + c, here unit c of V, sees h and the codes before c; logit c sees the D - 1 units
before those ("free", which see h alone) and units 0..c. Both triangles are kept by column blocks of
B: a panel (g B, B) of what earlier blocks do to block g, and a square (B, B) on the diagonal. HALO
also hides a part of h from each free unit, which orders nothing; here they see all of it, and
weights of a public HALO have zeros there.

Letters: N visits, V = G B tokens, D width, Q = D - 1 free units.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from equipoise.generator import in_core
from equipoise.generator.head import fixed_point


class HaloHead(nnx.Module):
    """Logits of V tokens given (N, D), and exact sampling in one pass over the blocks."""

    def __init__(self, blocks: int, size: int, *, width: int) -> None:
        tokens = blocks * size
        self.tokens = tokens
        self.read_free_DQ = nnx.Param(jnp.zeros((width, width - 1)))
        self.offset_free_Q = nnx.Param(jnp.zeros(width - 1))
        self.read_DV = nnx.Param(jnp.zeros((width, tokens)))
        self.offset_V = nnx.Param(jnp.zeros(tokens))
        self.code_GBB = nnx.Param(jnp.zeros((blocks, size, size)))
        self.code_panels = _panels(blocks, size)
        self.write_free_QV = nnx.Param(jnp.zeros((width - 1, tokens)))
        self.write_GBB = nnx.Param(jnp.zeros((blocks, size, size)))
        self.write_panels = _panels(blocks, size)
        self.bias_GB = nnx.Param(jnp.zeros((blocks, size)))

    def logits(self, h_ND: jax.Array, x_NV: jax.Array) -> jax.Array:
        """See `Head.logits`."""
        units_NV, logits_NV = self._of_history(h_ND)
        code_GBB, write_GBB = self._squares()
        x_NV = x_NV.astype(h_ND.dtype)
        units_NV = jax.nn.relu(units_NV + _product(x_NV, self.code_panels, code_GBB))
        return logits_NV + _product(units_NV, self.write_panels, write_GBB)

    def sample(self, h_ND: jax.Array, threshold_NV: jax.Array) -> jax.Array:
        """See `Head.sample` and `in_core.sample`."""
        weights = (
            self.read_free_DQ,
            self.offset_free_Q,
            self.read_DV,
            self.offset_V,
            self.code_GBB,
            self.write_free_QV,
            self.write_GBB,
            self.bias_GB,
            *self.code_panels,
            *self.write_panels,
        )
        arrays = [param[...] for param in weights]
        return in_core.sample(in_core.HALO, arrays, h_ND, threshold_NV, self.sample_by_xla)

    def sample_by_xla(self, h_ND: jax.Array, threshold_NV: jax.Array) -> jax.Array:
        """`sample` by XLA; unrolled over the blocks, for every one has its own shape."""
        blocks, size = self.bias_GB.shape
        early_NV, base_NV = self._of_history(h_ND)
        code_GBB, write_GBB = self._squares()
        x: list[jax.Array] = []
        units: list[jax.Array] = []
        for g in range(blocks):
            columns = slice(g * size, (g + 1) * size)
            early_NB, base_NB = early_NV[:, columns], base_NV[:, columns]
            if g:
                x_NP = jnp.concatenate(x, axis=1).astype(h_ND.dtype)
                early_NB += x_NP @ self.code_panels[g - 1][...]
                base_NB += jnp.concatenate(units, axis=1) @ self.write_panels[g - 1][...]
            squares = code_GBB[g], write_GBB[g]
            x_NB, units_NB = _settle(early_NB, base_NB, squares, threshold_NV[:, columns])
            x.append(x_NB)
            units.append(units_NB)
        return jnp.concatenate(x, axis=1)

    def _of_history(self, h_ND: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(N, V) what h alone gives the units, and the logits through the free units."""
        free_NQ = jax.nn.relu(h_ND @ self.read_free_DQ[...] + self.offset_free_Q[...])
        units_NV = h_ND @ self.read_DV[...] + self.offset_V[...]
        return units_NV, free_NQ @ self.write_free_QV[...] + self.bias_GB[...].ravel()

    def _squares(self) -> tuple[jax.Array, jax.Array]:
        return jnp.triu(self.code_GBB[...], 1), jnp.triu(self.write_GBB[...])


def _settle(
    early_NB: jax.Array,
    base_NB: jax.Array,
    squares: tuple[jax.Array, jax.Array],
    threshold_NB: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The codes of a block and its hidden units, given what earlier blocks do to both layers."""
    code_BB, write_BB = squares

    def evaluate(x_NB: jax.Array) -> tuple[jax.Array, jax.Array]:
        units_NB = jax.nn.relu(early_NB + x_NB.astype(early_NB.dtype) @ code_BB)
        return base_NB + units_NB @ write_BB, units_NB

    return fixed_point(evaluate, jnp.zeros(early_NB.shape, bool), threshold_NB)


def _panels(blocks: int, size: int) -> nnx.List[nnx.Param[jax.Array]]:
    return nnx.List([nnx.Param(jnp.zeros((g * size, size))) for g in range(1, blocks)])


def _product(
    x_NV: jax.Array, panels: Sequence[nnx.Param[jax.Array]], square_GBB: jax.Array
) -> jax.Array:
    """x times a packed triangle."""
    blocks, size, _ = square_GBB.shape
    x_NGB = x_NV.reshape(len(x_NV), blocks, size)
    own_NV = jnp.einsum("ngb,gbc->ngc", x_NGB, square_GBB).reshape(x_NV.shape)
    earlier = [x_NV[:, : len(panel)] @ panel[...] for panel in panels]
    return own_NV + jnp.concatenate([jnp.zeros_like(x_NV[:, :size]), *earlier], axis=1)
