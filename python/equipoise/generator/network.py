"""The whole network: the coarse model and the head, joined."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import nnx

from equipoise.generator.batches import Batch
from equipoise.generator.config import GeneratorConfig
from equipoise.generator.ending import Ending
from equipoise.generator.head import Head
from equipoise.generator.model import PADDING, Coarse
from equipoise.generator.nade import BlockHead
from equipoise.generator.systems import Systems
from equipoise.generator.triangle import HaloHead

#: The weights, float32 arrays in dictionaries, which `jax.jit` takes apart faster than `nnx.State`.
Params = dict[str, Any]
BIAS: Final = "head.bias_GB"
_END_BIAS: Final = "ending.bias_1"
#: Always float32: log-odds of rare codes, and the table whose rows and gradients are sums of many.
_FULL: Final = (BIAS, _END_BIAS, "coarse.codes_VD")


class Graph:
    """A network without its weights: static, hashable, what `jax.jit` compiles for.

    Its hash is taken once: `jax.jit` asks for it at every step.
    """

    def __init__(self, definition: nnx.GraphDef[Any]) -> None:
        self._definition = definition
        self._hash = hash(definition)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and self._definition == other._definition

    def with_weights(self, params: Params) -> Any:
        """The whole network."""
        return nnx.merge(self._definition, params)


class Halo(nnx.Module):
    """Conditional distribution of records, with room for at least so many codes.

    The last token marks the end of a record, those before it the systems of codes, if there are
    several; between them and the codes are unused ones. To the head all but the codes are unused:
    their bias is -inf (`initialise`), but for the end's unless `ending` tells it before the codes;
    where records have one visit only, there is nothing to tell. The static part has no trace of how
    many codes there are.
    """

    def __init__(self, codes: int, conditions: int, config: GeneratorConfig) -> None:
        blocks, size = config.blocks(codes)
        self.max_visits = config.max_visits
        self.coarse = Coarse(
            blocks * size - 1,
            conditions,
            config.max_visits,
            width=config.width,
            layers=config.layers,
            heads=config.heads,
            condition_every_visit=config.condition_every_visit,
        )
        self.head = _head(blocks, size, config)
        told_first = config.end_first and config.max_visits > 1
        self.ending = Ending(conditions, config.width) if told_first else None
        told = (config.systems, self.head.tokens, config.width)
        self.systems = Systems(*told) if config.systems else None

    def log_likelihood(
        self,
        condition_BK: jax.Array,
        grid_PT: jax.Array,
        place_N: jax.Array,
        owner_L: jax.Array,
        codes_LC: jax.Array,
    ) -> jax.Array:
        """(B, T) nats of each visit given the condition and all visits before it; 0 for padding.

        The arguments are those of `batches.Batch`. At the last visit a record can have, the end is
        certain, so its marker carries no nats.
        """
        dtype = self.coarse.start_1D.dtype
        visits_ND = self.coarse.embed_lists(owner_L, codes_LC, len(place_N)).astype(dtype)
        condition_BK = condition_BK.astype(dtype)
        h_ND = self.coarse(condition_BK, visits_ND, grid_PT, place_N)
        x_NV = multi_hot(owner_L, codes_LC, (len(place_N), self.head.tokens))
        B, T = len(condition_BK), grid_PT.shape[1]
        if self.systems is not None:
            x_NV = x_NV.at[:, self._place_of_systems()].set(self.systems.of(x_NV))
        logits_NV = self._logits(h_ND, x_NV, condition_BK[place_N // T])
        nats_NV = jnp.where(x_NV, logits_NV, 0) - jax.nn.softplus(logits_NV)
        open_N = place_N % T < self.max_visits - 1
        nats_N = nats_NV[:, :-1].sum(-1) + jnp.where(open_N, nats_NV[:, -1], 0)
        seated_PT = place_N.at[grid_PT].get(mode="fill", fill_value=PADDING)
        nats_PT = nats_N.at[grid_PT].get(mode="fill", fill_value=0)
        return jnp.zeros(B * T).at[seated_PT].add(nats_PT, mode="drop").reshape(B, T)

    def draw(
        self, h_LD: jax.Array, threshold_LV: jax.Array, visit_L: jax.Array, condition_LK: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """(L, V) tokens of visits number `visit_L`, from 0, and (L,) whether they are the last.

        With threshold logit(u), u uniform, this is an exact draw. The end's own token is not to be
        relied on.
        """
        certain_L = visit_L == self.max_visits - 1
        last_L, told_LD = certain_L, h_LD
        if self.ending is not None:
            last_L |= self.ending.log_odds(h_LD) > threshold_LV[:, -1]
            told_LD = self.ending.tell(h_LD, last_L, condition_LK)
        if self.systems is not None:
            s_LS = self.systems.draw(told_LD, threshold_LV[:, self._place_of_systems()])
            told_LD = self.systems.tell(told_LD, s_LS)
            threshold_LV = jnp.where(self.systems.closed(s_LS), jnp.inf, threshold_LV)
        x_LV = self.head.sample(told_LD, threshold_LV)
        return x_LV, last_L if self.ending is not None else last_L | x_LV[:, -1]

    def _logits(self, h_ND: jax.Array, x_NV: jax.Array, condition_NK: jax.Array) -> jax.Array:
        """(N, V) float32 log-odds of every token given those that are told before it."""
        told_ND = h_ND
        if self.ending is not None:
            told_ND = self.ending.tell(h_ND, x_NV[:, -1], condition_NK)
        if self.systems is None:
            logits_NV = self.head.logits(told_ND, x_NV).astype(jnp.float32)
        else:
            place = self._place_of_systems()
            s_NS = x_NV[:, place]
            first_NS = self.systems.log_odds(told_ND, s_NS).astype(jnp.float32)
            told_ND = self.systems.tell(told_ND, s_NS)
            # The head has not drawn them, and the end may come after them.
            logits_NV = self.head.logits(told_ND, x_NV.at[:, place].set(False))
            logits_NV = jnp.where(self.systems.closed(s_NS), -jnp.inf, logits_NV)
            logits_NV = logits_NV.astype(jnp.float32).at[:, place].set(first_NS)
        if self.ending is None:
            return logits_NV
        return logits_NV.at[:, -1].set(self.ending.log_odds(h_ND).astype(jnp.float32))

    def _place_of_systems(self) -> slice:
        systems = 0 if self.systems is None else self.systems.bias_S.shape[0]
        return slice(self.head.tokens - 1 - systems, self.head.tokens - 1)


def _head(blocks: int, size: int, config: GeneratorConfig) -> Head:
    if config.head == "halo":
        return HaloHead(blocks, size, width=config.width)
    return BlockHead(blocks, size, width=config.width, hidden=config.head_hidden)


def multi_hot(owner_L: jax.Array, codes_LC: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """(N, V) booleans from lists of tokens; whatever is outside is dropped."""
    return jnp.zeros(shape, bool).at[owner_L[:, None], codes_LC].set(True, mode="drop")


def end_token(codes: int, config: GeneratorConfig) -> int:
    """The token that marks a record's last visit."""
    blocks, size = config.blocks(codes)
    return blocks * size - 1


