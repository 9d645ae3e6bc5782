"""The coarse model: a causal decoder over visits, as in HALO (Theodorou et al., 2023).

Arrays in, arrays out; weights are 0 until they are drawn (`network.initialise`). Letters: B batch,
T visits per subject (padded), N visits of the batch, R = 1 + B + N rows (the start, conditions,
visits), L lists of C codes (padded), V codes, K condition bits, D width; in attention S = T + 1
rows of a subject, N heads, H width of one; in the sampler L lanes.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

#: Fills the unused slots of code lists: beyond any table, so gathers give 0 and scatters drop it.
PADDING: Final = 2**31 - 1

_zeros = nnx.initializers.zeros_init()


@jax.custom_vjp
def gather_sum(table_VD: jax.Array, codes_LC: jax.Array) -> jax.Array:
    """Sum of the rows of `table_VD` that each list names, (L, D); codes outside 0..V-1 add 0.

    One slot of the lists at a time, forward and backward: `take(...).sum(1)` would hold (L, C, D).
    """

    def add(slot: jax.Array, sum_LD: jax.Array) -> jax.Array:
        return sum_LD + table_VD.at[codes_LC[:, slot]].get(mode="fill", fill_value=0)

    zeros_LD = jnp.zeros((codes_LC.shape[0], table_VD.shape[1]), table_VD.dtype)
    total_LD: jax.Array = jax.lax.fori_loop(0, codes_LC.shape[1], add, zeros_LD)
    return total_LD


def _gather_forward(table_VD: jax.Array, codes_LC: jax.Array) -> tuple[jax.Array, Any]:
    return gather_sum(table_VD, codes_LC), (jnp.zeros_like(table_VD), codes_LC)


def _gather_backward(kept: Any, grad_LD: jax.Array) -> tuple[jax.Array, None]:
    zeros_VD, codes_LC = kept

    def add(slot: jax.Array, grad_VD: jax.Array) -> jax.Array:
        return grad_VD.at[codes_LC[:, slot]].add(grad_LD, mode="drop")

    return jax.lax.fori_loop(0, codes_LC.shape[1], add, zeros_VD), None


gather_sum.defvjp(_gather_forward, _gather_backward)


class Memory(NamedTuple):
    """The keys and values, (L, rows, N, H), that one layer has seen so far."""

    keys: jax.Array
    values: jax.Array


class Layout(NamedTuple):
    """Where rows stand: only attention pays for subjects being padded to S = T + 1 rows each.

    rows: (B, S), each subject's in order, `PADDING` for none. seat: (R,), the inverse, as b S + s.
    position: (R,), s. before: (N,), the row that foresees each visit.
    """

    rows: jax.Array
    seat: jax.Array
    position: jax.Array
    before: jax.Array

    @staticmethod
    def of(grid_BT: jax.Array, place_N: jax.Array) -> Layout:
        """Of a batch whose visit n is visit t of subject b: n = grid[b, t], place[n] = b T + t."""
        B, T = grid_BT.shape
        N = len(place_N)
        subject_N, visit_N = place_N // T, place_N % T
        condition_B, row_N = 1 + jnp.arange(B), 1 + B + jnp.arange(N)
        visits_BT = jnp.where(grid_BT < N, 1 + B + jnp.minimum(grid_BT, N), PADDING)
        rows_BS = jnp.concatenate(
            [jnp.zeros((B, 1), jnp.int32), condition_B[:, None], visits_BT[:, :-1]], axis=1
        )
        owner_R = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.arange(B), subject_N])
        # The last of T visits has no seat, and its row no reader.
        position_R = jnp.concatenate(
            [jnp.zeros(1, jnp.int32), jnp.ones(B, jnp.int32), jnp.minimum(visit_N + 2, T)]
        )
        before_N = jnp.where(visit_N == 0, condition_B[subject_N], row_N - 1)
        return Layout(rows_BS, owner_R * (T + 1) + position_R, position_R, before_N)


class Attention(nnx.Module):
    """Causal self-attention, whole sequences or one row at a time."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs) -> None:
        self.heads = heads
        self.project = nnx.Linear(width, 3 * width, kernel_init=_zeros, rngs=rngs)
        self.out = nnx.Linear(width, width, kernel_init=_zeros, rngs=rngs)

    def __call__(self, x_RD: jax.Array, layout: Layout) -> jax.Array:
        query, key, value = (
            part.at[layout.rows].get(mode="fill", fill_value=0) for part in self._split(x_RD)
        )
        mixed_BSNH = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        return self.out(mixed_BSNH.reshape(-1, x_RD.shape[-1])[layout.seat])

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
        self.widen = nnx.Linear(width, 4 * width, kernel_init=_zeros, rngs=rngs)
        self.narrow = nnx.Linear(4 * width, width, kernel_init=_zeros, rngs=rngs)

    def __call__(self, x_RD: jax.Array, layout: Layout) -> jax.Array:
        return self._feed(x_RD + self.attention(self.norm_attention(x_RD), layout))

    def step(self, x_LD: jax.Array, row_L: jax.Array, memory: Memory) -> tuple[jax.Array, Memory]:
        mixed_LD, memory = self.attention.step(self.norm_attention(x_LD), row_L, memory)
        return self._feed(x_LD + mixed_LD), memory

    def _feed(self, x: jax.Array) -> jax.Array:
        return x + self.narrow(nnx.gelu(self.widen(self.norm_feed(x)), approximate=True))


