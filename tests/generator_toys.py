"""Small generators with random weights, and plans, for tests."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl

from equipoise.generator import Generator, GeneratorConfig
from equipoise.generator.checkpoint import HISTORY
from equipoise.generator.conditions import Conditions
from equipoise.generator.network import outline
from equipoise.vocabulary import Vocabulary

SMALL = GeneratorConfig(
    width=16, layers=2, heads=2, head_hidden=16, block=3, max_visits=4, batch_subjects=16
)


@dataclass
class ToyPlan:
    """Stands in for `equipoise.balance.BalancePlan`."""

    cells: pl.DataFrame
    by: list[str] = field(default_factory=lambda: ["sex"])


def plan_of(counts: list[int], sexes: str = "FFMM", labels: str = "0101") -> ToyPlan:
    cells = {"label": [label == "1" for label in labels], "sex": list(sexes), "synthetic": counts}
    return ToyPlan(pl.DataFrame(cells))


def random_weights(shapes, seed: int = 0, spread: float = 0.4):
    """Weights far from where training starts, so that every path carries something.

    Drawn by NumPy, for JAX's own initialisers take seconds to compile.
    """
    leaves, structure = jax.tree.flatten(shapes)
    rng = np.random.default_rng(seed)
    drawn = [jnp.asarray(spread * rng.standard_normal(leaf.shape, np.float32)) for leaf in leaves]
    return jax.tree.unflatten(structure, drawn)


def random_generator(
    codes: int = 6, config: GeneratorConfig = SMALL, seed: int = 0, spread: float = 0.4
) -> Generator:
    cells = plan_of([1] * 4).cells.rename({"synthetic": "subjects"})
    conditions = Conditions(cells, ("sex",))
    params = random_weights(outline(codes, len(conditions), config)[1], seed, spread)
    vocabulary = Vocabulary.of_codes([f"C{i}" for i in range(codes)])
    history = pl.DataFrame(schema=dict(HISTORY))
    return Generator(params, vocabulary, conditions, config, history, {})
