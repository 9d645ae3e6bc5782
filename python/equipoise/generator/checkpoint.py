"""A trained generator and its folder: safetensors, JSON and Arrow; nothing that runs code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import polars as pl
from safetensors import SafetensorError, safe_open
from safetensors.flax import save_file
from safetensors.numpy import load_file

from equipoise import schema, store
from equipoise.cohort import Cohort
from equipoise.errors import DataError
from equipoise.generator.conditions import Conditions
from equipoise.generator.config import GeneratorConfig
from equipoise.generator.network import BIAS, Graph, Params, named_arrays, outline
from equipoise.vocabulary import Vocabulary

WEIGHTS: Final = "weights.safetensors"
DESCRIPTION: Final = "generator.json"
METRICS: Final = "metrics.jsonl"
#: Of the folder. Another number is for files that this code could not read or would misread.
FORMAT: Final = 3

#: In a generator's report: of visits before a subject's last, the share whose label was known.
EARLIER_KNOWN: Final = "earlier_labels_known"
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
        """The network without weights; `graph.with_weights(params)` is the whole."""
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

    def save(
        self, out: Path | str, files: Mapping[str, bytes] | None = None, **manifest: Any
    ) -> Path:
        """Write the generator as a folder, with `files` added by name.

        `manifest` goes to `store.writing`. There is no time in it: the same training gives the
        same bytes.
        """
        manifest.setdefault("config", asdict(self.config))
        with store.writing(out, "model", sealed=True, **manifest) as folder:
            save_file(dict(named_arrays(self.params)), folder / WEIGHTS)
            self.vocabulary.write(folder)
            description = {
                "format": FORMAT,
                "config": asdict(self.config),
                "by": self.by,
                "cells": self.conditions.cells.to_dict(as_series=False),
                "report": dict(self.report),
            }
            store.write_json(folder / DESCRIPTION, description)
            # Safetensors makes it for its owner alone; it is read by whom the others are.
            (folder / WEIGHTS).chmod((folder / DESCRIPTION).stat().st_mode)
            self.history.write_ndjson(folder / METRICS)
            for name, content in (files or {}).items():
                (folder / name).write_bytes(content)
        return Path(out)


def load_generator(folder: Path | str) -> Generator:
    """Open a saved generator.

    Raises `DataError` for a folder of another kind or of a newer version, a missing or changed
    file, or weights that do not fit the configuration. Nothing is allocated before that is known.
    """
    folder = Path(folder)
    _check_format(folder)
    store.check_seal(folder, "model")
    description = store.read_json(folder / DESCRIPTION)
    vocabulary = Vocabulary.read(folder)
    conditions, config = _described(folder / DESCRIPTION, description)
    history = _read_history(folder / METRICS)
    shapes = outline(len(vocabulary), len(conditions), config)[1]
    params = _read_weights(folder / WEIGHTS, shapes)
    return Generator(params, vocabulary, conditions, config, history, description["report"])


def _check_format(folder: Path) -> None:
    """Refuse a newer folder by name; whatever else is wrong with it, its seal will tell."""
    writer = store.read_manifest(folder, "model").get("equipoise")
    try:
        wrote = store.read_json(folder / DESCRIPTION).get("format")
    except DataError:
        return
    if isinstance(wrote, int) and wrote > FORMAT:
        raise DataError(
            table=str(folder / DESCRIPTION),
            column="format",
            want=f"{FORMAT}, which equipoise {version('equipoise')} reads",
            got=f"{wrote}, which equipoise {writer} wrote",
            hint="Install that version",
        )


def _described(path: Path, description: Mapping[str, Any]) -> tuple[Conditions, GeneratorConfig]:
    try:
        by = [str(name) for name in description["by"]]
        cells = pl.DataFrame(
            description["cells"],
            schema={schema.LABEL: pl.Boolean, **dict.fromkeys(by, pl.String), "subjects": pl.Int64},
        )
        # Format 1 had no such setting, and the end after the codes; format 2 no systems.
        config = GeneratorConfig(**{"end_first": False, **description["config"]})
    except (ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
        raise DataError(table=str(path), want="a generator's description", got=str(error)) from None
    return Conditions(cells, tuple(by), config.condition_dropout > 0), config


def _read_history(path: Path) -> pl.DataFrame:
    try:
        return pl.read_ndjson(path, schema=dict(HISTORY))
    except pl.exceptions.NoDataError:
        return pl.DataFrame(schema=dict(HISTORY))
    except pl.exceptions.PolarsError as error:
        raise DataError(table=str(path), want="lines of JSON", got=str(error)) from None


def _read_weights(path: Path, shapes: Params) -> Params:
    want = {name: (list(leaf.shape), "F32") for name, leaf in named_arrays(shapes).items()}
    try:
        with safe_open(path, framework="numpy") as header:
            slices = {name: header.get_slice(name) for name in header.keys()}  # noqa: SIM118
            got = {name: (part.get_shape(), part.get_dtype()) for name, part in slices.items()}
        for name in sorted(want.keys() | got.keys()):
            if want.get(name) != got.get(name):
                raise DataError(
                    table=str(path),
                    column=name,
                    want=str(want.get(name, "no such weights")),
                    got=str(got.get(name, "none")),
                )
        arrays = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(table=str(path), want="safetensors", got=str(error)) from None
    for name in want:
        check_numbers(path, name, arrays[name])
    leaves = [jnp.asarray(arrays[name]) for name in want]
    params: Params = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
    return params


def check_numbers(path: Path | str, name: str, array: npt.NDArray[np.floating[Any]]) -> None:
    """Raise `DataError` for weights that are no numbers: visits drawn by them would look empty.

    A bias of -inf is that of a token that is never drawn.
    """
    fine = np.isfinite(array)
    if name == BIAS:
        fine |= array == -np.inf
    if not fine.all():
        got = f"{int((~fine).sum())} that are not, such as {array[~fine][0]}"
        raise DataError(table=str(path), column=name, want="weights that are numbers", got=got)