def initialise(
    log_odds_V: npt.NDArray[np.float64], conditions: int, config: GeneratorConfig, seed: int
) -> tuple[Graph, Params]:
    """A network with random weights that starts at these log-odds of the codes and the end.

    Starting there saves the steps to learn rarity. Drawn by NumPy: each shape would cost JAX's
    initialisers a second to compile.
    """
    graph, shapes = outline(len(log_odds_V) - 1, conditions, config)
    rng = np.random.default_rng(seed)
    leaves = []
    named = named_arrays(shapes)
    for name, leaf in named.items():
        # One at a time: JAX copies them, and both copies of all would be most of what a step needs.
        drawn = rng.standard_normal(leaf.shape, np.float32)
        drawn *= np.float32(_spread(name, leaf.shape))
        if name.endswith(".scale"):
            drawn += 1
        if name == BIAS:
            drawn.fill(-np.inf)
            drawn.flat[: len(log_odds_V) - 1] = log_odds_V[:-1]
            drawn.flat[-1] = -np.inf if _END_BIAS in named else log_odds_V[-1]
        if name == _END_BIAS:
            drawn.fill(log_odds_V[-1])
        leaves.append(jnp.asarray(drawn))
    params: Params = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
    return graph, params


def _spread(name: str, shape: tuple[int, ...]) -> float:
    """The standard deviation of these weights when training starts."""
    match name.rstrip(".0123456789").split(".")[-1]:
        case "bias" | "scale" | "offset_GH" | "direct_GBB" | "bias_GB":
            return 0
        case "read_D" | "bias_1" | "read_DS" | "bias_S" | "direct_SS" | "member_VS":
            return 0
        case "offset_free_Q" | "offset_V":
            return 0
        case "condition_KD" | "last_D" if name.startswith("ending."):
            # Smaller, for last visits have the condition already: at 1 the label of weak signals is
            # learned by heart, at 0.05 that of strong ones hardly at all.
            return 0.25
        case "tell_SD":
            return 1
        case "condition_KD":
            # Far larger than the rest and in every row, unlike HALO's: with hundreds of subjects
            # the network else learns them by heart before it learns what label and group change.
            return 1
        case "read_DH" | "read_DV" | "read_free_DQ":
            return float(shape[0] ** -0.5)
        case "write_GHB":
            return float((shape[0] * shape[1]) ** -0.5)
        case _:
            return 0.02


