"""The whole network and its size: the coarse model and the head, joined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from equipoise.cohort import Cohort
from equipoise.errors import DataError
from equipoise.generator.head import Head
from equipoise.generator.model import Coarse

#: The network without its weights: static, hashable, what `jax.jit` compiles for.
Graph = nnx.GraphDef[Any]
#: The weights: a pytree of float32 arrays.
Params = nnx.State[Any, Any]


@dataclass(frozen=True)
class GeneratorConfig:
    """Size and training of a generator; `for_cohort` picks values that suit the data.

    width, layers, heads: of the coarse decoder. head_hidden, block: of the fine head.
    max_visits: longer subjects are cut to their last `max_visits`, for the label sits on the last.
    batch_subjects: subjects per step. max_steps: the most steps there will be.
    evaluate_every: steps between looks at the tuning subjects. patience: how many such looks in a
    row may fail to improve before training ends. learning_rate: Adam's, constant as in HALO.
    """

    width: int = 256
    layers: int = 4
    heads: int = 4
    head_hidden: int = 512
    block: int = 256
    max_visits: int = 20
    batch_subjects: int = 64
    learning_rate: float = 3e-4
    max_steps: int = 100_000
    evaluate_every: int = 500
    patience: int = 5

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise DataError(
                    table="GeneratorConfig",
                    column=field.name,
                    want="a number above 0",
                    got=str(getattr(self, field.name)),
                )
        if self.width % self.heads:
            raise DataError(
                table="GeneratorConfig",
                column="heads",
                want=f"a divisor of the width {self.width}",
                got=str(self.heads),
            )

    @staticmethod
    def for_cohort(cohort: Cohort) -> GeneratorConfig:
        """Small for hundreds of subjects (seconds on a laptop), full for a hospital's records."""
        lengths = np.diff(cohort.visit_offsets)
        visits = int(lengths.sum())
        config = GeneratorConfig(
            block=128 if len(cohort.vocabulary) < 4096 else 256,
            max_visits=int(np.clip(lengths.max(initial=1), 1, 20)),
        )
        if visits < 20_000:
            return replace(
                config,
                width=64,
                layers=2,
                head_hidden=128,
                learning_rate=5e-4,
                max_steps=1500,
                evaluate_every=25,
            )
        if visits < 200_000:
            return replace(
                config,
                width=128,
                layers=3,
                head_hidden=256,
                learning_rate=5e-4,
                max_steps=20_000,
                evaluate_every=200,
            )
        return config


class Halo(nnx.Module):
    """Conditional distribution of records: V codes and the end marker, which is token V."""

    def __init__(
        self, codes: int, conditions: int, config: GeneratorConfig, *, rngs: nnx.Rngs
    ) -> None:
        self.max_visits = config.max_visits
        self.coarse = Coarse(
            codes,
            conditions,
            config.max_visits,
            width=config.width,
            layers=config.layers,
            heads=config.heads,
            rngs=rngs,
        )
        self.head = Head(
            codes + 1,
            width=config.width,
            hidden=config.head_hidden,
            block=config.block,
            rngs=rngs,
        )

    def log_likelihood(
        self, condition_BK: jax.Array, codes_BTC: jax.Array, visits_B: jax.Array
    ) -> jax.Array:
        """(B, T) nats of each visit given the condition and all visits before it; 0 for padding.

        At the last visit a record can have, the end is certain, so its marker carries no nats.
        """
        B, T, C = codes_BTC.shape
        h_BTD = self.coarse(condition_BK, codes_BTC)
        x_NV = multi_hot(codes_BTC.reshape(B * T, C), self.head.tokens)
        logits_NV = self.head.logits(h_BTD.reshape(B * T, -1), x_NV)
        nats_NV = jnp.where(x_NV, logits_NV, 0) - jax.nn.softplus(logits_NV)
        end_BT = nats_NV[:, -1].reshape(B, T)
        open_T = jnp.arange(T) < self.max_visits - 1
        nats_BT = nats_NV[:, :-1].sum(-1).reshape(B, T) + jnp.where(open_T, end_BT, 0)
        return jnp.where(jnp.arange(T) < visits_B[:, None], nats_BT, 0)


def multi_hot(codes_NC: jax.Array, tokens: int) -> jax.Array:
    """(N, V) booleans from lists of tokens; whatever is outside 0..V-1 is dropped."""
    rows_N1 = jnp.arange(len(codes_NC))[:, None]
    return jnp.zeros((len(codes_NC), tokens), bool).at[rows_N1, codes_NC].set(True, mode="drop")


def initialise(
    codes: int, conditions: int, config: GeneratorConfig, seed: int
) -> tuple[Graph, Params]:
    """A network with random weights."""

    graph, params = nnx.split(Halo(codes, conditions, config, rngs=nnx.Rngs(params=seed)))
    return graph, params


def outline(codes: int, conditions: int, config: GeneratorConfig) -> tuple[Graph, Params]:
    """The network with the shapes of its weights in place of weights; allocates nothing."""
    halo = nnx.eval_shape(lambda: Halo(codes, conditions, config, rngs=nnx.Rngs(params=0)))
    graph, params = nnx.split(halo)
    return graph, params


@partial(jax.jit, static_argnames="graph")
def visit_nats(
    graph: Graph,
    params: Params,
    condition_BK: jax.Array,
    codes_BTC: jax.Array,
    visits_B: jax.Array,
) -> jax.Array:
    """`Halo.log_likelihood` of given weights, compiled once per shape."""
    halo: Halo = nnx.merge(graph, params)
    return halo.log_likelihood(condition_BK, codes_BTC, visits_B)


def named_arrays(params: Params) -> Mapping[str, jax.Array]:
    """The weights by dotted name, such as `head.bias_GB`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {_dotted(path): leaf for path, leaf in leaves}


def _dotted(path: Any) -> str:
    return ".".join(str(getattr(key, "key", "")) for key in path if hasattr(key, "key"))
