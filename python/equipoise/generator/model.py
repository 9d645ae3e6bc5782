"""The coarse model: a causal decoder over visits, as in HALO (Theodorou et al., 2023).

Arrays in, arrays out. Letters: B batch, T visits per subject (padded), C codes per visit (padded),
V codes, K condition bits, D width, N heads, H width of one head, L lanes of the sampler.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

#: Fills the unused slots of code lists: beyond any table, so gathers give 0 and scatters drop it.
PADDING: Final = 2**31 - 1

_small = nnx.initializers.normal(0.02)


@jax.custom_vjp
def gather_sum(table_VD: jax.Array, codes_NC: jax.Array) -> jax.Array:
    """Sum of the rows of `table_VD` that each list names, (N, D); codes outside 0..V-1 add 0.

    One slot of the lists at a time, forward and backward: `take(...).sum(1)` would hold (N, C, D).
    """

    def add(slot: jax.Array, sum_ND: jax.Array) -> jax.Array:
        return sum_ND + table_VD.at[codes_NC[:, slot]].get(mode="fill", fill_value=0)

    zeros_ND = jnp.zeros((codes_NC.shape[0], table_VD.shape[1]), table_VD.dtype)
    total_ND: jax.Array = jax.lax.fori_loop(0, codes_NC.shape[1], add, zeros_ND)
    return total_ND


def _gather_forward(table_VD: jax.Array, codes_NC: jax.Array) -> tuple[jax.Array, Any]:
    return gather_sum(table_VD, codes_NC), (jnp.zeros_like(table_VD), codes_NC)


def _gather_backward(kept: Any, grad_ND: jax.Array) -> tuple[jax.Array, None]:
    zeros_VD, codes_NC = kept

    def add(slot: jax.Array, grad_VD: jax.Array) -> jax.Array:
        return grad_VD.at[codes_NC[:, slot]].add(grad_ND, mode="drop")

    return jax.lax.fori_loop(0, codes_NC.shape[1], add, zeros_VD), None


gather_sum.defvjp(_gather_forward, _gather_backward)


class Memory(NamedTuple):
    """The keys and values, (L, rows, N, H), that one layer has seen so far."""

    keys: jax.Array
    values: jax.Array


class Attention(nnx.Module):
    """Causal self-attention, whole sequences or one row at a time."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs) -> None:
        self.heads = heads
        self.project = nnx.Linear(width, 3 * width, kernel_init=_small, rngs=rngs)
        self.out = nnx.Linear(width, width, kernel_init=_small, rngs=rngs)

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        query, key, value = self._split(x_BTD)
        mixed_BTNH = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        return self.out(mixed_BTNH.reshape(x_BTD.shape))

    def step(self, x_LD: jax.Array, row_L: jax.Array, memory: Memory) -> tuple[jax.Array, Memory]:
        """Each lane's row `row_L`; what it wrote at later rows for an earlier subject is unseen."""
        query, key, value = self._split(x_LD)
        lane_L = jnp.arange(len(row_L))
        memory = Memory(
            memory.keys.at[lane_L, row_L].set(key),
            memory.values.at[lane_L, row_L].set(value),
        )
        past_LT = jnp.arange(memory.keys.shape[1]) <= row_L[:, None]
        mixed_L1NH = jax.nn.dot_product_attention(
            query[:, None], *memory, mask=past_LT[:, None, None, :]
        )
        return self.out(mixed_L1NH.reshape(x_LD.shape)), memory

    def _split(self, x: jax.Array) -> list[jax.Array]:
        parts = jnp.split(self.project(x), 3, axis=-1)
        return [part.reshape(*x.shape[:-1], self.heads, -1) for part in parts]


