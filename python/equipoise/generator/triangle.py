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
from jax import lax

from equipoise.generator.head import fixed_point

#: From so many tokens on, a visit's few codes are gathered, not multiplied.
_GATHER_FROM = 4096
#: A gathered row costs about as much as so many rows of a matrix product.
_GATHER = 12


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
        """See `Head.sample`; unrolled over the blocks, for every one has its own shape."""
        blocks, size = self.bias_GB.shape
        early_NV, base_NV = self._of_history(h_ND)
        code_GBB, write_GBB = self._squares()
        drawn = _Drawn(len(h_ND), self.tokens, size, h_ND.dtype)
        for g in range(blocks):
            columns = slice(g * size, (g + 1) * size)
            early_NB, base_NB = early_NV[:, columns], base_NV[:, columns]
            if g:
                early_NB += drawn.codes_times(self.code_panels[g - 1][...])
                base_NB += drawn.units_times(self.write_panels[g - 1][...])
            squares = code_GBB[g], write_GBB[g]
            drawn.append(*_settle(early_NB, base_NB, squares, threshold_NV[:, columns]))
        return jnp.concatenate(drawn.x, axis=1)

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


class _Drawn:
    """The blocks that were drawn: codes x, hidden units, and the codes again as lists.

    A visit has dozens of V codes, so where V is large gathering their rows of the first layer is
    cheaper than a product with V; visits with so many codes that it is not are multiplied.
    """

    def __init__(self, visits: int, tokens: int, size: int, dtype: jnp.dtype) -> None:
        self.x: list[jax.Array] = []
        self.units: list[jax.Array] = []
        self.size = size
        self.dtype = dtype
        self.gathers = tokens >= _GATHER_FROM
        self.list_NC = jnp.full((visits, -(-tokens // _GATHER)), tokens, jnp.int32)
        self.count_N = jnp.zeros(visits, jnp.int32)

    def append(self, x_NB: jax.Array, units_NB: jax.Array) -> None:
        start = self.size * len(self.x)
        self.x.append(x_NB)
        self.units.append(units_NB)
        if self.gathers:
            self.list_NC, self.count_N = _append(self.list_NC, self.count_N, x_NB, start)

    def codes_times(self, panel_PB: jax.Array) -> jax.Array:
        """(N, B) the codes of the P earlier tokens times their panel."""
        most = self.count_N.max()

        def product() -> jax.Array:
            return jnp.concatenate(self.x, axis=1).astype(self.dtype) @ panel_PB

        def gather() -> jax.Array:
            def add(slot: jax.Array, sum_NB: jax.Array) -> jax.Array:
                code_N = self.list_NC[:, slot]
                return sum_NB + panel_PB.at[code_N].get(mode="fill", fill_value=0)

            shape = len(self.count_N), panel_PB.shape[1]
            sum_NB: jax.Array = lax.fori_loop(0, most, add, jnp.zeros(shape, self.dtype))
            return sum_NB

        if not self.gathers:
            return product()
        total_NB: jax.Array = lax.cond(most * _GATHER < len(panel_PB), gather, product)
        return total_NB

    def units_times(self, panel_PB: jax.Array) -> jax.Array:
        """(N, B) the units of the P earlier tokens times their panel."""
        return jnp.concatenate(self.units, axis=1) @ panel_PB


def _append(
    list_NC: jax.Array, count_N: jax.Array, x_NB: jax.Array, start: int
) -> tuple[jax.Array, jax.Array]:
    """Lists with the codes of a block at their ends, one code of each visit a round.

    A list that is full counts on: whoever reads the count then does not read the list.
    """
    size = x_NB.shape[1]
    place_B, visit_N = jnp.arange(size, dtype=jnp.int32), jnp.arange(len(x_NB), dtype=jnp.int32)
    State = tuple[jax.Array, jax.Array, jax.Array]

    def some(state: State) -> jax.Array:
        return jnp.any(state[2])

    def take(state: State) -> State:
        list_NC, count_N, rest_NB = state
        first_N = jnp.where(rest_NB, place_B, size).min(axis=1)
        found_N = first_N < size
        slot_N = jnp.where(found_N, count_N, list_NC.shape[1])
        list_NC = list_NC.at[visit_N, slot_N].set(start + first_N, mode="drop")
        return list_NC, count_N + found_N, rest_NB & (place_B != first_N[:, None])

    list_NC, count_N, _ = lax.while_loop(some, take, (list_NC, count_N, x_NB))
    return list_NC, count_N


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