class Coarse(nnx.Module):
    """What is known of a subject before each visit: condition and earlier visits, as D numbers.

    Rows are start, condition, visits; the row before a visit foresees it (HALO, Methods). The
    condition may also be added to the row of every visit.
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
        condition_every_visit: bool = True,
    ) -> None:
        rngs = nnx.Rngs(0)
        self.condition_every_visit = condition_every_visit
        self.codes_VD = nnx.Param(jnp.zeros((codes, width)))
        self.condition_KD = nnx.Param(jnp.zeros((conditions, width)))
        self.start_1D = nnx.Param(jnp.zeros((1, width)))
        self.position_TD = nnx.Param(jnp.zeros((max_visits + 1, width)))
        self.blocks = nnx.List([Block(width, heads, rngs=rngs) for _ in range(layers)])
        self.norm = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)

    def __call__(
        self, condition_BK: jax.Array, visits_ND: jax.Array, grid_BT: jax.Array, place_N: jax.Array
    ) -> jax.Array:
        """(N, D): entry n has seen its subject's condition and visits before n, T <= max_visits."""
        rows_RD = self.embed(condition_BK, visits_ND, place_N // grid_BT.shape[1])
        return self.decode(rows_RD, Layout.of(grid_BT, place_N))

    def embed(
        self, condition_BK: jax.Array, visits_ND: jax.Array, subject_N: jax.Array
    ) -> jax.Array:
        """Rows (R, D): start, conditions and visits, without positions."""
        condition_BD = self.embed_condition(condition_BK)
        if self.condition_every_visit:
            visits_ND = visits_ND + condition_BD[subject_N]
        return jnp.concatenate([self.start_1D[...], condition_BD, visits_ND])

    def embed_lists(self, owner_L: jax.Array, codes_LC: jax.Array, visits: int) -> jax.Array:
        """(N, D) of visits given as lists, of which `owner_L` says whose they are."""
        lists_LD = gather_sum(self.codes_VD[...], codes_LC)
        zeros_ND = jnp.zeros((visits, lists_LD.shape[1]), lists_LD.dtype)
        return zeros_ND.at[owner_L].add(lists_LD, mode="drop")

    def embed_condition(self, condition_BK: jax.Array) -> jax.Array:
        """(B, D) rows of conditions."""
        return condition_BK @ self.condition_KD[...]

    def embed_visit(self, x_LV: jax.Array) -> jax.Array:
        """(L, D) of multi-hot visits, without conditions."""
        return x_LV.astype(self.codes_VD.dtype) @ self.codes_VD[...]

    def decode(self, rows_RD: jax.Array, layout: Layout) -> jax.Array:
        """From rows to what precedes each visit, (N, D)."""
        x_RD = rows_RD + self.position_TD[...][layout.position]
        for block in self.blocks:
            x_RD = block(x_RD, layout)
        h_ND: jax.Array = self.norm(x_RD[layout.before])
        return h_ND

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