class Block(nnx.Module):
    """One GPT-2 block: layer norm before attention and before the feed-forward part."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs) -> None:
        self.norm_attention = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)
        self.attention = Attention(width, heads, rngs=rngs)
        self.norm_feed = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)
        self.widen = nnx.Linear(width, 4 * width, kernel_init=_small, rngs=rngs)
        self.narrow = nnx.Linear(4 * width, width, kernel_init=_small, rngs=rngs)

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        return self._feed(x_BTD + self.attention(self.norm_attention(x_BTD)))

    def step(self, x_LD: jax.Array, row_L: jax.Array, memory: Memory) -> tuple[jax.Array, Memory]:
        mixed_LD, memory = self.attention.step(self.norm_attention(x_LD), row_L, memory)
        return self._feed(x_LD + mixed_LD), memory

    def _feed(self, x: jax.Array) -> jax.Array:
        return x + self.narrow(nnx.gelu(self.widen(self.norm_feed(x)), approximate=True))


class Coarse(nnx.Module):
    """What is known of a subject before each visit: condition and earlier visits, as D numbers.

    Rows are start, condition, visits; the row before a visit foresees it (HALO, Methods). The
    condition is also added to the row of every visit.
    """

    def __init__(
        self,
        codes: int,
        conditions: int,
        max_visits: int,
        *,
        width: int,
        layers: int,
        heads: int,
        rngs: nnx.Rngs,
    ) -> None:
        def table(rows: int, spread: float = 1.0) -> nnx.Param[jax.Array]:
            return nnx.Param(spread * _small(rngs.params(), (rows, width), jnp.float32))

        self.codes_VD = table(codes)
        # Far larger than the rest and in every row, unlike HALO's: with hundreds of subjects the
        # network else learns them by heart before it learns what label and group change.
        self.condition_KD = table(conditions, spread=50)
        self.start_1D = table(1)
        self.position_TD = table(max_visits + 1)
        self.blocks = nnx.List([Block(width, heads, rngs=rngs) for _ in range(layers)])
        self.norm = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)

    def __call__(self, condition_BK: jax.Array, codes_BTC: jax.Array) -> jax.Array:
        """(B, T, D): entry t has seen the condition and the visits before t, T <= max_visits."""
        return self.decode(self.embed(condition_BK, codes_BTC))

    def embed(self, condition_BK: jax.Array, codes_BTC: jax.Array) -> jax.Array:
        """Rows (B, T + 1, D): start, condition and all visits but the last, without positions."""
        B, T, C = codes_BTC.shape
        visits_ND = gather_sum(self.codes_VD[...], codes_BTC[:, :-1].reshape(-1, C))
        start_B1D = jnp.broadcast_to(self.start_1D[...], (B, 1, self.start_1D.shape[-1]))
        condition_B1D = self.embed_condition(condition_BK)[:, None]
        visits_BTD = visits_ND.reshape(B, T - 1, visits_ND.shape[-1]) + condition_B1D
        return jnp.concatenate([start_B1D, condition_B1D, visits_BTD], axis=1)

    def embed_condition(self, condition_BK: jax.Array) -> jax.Array:
        """(B, D) rows of conditions."""
        return condition_BK @ self.condition_KD[...]

    def embed_visit(self, x_LV: jax.Array) -> jax.Array:
        """(L, D) of multi-hot visits; their rows are this plus the condition's."""
        return x_LV.astype(self.codes_VD.dtype) @ self.codes_VD[...]

    def decode(self, rows_BTD: jax.Array) -> jax.Array:
        """From rows (B, T + 1, D) to what precedes each of the T visits, (B, T, D)."""
        x_BTD = rows_BTD + self.position_TD[: rows_BTD.shape[1]]
        for block in self.blocks:
            x_BTD = block(x_BTD)
        h_BTD: jax.Array = self.norm(x_BTD[:, 1:])
        return h_BTD

    def remember_start(self, lanes: int) -> list[Memory]:
        """Empty memories of all layers but for row 0, the start, which all subjects share."""
        rows, width = self.position_TD.shape
        heads = self.blocks[0].attention.heads
        shape = (lanes, rows, heads, width // heads)
        memories = [Memory(jnp.zeros(shape), jnp.zeros(shape)) for _ in self.blocks]
        start_LD = jnp.broadcast_to(self.start_1D[...], (lanes, width))
        return self.step(start_LD, jnp.zeros(lanes, jnp.int32), memories)[1]

    def step(
        self, row_LD: jax.Array, at_L: jax.Array, memories: list[Memory]
    ) -> tuple[jax.Array, list[Memory]]:
        """`decode` for one row a lane: row `at_L` (1 is the condition) gives (L, D)."""
        x_LD = row_LD + self.position_TD[...][at_L]
        after = []
        for block, memory in zip(self.blocks, memories, strict=True):
            x_LD, memory = block.step(x_LD, at_L, memory)
            after.append(memory)
        return self.norm(x_LD), after
