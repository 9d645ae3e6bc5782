"""Our side of benches/generator.py. Prints one JSON object."""

from __future__ import annotations

import json
import resource
import sys
import time
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from flax import nnx

import generator_inputs as inputs
from equipoise.cohort import cohort_from_lists
from equipoise.generator import GeneratorConfig, fitting
from equipoise.generator.batches import Shape, pad
from equipoise.generator.conditions import Conditions
from equipoise.generator.fitting import State
from equipoise.generator.from_halo import head_arrays
from equipoise.generator.nade import BlockHead
from equipoise.generator.network import (
    Graph,
    Params,
    end_token,
    initialise,
    named_arrays,
)
from equipoise.generator.optimiser import EVERY, Optimiser, share_of
from equipoise.generator.parallel import Layout
from equipoise.generator.sizes import usual_block
from equipoise.generator.triangle import HaloHead
from equipoise.vocabulary import Vocabulary


def main() -> None:
    kind, columns, width, rows = sys.argv[1], *map(int, sys.argv[2:5])
    if kind == "step":
        result = step(columns, width, sys.argv[5])
    else:
        result = head(columns, width, rows, by_xla=kind == "xla")
    result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(result))


def seconds(work, repeat: int = 3, least: float = 2.0) -> float:
    """Least processor seconds of so many calls, and of more until `least` seconds have passed, once
    compiled."""
    jax.block_until_ready(work())
    taken = []
    while len(taken) < repeat or sum(taken) < least:
        start = time.process_time()
        jax.block_until_ready(work())
        taken.append(time.process_time() - start)
    return min(taken)


def head(columns: int, width: int, visits: int, by_xla: bool) -> dict:
    """One visit of so many patients from HALO's weights, as the product draws it or by XLA alone;
    sys.argv[5] gets it in HALO's columns, sys.argv[6] is the block of codes, unless the usual."""
    codes = columns - inputs.SPECIALS
    block = int(sys.argv[6]) if len(sys.argv) > 6 else usual_block(columns)
    config = GeneratorConfig(
        width=width, heads=1, head="halo", block=block, spare_tokens=inputs.BITS + 1
    )
    state = inputs.head_state(columns, width)
    blocks, size = config.blocks(codes)
    empty = nnx.eval_shape(lambda: HaloHead(blocks, size, width=width))
    halo = filled(empty, head_arrays(state, codes, config))
    draw = Layers.draw_by_xla if by_xla else Layers.draw
    h_ND = jnp.asarray(inputs.history(visits, width))
    by_column = inputs.thresholds(visits, columns)
    threshold_NV = np.zeros((visits, blocks * size), np.float32)
    threshold_NV[:, :codes], threshold_NV[:, -1] = by_column[:, :codes], by_column[:, -2]
    threshold_NV = jnp.asarray(threshold_NV)
    x_NV = np.asarray(draw(halo, h_ND, threshold_NV))
    ours = np.zeros((visits, columns), np.float32)
    ours[:, :codes], ours[:, -2] = x_NV[:, :codes], x_NV[:, -1]
    np.save(sys.argv[5], ours)

    rng = np.random.default_rng(0)
    empty = nnx.eval_shape(lambda: BlockHead(blocks, size, width=width, hidden=width))
    weights = {
        f"head.{name}": 0.02 * rng.standard_normal(leaf.shape, np.float32)
        for name, leaf in named_arrays(nnx.split(empty)[1]).items()
    }
    weights["head.bias_GB"] = head_arrays(state, codes, config)["head.bias_GB"]
    nade = filled(empty, weights)
    other = Layers.draw if by_xla else Layers.draw_by_xla
    differ_NV = np.asarray(draw(nade, h_ND, threshold_NV) != other(nade, h_ND, threshold_NV))
    assert not differ_NV.any(), f"{differ_NV.any(1).sum()} visits differ"
    x_NV = jnp.asarray(x_NV)
    timed = {
        "halo": seconds(lambda: draw(halo, h_ND, threshold_NV)),
        "halo_packed_pass": seconds(lambda: halo.score(h_ND, x_NV)),
        "block": seconds(lambda: draw(nade, h_ND, threshold_NV)),
        "block_pass": seconds(lambda: nade.score(h_ND, x_NV)),
    }
    both = [jnp.asarray(np.tril(state[f"ehr_head.{name}.weight"]).T) for name in ("auto1", "auto2")]
    z = jnp.concatenate([h_ND, jnp.asarray(ours)], axis=1)
    timed["dense_pass"] = seconds(lambda: dense(z, *both))
    return timed


