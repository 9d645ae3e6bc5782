"""The size of a diffusion model of visits, and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import isfinite

import numpy as np

from equipoise.errors import DataError


@dataclass(frozen=True)
class DiffusionConfig:
    """Size, training and sampling of `mcrage`; `for_rows` picks values that suit the data.

    width: of the network's hidden rows. layers: its residual blocks. batch_rows: visits per step.
    learning_rate: Adam's, constant. max_steps: the most steps there will be. evaluate_every: steps
    between looks at the tuning rows. patience: how many such looks in a row may fail to improve
    before training ends.
    reverse_steps: in how many steps a visit is uncovered. Variables that are uncovered in the same
    step do not see each other; there are never more steps than variables.
    """

    width: int = 256
    layers: int = 2
    batch_rows: int = 128
    learning_rate: float = 1e-3
    max_steps: int = 20_000
    evaluate_every: int = 100
    patience: int = 5
    reverse_steps: int = 50

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.generic):  # As a grid of settings has them.
                object.__setattr__(self, field.name, value := value.item())
            whole = field.name != "learning_rate"
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
                raise _wrong(field.name, "a whole number" if whole else "a number", value)
            if value <= 0 or not isfinite(value):
                raise _wrong(field.name, "a number above 0", value)

    @staticmethod
    def for_rows(rows: int, columns: int) -> DiffusionConfig:
        """Seconds for hundreds of visits, minutes for a hospital's (benches/studies/mcrage.md).

        The number of columns only bounds the steps: a step takes time by them.
        """
        most = 20_000 if columns < 4096 else 5_000
        if rows < 1_000:
            return DiffusionConfig(width=64, evaluate_every=25, max_steps=most)
        if rows < 10_000:
            return DiffusionConfig(width=128, max_steps=most)
        return DiffusionConfig(max_steps=most)


def _wrong(name: str, want: str, got: object) -> DataError:
    return DataError(table="DiffusionConfig", column=name, want=want, got=str(got))
