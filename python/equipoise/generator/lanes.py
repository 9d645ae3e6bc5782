"""Lanes that never idle: the compiled part of sampling, on every device by itself.

A lane holds one subject; when its record ends, the lane takes the next subject of its device's
queue. Every random number belongs to (seed, subject number, visit, token), and a device never
waits for another: there is no communication between them.

Letters, beside the model's: L lanes of one device, E devices, K steps of a call, W bytes of a
visit's bits, C cells of the plan.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from equipoise.generator.model import Memory
from equipoise.generator.network import Graph, Halo, Params

DEVICES: Final = "devices"
#: What draws, whatever the environment would have: of others, numbers depend on the lanes.
RANDOM: Final = "threefry2x32"
#: Bits of a visit go to the host in whole words, which it looks through word by word.
WORD: Final = 64

_Spec: Any = PartitionSpec  # Untyped in JAX.
_EVERYWHERE: Final = _Spec()
_BY_LANE: Final = _Spec(DEVICES)
_BY_STEP_AND_LANE: Final = _Spec(None, DEVICES)


class Lanes(NamedTuple):
    """`number` is the subject's in the plan; `at` the decoder row to come, 1 for its first visit;
    `row` that row's input; `next` (E,) the first number of each device that no lane has taken."""

    memories: list[Memory]
    row: jax.Array
    at: jax.Array
    number: jax.Array
    active: jax.Array
    next: jax.Array


class Work(NamedTuple):
    """The subjects to make: numbers below `ends[c]` that are in no earlier cell are of cell c.

    conditions: (C, K). ends: (C,). stop: the first number that is not to be made. stride: from one
    number of a device's queue to the next. key: (2,) uint32, the seed.
    """

    conditions: jax.Array
    ends: jax.Array
    stop: jax.Array
    stride: jax.Array
    key: jax.Array


class Visits(NamedTuple):
    """What a call gave, (K, E L) each and `bits` (K, E L, W); all else than `active` is nothing."""

    number: jax.Array
    visit: jax.Array
    active: jax.Array
    ended: jax.Array
    bits: jax.Array


class Tally(NamedTuple):
    """What a call did on each device (E,): steps, visits made, records ended, and lanes still at
    work; small, so that the host can know it without waiting for the visits."""

    steps: jax.Array
    visits: jax.Array
    ended: jax.Array
    active: jax.Array


def key_of(seed: int) -> jax.Array:
    """The key of a seed of up to 64 bits."""
    key = jax.random.key(seed % 2**32, impl=RANDOM)
    return jax.random.fold_in(key, seed // 2**32 % 2**32)


def local_mesh() -> Mesh:
    """All devices of this process, in a row."""
    return Mesh(np.array(jax.local_devices()), (DEVICES,))


def everywhere(mesh: Mesh, tree: Any) -> Any:
    """A pytree with a whole copy on every device."""
    return jax.device_put(tree, NamedSharding(mesh, _EVERYWHERE))


def first_numbers(mesh: Mesh, first: int) -> jax.Array:
    """(E,) the start of each device's queue: device e has the numbers first + e + E k."""
    numbers_E = np.arange(first, first + mesh.size, dtype=np.int32)
    spread_E: jax.Array = jax.device_put(numbers_E, NamedSharding(mesh, _BY_LANE))
    return spread_E


@partial(jax.jit, static_argnames=("mesh", "graph", "lanes"))
def start(
    mesh: Mesh, graph: Graph, params: Params, work: Work, first: jax.Array, batch: int, lanes: int
) -> Lanes:
    """So many lanes on every device, `batch` of them with a subject, if there are so many."""

    def on_device(params: Params, work: Work, next_1: jax.Array, batch: jax.Array) -> Lanes:
        halo: Halo = graph.with_weights(params)
        nobody_L = jnp.zeros(lanes, jnp.int32)
        row_LD = jnp.zeros_like(halo.coarse.embed_condition(work.conditions[nobody_L]))
        memories = halo.coarse.remember_start(lanes)
        idle = Lanes(memories, row_LD, nobody_L + 1, nobody_L, nobody_L > 0, next_1)
        return _refill(halo, work, idle, jnp.arange(lanes) < batch)

    specs = (_EVERYWHERE, _EVERYWHERE, _BY_LANE, _EVERYWHERE)
    spread = jax.shard_map(
        on_device, mesh=mesh, in_specs=specs, out_specs=_BY_LANE, check_vma=False
    )
    lanes_: Lanes = spread(params, work, first, jnp.asarray(batch))
    return lanes_


@partial(jax.jit, static_argnames=("mesh", "graph", "steps"), donate_argnames="lanes")
def advance(
    mesh: Mesh, graph: Graph, params: Params, work: Work, lanes: Lanes, steps: int
) -> tuple[Lanes, Visits, Tally]:
    """Up to `steps` visits of every lane; fewer where no lane has a subject any more.

    On lanes that are all done it does nothing, so a call may be made before it is known whether it
    is needed.
    """

    def on_device(params: Params, work: Work, lanes: Lanes) -> tuple[Lanes, Visits, Tally]:
        halo: Halo = graph.with_weights(params)
        return _up_to(steps, halo, work, lanes)

    spread = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(_EVERYWHERE, _EVERYWHERE, _BY_LANE),
        out_specs=(_BY_LANE, _BY_STEP_AND_LANE, _BY_LANE),
        check_vma=False,
    )
    after: tuple[Lanes, Visits, Tally] = spread(params, work, lanes)
    return after


