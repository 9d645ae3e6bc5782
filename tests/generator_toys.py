"""Small generators with random weights, and plans, for tests."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl

from equipoise.cohort import cohort_from_lists
from equipoise.generator import Generator, GeneratorConfig
from equipoise.generator.batches import Batch, Shape, pad
from equipoise.generator.checkpoint import HISTORY
from equipoise.generator.conditions import Conditions
from equipoise.generator.network import end_token, initialise
from equipoise.vocabulary import Vocabulary

SMALL = GeneratorConfig(
    width=16, layers=2, heads=2, head_hidden=16, block=3, max_visits=4, batch_subjects=16
)


def flags_for(devices: int) -> str:
    """XLA_FLAGS of a process on a host of so many devices, with those of the tests kept."""
    return f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"


@dataclass
class ToyPlan:
    """Stands in for `equipoise.balance.BalancePlan`."""

    cells: pl.DataFrame
    by: list[str] = field(default_factory=lambda: ["sex"])


def plan_of(counts: list[int], sexes: str = "FFMM", labels: str = "0101") -> ToyPlan:
    cells = {"label": [label == "1" for label in labels], "sex": list(sexes), "synthetic": counts}
    return ToyPlan(pl.DataFrame(cells))


def random_weights(shapes, seed: int = 0, spread: float = 0.4):
    """Weights far from where training starts, so that every path carries something."""
    leaves, structure = jax.tree.flatten(shapes)
    rng = np.random.default_rng(seed)
    drawn = [jnp.asarray(spread * rng.standard_normal(leaf.shape, np.float32)) for leaf in leaves]
    return jax.tree.unflatten(structure, drawn)


def random_generator(
    codes: int = 6, config: GeneratorConfig = SMALL, seed: int = 0, spread: float = 0.4
) -> Generator:
    cells = plan_of([1] * 4).cells.rename({"synthetic": "subjects"})
    conditions = Conditions(cells, ("sex",))
    start = initialise(np.zeros(codes + 1), len(conditions), config, seed)[1]
    # The -inf that silences an unused token stays.
    params = jax.tree.map(
        lambda first, drawn: jnp.where(jnp.isneginf(first), first, drawn),
        start,
        random_weights(start, seed, spread),
    )
    vocabulary = Vocabulary.of_codes([f"C{i}" for i in range(codes)])
    history = pl.DataFrame(schema=dict(HISTORY))
    return Generator(params, vocabulary, conditions, config, history, {})


def batch_of(
    generator: Generator, records: list[list[list[int]]], sexes: str, labels: str, shape: Shape
) -> Batch:
    """The records padded to that shape."""
    subjects = pl.DataFrame({"label": [label == "1" for label in labels], "sex": list(sexes)})
    cohort = cohort_from_lists(records, subjects, generator.vocabulary)
    end = end_token(len(generator.vocabulary), generator.config)
    return pad(cohort.nested, generator.conditions.encode(cohort.subjects), shape, end)
