"""A trained generator and its folder: safetensors, JSON and Arrow; nothing that runs code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import jax
import jax.numpy as jnp
import polars as pl
from safetensors import SafetensorError
from safetensors.flax import load_file, save_file

from equipoise import schema, store
from equipoise.cohort import Cohort
from equipoise.errors import DataError
from equipoise.generator.conditions import Conditions
from equipoise.generator.config import GeneratorConfig
from equipoise.generator.network import Graph, Params, named_arrays, outline
from equipoise.vocabulary import Vocabulary

WEIGHTS: Final = "weights.safetensors"
DESCRIPTION: Final = "generator.json"

#: Mean negative log-likelihood, nats per visit, at each look at the tuning subjects.
HISTORY: Final[Mapping[str, type[pl.DataType]]] = {
    "step": pl.Int64,
    "train_nll": pl.Float64,
    "tuning_nll": pl.Float64,
    "learning_rate": pl.Float64,
}


@dataclass(frozen=True, eq=False)
class Generator:
    """A conditional distribution of records: visits given the label and the groups.

    params: weights, a pytree of float32 arrays. conditions: the cells that were trained on.
    history: rows of `HISTORY`. report: how many subjects were used, and left out for what reason.
    """

    params: Params
    vocabulary: Vocabulary
    conditions: Conditions
    config: GeneratorConfig
    history: pl.DataFrame
    report: Mapping[str, int | float | str]

    def __repr__(self) -> str:
        weights = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        return (
            f"Generator({len(self.vocabulary)} columns, {len(self.conditions.cells)} cells by "
            f"{', '.join(self.by) or 'label'}, {weights:,} weights)"
        )

    @property
    def by(self) -> list[str]:
        """The names of the groups it is conditioned on."""
        return list(self.conditions.by)

    @cached_property
    def graph(self) -> Graph:
        """The network without weights; `nnx.merge(graph, params)` is the whole."""
        return outline(len(self.vocabulary), len(self.conditions), self.config)[0]

    def check_vocabulary(self, cohort: Cohort) -> None:
        """Raise `DataError` unless `cohort` has the vocabulary that was trained on."""
        if not self.vocabulary.equals(cohort.vocabulary):
            raise DataError(
                table="cohort",
                want=f"the generator's vocabulary of {len(self.vocabulary)} columns",
                got=f"another, of {len(cohort.vocabulary)}",
                hint="Encode the cohort with generator.vocabulary",
            )

    def save(self, out: Path | str, **manifest: Any) -> Path:
        """Write the generator as a folder; `manifest` goes to `store.writing`."""
        manifest.setdefault("config", asdict(self.config))
        with store.writing(out, "model", **manifest) as folder:
            save_file(dict(named_arrays(self.params)), folder / WEIGHTS)
            self.vocabulary.write(folder)
            description = {
                "config": asdict(self.config),
                "by": self.by,
                "cells": self.conditions.cells.to_dict(as_series=False),
                "history": self.history.to_dict(as_series=False),
                "report": dict(self.report),
                "digests": store.digest([folder / WEIGHTS]),
            }
            store.write_json(folder / DESCRIPTION, description)
        return Path(out)


def load_generator(folder: Path | str) -> Generator:
    """Open a saved generator.

    Raises `DataError` for a folder of another kind, a missing or damaged file, or weights that do
    not fit the configuration.
    """
    folder = Path(folder)
    store.read_manifest(folder, "model")
    vocabulary = Vocabulary.read(folder)
    path = folder / DESCRIPTION
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        by = [str(name) for name in description["by"]]
        cells = pl.DataFrame(
            description["cells"],
            schema={schema.LABEL: pl.Boolean, **dict.fromkeys(by, pl.String), "subjects": pl.Int64},
        )
        config = GeneratorConfig(**description["config"])
        history = pl.DataFrame(description["history"], schema=dict(HISTORY))
        report, digests = dict(description["report"]), description["digests"]
    except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
        raise DataError(table=str(path), want="a generator's description", got=str(error)) from None
    conditions = Conditions(cells, tuple(by), config.condition_dropout > 0)
    shapes = outline(len(vocabulary), len(conditions), config)[1]
    params = _read_weights(folder / WEIGHTS, digests.get(WEIGHTS), shapes)
    return Generator(params, vocabulary, conditions, config, history, report)


def _read_weights(path: Path, digest: str | None, shapes: Params) -> Params:
    try:
        if store.digest([path])[path.name] != digest:
            raise DataError(
                table=str(path), want=f"the weights that were saved, {digest}", got="other bytes"
            )
        arrays = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(table=str(path), want="safetensors", got=str(error)) from None
    want = {name: leaf.shape for name, leaf in named_arrays(shapes).items()}
    got = {name: array.shape for name, array in arrays.items()}
    for name in want.keys() | got.keys():
        if want.get(name) != got.get(name):
            raise DataError(
                table=str(path),
                column=name,
                want=str(want.get(name, "no such weights")),
                got=str(got.get(name, "none")),
            )
    leaves = [jnp.asarray(arrays[name]) for name in named_arrays(shapes)]
    params: Params = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
    return params