def outline(codes: int, conditions: int, config: GeneratorConfig) -> tuple[Graph, Params]:
    """The network with the shapes of its weights in place of weights; allocates nothing."""
    return taken_apart(nnx.eval_shape(lambda: Halo(codes, conditions, config)))


def taken_apart(network: nnx.Module) -> tuple[Graph, Params]:
    """A network without its weights, and them."""
    definition, params = nnx.split(network)
    return Graph(definition), nnx.to_pure_dict(params)


@partial(jax.jit, static_argnames="graph")
def visit_nats(graph: Graph, params: Params, batch: Batch) -> jax.Array:
    """`Halo.log_likelihood` of given weights, compiled once per shape."""
    halo: Halo = graph.with_weights(params)
    return halo.log_likelihood(*map(jnp.asarray, batch))


def computing_dtype(config: GeneratorConfig) -> jnp.dtype[Any]:
    """What a configuration trains with on this machine."""
    if config.dtype != "auto":
        return jnp.dtype(config.dtype)
    return jnp.dtype("float32" if jax.default_backend() == "cpu" else "bfloat16")


def lowered(params: Params, dtype: jnp.dtype[Any]) -> Params:
    """The weights as they are computed with."""

    def lower(path: Any, leaf: jax.Array) -> jax.Array:
        return leaf if dotted(path) in _FULL else leaf.astype(dtype)

    lower_params: Params = jax.tree_util.tree_map_with_path(lower, params)
    return lower_params


def named_arrays(params: Params) -> Mapping[str, jax.Array]:
    """The weights by dotted name, such as `head.bias_GB`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {dotted(path): leaf for path, leaf in leaves}


def replaced(params: Params, arrays: Mapping[str, npt.NDArray[np.float32]]) -> Params:
    """The weights with those of these dotted names in place of their own."""
    named = {**named_arrays(params), **{name: jnp.asarray(a) for name, a in arrays.items()}}
    other: Params = jax.tree.unflatten(jax.tree.structure(params), list(named.values()))
    return other


def dotted(path: Any) -> str:
    """The dotted name of a weight by its path in the pytree."""
    return ".".join(str(getattr(key, "key", "")) for key in path if hasattr(key, "key"))