class Layers(NamedTuple):
    """A head in parts, as the product hands its network to `jit`: a module costs a millisecond."""

    graph: Graph
    params: Params

    def draw(self, h_ND, threshold_NV):
        return drawn_by(self.graph, self.params, h_ND, threshold_NV)

    def draw_by_xla(self, h_ND, threshold_NV):
        return drawn_by_xla(self.graph, self.params, h_ND, threshold_NV)

    def score(self, h_ND, x_NV):
        return scored_by(self.graph, self.params, h_ND, x_NV)


@partial(jax.jit, static_argnames="graph")
def drawn_by(graph, params, h_ND, threshold_NV):
    return graph.with_weights(params).sample(h_ND, threshold_NV)


@partial(jax.jit, static_argnames="graph")
def drawn_by_xla(graph, params, h_ND, threshold_NV):
    return graph.with_weights(params).sample_by_xla(h_ND, threshold_NV)


@partial(jax.jit, static_argnames="graph")
def scored_by(graph, params, h_ND, x_NV):
    return graph.with_weights(params).logits(h_ND, x_NV)


@jax.jit
def dense(z, one, two):
    return jax.nn.relu(z @ one) @ two


def filled(empty, arrays) -> Layers:
    definition, shapes = nnx.split(empty)
    shapes = nnx.to_pure_dict(shapes)
    leaves = [jnp.asarray(arrays[f"head.{name}"], jnp.float32) for name in named_arrays(shapes)]
    return Layers(Graph(definition), jax.tree.unflatten(jax.tree.structure(shapes), leaves))


def step(columns: int, width: int, kind: str) -> dict:
    """8 patients of 16 visits, 2 layers: forward, backward, Adam; the average as in training."""
    codes = columns - inputs.SPECIALS
    cells = pl.DataFrame({"label": [False, True], "subjects": [1, 1]})
    conditions = Conditions(cells, ())
    config = GeneratorConfig(
        width=width,
        layers=2,
        head=kind,
        head_hidden=width,
        block=usual_block(columns),
        max_visits=16,
    )
    graph, params = initialise(np.zeros(codes + 1), len(conditions), config, 0)
    subjects = pl.DataFrame({"label": [True] * 8})
    vocabulary = Vocabulary.of_codes([str(code) for code in range(codes)])
    cohort = cohort_from_lists(inputs.records(8, 16, codes), subjects, vocabulary)
    shape = Shape(8, 16, 128, 384, 8)
    batch = jax.tree.map(
        jnp.asarray,
        pad(cohort.nested, conditions.encode(subjects), shape, end_token(codes, config)),
    )
    optimiser, layout = Optimiser.of(config), Layout.of(jax.devices(), 1)
    weights = sum(leaf.size for leaf in jax.tree.leaves(params))
    state = State(params, optimiser.start(params))
    how = (graph, optimiser, jnp.dtype("float32"), layout, 1e-4, 1 / 128)
    batch = layout.put_batch([batch])

    def several():
        nonlocal state
        for _ in range(EVERY):
            state, loss = fitting._train_step(*how, state, batch)
        state = fitting._remember(layout, share_of(EVERY, EVERY), state)
        return state, loss

    return {"step": seconds(several) / EVERY, "weights": weights}


if __name__ == "__main__":
    main()