def _up_to(most: int, halo: Halo, work: Work, lanes: Lanes) -> tuple[Lanes, Visits, Tally]:
    State = tuple[jax.Array, Lanes, Visits]

    def at_work(state: State) -> jax.Array:
        return (state[0] < most) & jnp.any(state[1].active)

    def step(state: State) -> State:
        k, lanes, visits = state
        lanes, made = _one_visit(halo, work, lanes)
        visits = jax.tree.map(lambda all_KL, one_L: all_KL.at[k].set(one_L), visits, made)
        return k + 1, lanes, visits

    steps, lanes, visits = jax.lax.while_loop(
        at_work, step, (jnp.int32(0), lanes, _no_visits(halo, most, len(lanes.at)))
    )
    counts = (steps, visits.active.sum(), visits.ended.sum(), lanes.active.sum())
    return lanes, visits, Tally(*(count.astype(jnp.int32)[None] for count in counts))


def _no_visits(halo: Halo, steps: int, lanes: int) -> Visits:
    numbers_KL = jnp.zeros((steps, lanes), jnp.int32)
    no_KL = numbers_KL > 0
    bytes_ = -(-halo.head.tokens // WORD) * WORD // 8
    bits_KLW = jnp.zeros((steps, lanes, bytes_), jnp.uint8)
    return Visits(numbers_KL, numbers_KL, no_KL, no_KL, bits_KLW)


def _one_visit(halo: Halo, work: Work, lanes: Lanes) -> tuple[Lanes, Visits]:
    h_LD, memories = halo.coarse.step(lanes.row, lanes.at, lanes.memories)
    key = jax.random.wrap_key_data(work.key, impl=RANDOM)
    threshold_LV = thresholds(key, lanes.number, lanes.at - 1, halo.head.tokens)
    condition_LK = _conditions(work, lanes.number)
    x_LV, last_L = halo.draw(h_LD, threshold_LV, lanes.at - 1, condition_LK)
    ended_L = lanes.active & last_L
    bits_LW = jnp.packbits(jnp.pad(x_LV, ((0, 0), (0, -x_LV.shape[1] % WORD))), axis=1)
    visits = Visits(lanes.number, lanes.at - 1, lanes.active, ended_L, bits_LW)
    after = lanes._replace(
        memories=memories,
        row=halo.coarse.embed_visit(x_LV[:, :-1]),
        at=jnp.minimum(lanes.at + 1, halo.max_visits),
    )
    return _refill(halo, work, after, ended_L), visits


def _refill(halo: Halo, work: Work, lanes: Lanes, free_L: jax.Array) -> Lanes:
    """Give every free lane the next subject, and its condition as the row to come.

    Where the model wants it, the other rows get their subject's condition as well.
    The memory of a lane needs no clearing: see `Attention.step`.
    """
    place_L = jnp.cumsum(free_L, dtype=jnp.int32) - 1
    number_L = jnp.where(free_L, lanes.next + work.stride * place_L, lanes.number)
    condition_LD = halo.coarse.embed_condition(_conditions(work, number_L))
    rest_LD = lanes.row + condition_LD if halo.coarse.condition_every_visit else lanes.row
    return Lanes(
        lanes.memories,
        jnp.where(free_L[:, None], condition_LD, rest_LD),
        jnp.where(free_L, 1, lanes.at),
        number_L,
        (lanes.active | free_L) & (number_L < work.stop),
        lanes.next + work.stride * jnp.sum(free_L, dtype=jnp.int32),
    )


def _conditions(work: Work, number_L: jax.Array) -> jax.Array:
    """(L, K) what the subjects of these numbers are to be."""
    cell_L = jnp.searchsorted(work.ends, number_L, side="right")
    return work.conditions[cell_L]


def thresholds(key: jax.Array, number_L: jax.Array, visit_L: jax.Array, tokens: int) -> jax.Array:
    """(L, V) logit(u), u uniform on (0, 1), one stream per subject number and visit."""

    def of_lane(lane: tuple[jax.Array, jax.Array]) -> jax.Array:
        stream = jax.random.fold_in(jax.random.fold_in(key, lane[0]), lane[1])
        return logit_of_bits(jax.random.bits(stream, (tokens,), jnp.uint32))

    # A CPU makes 64 x 10,000 of them within its cache, in half the time of 256 x 10,000 at once.
    few = partial(jax.lax.map, of_lane, batch_size=64)
    threshold_LV: jax.Array = jax.lax.platform_dependent(
        (number_L, visit_L), cpu=few, default=jax.vmap(of_lane)
    )
    return threshold_LV


def logit_of_bits(bits: jax.Array) -> jax.Array:
    """logit(u) of 32 random bits: one chooses the half, 31 the place v in (0, 1/2).

    So u is as fine near 1 as near 0, is neither, and costs one logarithm. With the usual 23 bits,
    codes rarer than 1e-7 would come too often.
    """
    v = ((bits >> 1).astype(jnp.float32) + 0.5) * 2.0**-32
    logit = jnp.log(v / (1 - v))
    return jnp.where((bits & 1) == 1, -logit, logit)
