"""The coarse model: a causal decoder over visits, as in HALO (Theodorou et al., 2023).

Arrays in, arrays out; weights are 0 until they are drawn (`network.initialise`). Letters: B batch,
T visits per subject at most, N visits of the batch, R = 1 + N rows (the start, and what precedes
each visit), L lists of C codes (padded), V codes, K condition bits, D width; in attention P benches
of S = T + 1 seats, N heads, H width of one; in the sampler L lanes.
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
    """The keys and values, (L, N, rows, H), that one layer has seen so far.

    Rows of a head lie together: XLA on a CPU would put them so at every step.
    """

    keys: jax.Array
    values: jax.Array


class Layout(NamedTuple):
    """Where rows sit in attention, which alone pays for seats that are empty.

    rows: (P, S), the row at each seat, `PADDING` for none; every bench begins with the start.
    seat: (R,), the inverse, as p S + s. position: (R,), each row's among its subject's. sees:
    (P, S, S), whether a seat sees another: the start, and its own subject's up to itself.
    """

    rows: jax.Array
    seat: jax.Array
    position: jax.Array
    sees: jax.Array

    @staticmethod
    def of(grid_PT: jax.Array, place_N: jax.Array) -> Layout:
        """Of a batch whose visits sit as `grid_PT` says, n being visit place[n] % T of its subject.

        At a visit's own seat is the row that precedes it.
        """
        P, T = grid_PT.shape
        N = len(place_N)
        seated_PT = jnp.where(grid_PT < N, 1 + grid_PT, PADDING)
        rows_PS = jnp.concatenate([jnp.zeros((P, 1), jnp.int32), seated_PT], axis=1)
        seats_PS = jnp.arange(P * (T + 1)).reshape(P, T + 1)
        seat_R = jnp.zeros(1 + N, jnp.int32).at[rows_PS].max(seats_PS, mode="drop")
        position_R = jnp.concatenate([jnp.zeros(1, jnp.int32), place_N % T + 1])
        subject_R = jnp.concatenate([jnp.full(1, -1), place_N // T])
        subject_PS = subject_R.at[rows_PS].get(mode="fill", fill_value=-2)
        same_PSS = subject_PS[:, :, None] == subject_PS[:, None]
        start_PSS = subject_PS[:, None] == -1
        sees_PSS = (same_PSS | start_PSS) & jnp.tri(T + 1, dtype=bool)
        return Layout(rows_PS, seat_R, position_R, sees_PSS)


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
        mixed_PSNH = jax.nn.dot_product_attention(query, key, value, mask=layout.sees[:, None])
        return self.out(mixed_PSNH.reshape(-1, x_RD.shape[-1])[layout.seat])

    def step(self, x_LD: jax.Array, row_L: jax.Array, memory: Memory) -> tuple[jax.Array, Memory]:
        """Each lane's row `row_L`; what it wrote at later rows for an earlier subject is unseen."""
        query, key, value = self._split(x_LD)
        lane_L = jnp.arange(len(row_L))
        memory = Memory(
            memory.keys.at[lane_L, :, row_L].set(key),
            memory.values.at[lane_L, :, row_L].set(value),
        )
        past_LT = jnp.arange(memory.keys.shape[2]) <= row_L[:, None]
        keys, values = (part.swapaxes(1, 2) for part in memory)
        mixed_L1NH = jax.nn.dot_product_attention(
            query[:, None], keys, values, mask=past_LT[:, None, None, :]
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
        self, condition_BK: jax.Array, visits_ND: jax.Array, grid_PT: jax.Array, place_N: jax.Array
    ) -> jax.Array:
        """(N, D): entry n has seen its subject's condition and visits before n, T <= max_visits."""
        rows_RD = self.embed(condition_BK, visits_ND, place_N, grid_PT.shape[1])
        return self.decode(rows_RD, Layout.of(grid_PT, place_N))

    def embed(
        self, condition_BK: jax.Array, visits_ND: jax.Array, place_N: jax.Array, most: int
    ) -> jax.Array:
        """Rows (R, D), without positions: the start; a condition before a first visit, else the
        visit before, which is the one that is listed before."""
        condition_ND = self.embed_condition(condition_BK)[place_N // most]
        before_ND = jnp.roll(visits_ND, 1, axis=0)
        if self.condition_every_visit:
            before_ND = before_ND + condition_ND
        first_N1 = (place_N % most == 0)[:, None]
        rows_ND = jnp.where(first_N1, condition_ND, before_ND)
        return jnp.concatenate([self.start_1D[...], rows_ND])

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
        h_ND: jax.Array = self.norm(x_RD[1:])
        return h_ND

    def remember_start(self, lanes: int) -> list[Memory]:
        """Empty memories of all layers but for row 0, the start, which all subjects share."""
        rows, width = self.position_TD.shape
        heads = self.blocks[0].attention.heads
        shape = (lanes, heads, rows, width // heads)
        empty = jnp.zeros(shape, self.start_1D.dtype)
        memories = [Memory(empty, empty) for _ in self.blocks]
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
