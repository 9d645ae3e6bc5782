"""Our side of benches/generator.py. Prints one JSON object."""

from __future__ import annotations

import json
import resource
import sys
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import polars as pl
from flax import nnx

import generator_inputs as inputs
from equipoise.cohort import cohort_from_lists
from equipoise.generator import GeneratorConfig
from equipoise.generator.batches import Bucket, pad
from equipoise.generator.conditions import Conditions
from equipoise.generator.from_halo import head_arrays
from equipoise.generator.head import BlockHead
from equipoise.generator.network import end_token, initialise, named_arrays
from equipoise.generator.triangle import HaloHead
from equipoise.vocabulary import Vocabulary


def main() -> None:
    kind, columns, width, rows = sys.argv[1], *map(int, sys.argv[2:5])
    result = head(columns, width, rows) if kind == "head" else step(columns, width, sys.argv[5])
    result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(result))


def seconds(work, repeat: int = 5) -> float:
    """Least processor seconds, once compiled."""
    jax.block_until_ready(work())
    best = float("inf")
    for _ in range(repeat):
        start = time.process_time()
        jax.block_until_ready(work())
        best = min(best, time.process_time() - start)
    return best


def head(columns: int, width: int, visits: int) -> dict:
    """One visit of so many patients from HALO's weights; sys.argv[5] gets it in HALO's columns."""
    codes = columns - inputs.SPECIALS
    block = int(sys.argv[6])
    config = GeneratorConfig(
        width=width, heads=1, head="halo", block=block, spare_tokens=inputs.BITS + 1
    )
    state = inputs.head_state(columns, width)
    halo = filled(
        lambda: HaloHead(*config.blocks(codes), width=width), head_arrays(state, codes, config)
    )
    h_ND = jnp.asarray(inputs.history(visits, width))
    by_column = inputs.thresholds(visits, columns)
    threshold_NV = np.zeros((visits, halo.tokens), np.float32)
    threshold_NV[:, :codes], threshold_NV[:, -1] = by_column[:, :codes], by_column[:, -2]
    threshold_NV = jnp.asarray(threshold_NV)
    x_NV = np.asarray(draw(halo, h_ND, threshold_NV))
    ours = np.zeros((visits, columns), np.float32)
    ours[:, :codes], ours[:, -2] = x_NV[:, :codes], x_NV[:, -1]
    np.save(sys.argv[5], ours)

    rng = np.random.default_rng(0)
    nade = nnx.eval_shape(lambda: BlockHead(*config.blocks(codes), width=width, hidden=width))
    drawn = {
        f"head.{name}": 0.02 * rng.standard_normal(leaf.shape, np.float32)
        for name, leaf in named_arrays(nnx.split(nade)[1]).items()
    }
    drawn["head.bias_GB"] = np.asarray(halo.bias_GB[...])
    nade = filled(lambda: BlockHead(*config.blocks(codes), width=width, hidden=width), drawn)
    x_NV = jnp.asarray(x_NV)
    timed = {
        "halo": seconds(lambda: draw(halo, h_ND, threshold_NV)),
        "halo_packed_pass": seconds(lambda: score(halo, h_ND, x_NV)),
        "block": seconds(lambda: draw(nade, h_ND, threshold_NV)),
        "block_pass": seconds(lambda: score(nade, h_ND, x_NV)),
    }
    both = [jnp.asarray(np.tril(state[f"ehr_head.{name}.weight"]).T) for name in ("auto1", "auto2")]
    z = jnp.concatenate([h_ND, jnp.asarray(ours)], axis=1)
    timed["dense_pass"] = seconds(lambda: dense(z, *both))
    return timed


@jax.jit
def draw(head, h_ND, threshold_NV):
    return head.sample(h_ND, threshold_NV)


@jax.jit
def score(head, h_ND, x_NV):
    return head.logits(h_ND, x_NV)


@jax.jit
def dense(z, one, two):
    return jax.nn.relu(z @ one) @ two


def filled(make, arrays):
    graph, shapes = nnx.split(nnx.eval_shape(make))
    leaves = [jnp.asarray(arrays[f"head.{name}"], jnp.float32) for name in named_arrays(shapes)]
    return nnx.merge(graph, jax.tree.unflatten(jax.tree.structure(shapes), leaves))


def step(columns: int, width: int, kind: str) -> dict:
    """8 patients of 16 visits, 2 layers: forward, backward, Adam."""
    codes = columns - inputs.SPECIALS
    cells = pl.DataFrame({"label": [False, True], "subjects": [1, 1]})
    conditions = Conditions(cells, ())
    config = GeneratorConfig(
        width=width,
        layers=2,
        head=kind,
        head_hidden=width,
        block=128 if columns < 4096 else 256,
        max_visits=16,
    )
    graph, params = initialise(np.zeros(codes + 1), len(conditions), config, 0)
    subjects = pl.DataFrame({"label": [True] * 8})
    vocabulary = Vocabulary.of_codes([str(code) for code in range(codes)])
    cohort = cohort_from_lists(inputs.records(8, 16, codes), subjects, vocabulary)
    shape = Bucket(np.arange(8), 8, 8, 16, 128, 384)
    batch = jax.tree.map(
        jnp.asarray, pad(cohort, conditions.encode(subjects), shape, end_token(codes, config))
    )
    adam = optax.adam(1e-4)

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(params, moments, batch):
        def loss(params):
            return -nnx.merge(graph, params).log_likelihood(*batch).mean()

        gradient = jax.grad(loss)(params)
        updates, moments = adam.update(gradient, moments)
        return optax.apply_updates(params, updates), moments

    state = (params, adam.init(params))
    weights = sum(leaf.size for leaf in jax.tree.leaves(params))

    def once():
        nonlocal state
        state = update(*state, batch)
        return state

    return {"step": seconds(once), "weights": weights}


main()
