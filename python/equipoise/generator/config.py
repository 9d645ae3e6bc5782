"""The size of a generator, and how it is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from math import isfinite
from typing import Final, Literal

import numpy as np

from equipoise.cohort import Cohort
from equipoise.errors import DataError
from equipoise.generator.sizes import blocks_of, round_up, usual_block
from equipoise.generator.systems import systems_of

_CHOICES: Final[Mapping[str, tuple[str | bool, ...]]] = {
    "schedule": ("constant", "cosine"),
    "dtype": ("auto", "float32", "bfloat16"),
    "head": ("block", "halo"),
    "condition_every_visit": (True, False),
    "end_first": (True, False),
}
_MAY_BE_0: Final = (
    "warmup_steps",
    "weight_decay",
    "clip_norm",
    "condition_dropout",
    "spare_tokens",
    "systems",
)


@dataclass(frozen=True)
class GeneratorConfig:
    """Size and training of a generator; `for_cohort` picks values that suit the data.

    width, layers, heads: of the coarse decoder. condition_every_visit: whether the condition is
    added to the row of every visit, or has one row of its own only, as in HALO.
    head: the fine head, "block" (block-NADE) or "halo" (the paper's masked layers). block: its
    codes to a block. head_hidden: its hidden width, if "block". spare_tokens: unused tokens wanted
    between the codes and the end of a record (`from_halo` keeps HALO's label columns there).
    end_first: whether the end is told before the codes of the last visit (`ending`), or after them,
    as in HALO. systems: how many systems of codes are told before the codes (`systems`): those of
    the vocabulary, or 0. max_visits: longer subjects are cut to their last `max_visits`, for the
    label sits on the last. batch_subjects: subjects per step. max_steps: the most steps there are.
    evaluate_every: steps between looks at the tuning subjects. patience: how many such looks in a
    row may fail to improve before training ends. learning_rate: Adam's, constant as in HALO unless
    `schedule` is "cosine", which falls to 0 at `max_steps`; either rises from 0 in the first
    `warmup_steps`. weight_decay: that of AdamW; at 0 it is Adam. clip_norm: the longest a gradient
    may be; at 0 any. accumulate: into how many parts a step is cut, one computed after the other,
    which saves memory and changes nothing but rounding. condition_dropout: how often a training
    subject's group is hidden, each for itself; above 0, groups may be left out when sampling.
    dtype: what is computed with in training, "auto" being bfloat16 on accelerators and float32 on
    CPUs; weights, moments and losses are float32.
    """

    width: int = 256
    layers: int = 4
    heads: int = 4
    condition_every_visit: bool = True
    head: Literal["block", "halo"] = "block"
    head_hidden: int = 512
    spare_tokens: int = 0
    end_first: bool = True
    systems: int = 0
    block: int = 256
    max_visits: int = 20
    batch_subjects: int = 64
    learning_rate: float = 3e-4
    max_steps: int = 100_000
    evaluate_every: int = 500
    patience: int = 5
    schedule: str = "constant"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    accumulate: int = 1
    condition_dropout: float = 0.0
    dtype: str = "auto"

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.generic):  # As a grid of settings has them.
                object.__setattr__(self, field.name, value := value.item())
            self._check(field.name, value)
        if self.width % self.heads:
            raise _wrong("heads", f"a divisor of the width {self.width}", self.heads)

    def _check(self, name: str, value: object) -> None:
        if name in _CHOICES:
            if value not in _CHOICES[name]:
                raise _wrong(name, f"one of {', '.join(map(str, _CHOICES[name]))}", value)
            return
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise _wrong(name, "a number", value)
        if name in _WHOLE and not isinstance(value, int):
            raise _wrong(name, "a whole number", value)
        if name == "condition_dropout" and not 0 <= value < 1:
            raise _wrong(name, "a probability below 1", value)
        if value < 0 or (value == 0 and name not in _MAY_BE_0):
            raise _wrong(name, "a number above 0", value)

    def blocks(self, codes: int) -> tuple[int, int]:
        """How many blocks of how many tokens a head of so many codes has, the end included."""
        return blocks_of(codes + self.spare_tokens + self.systems + 1, self.block)

    @staticmethod
    def for_cohort(cohort: Cohort) -> GeneratorConfig:
        """Small for hundreds of subjects (seconds on a laptop), larger for a hospital's records.

        Measured in benches/studies/generator.md: training goes on until it stops helping, blocks
        are as fine as time allows, for within a block the head knows no "or", and networks are
        larger than the likelihood wants, for smaller ones carry less of the label.
        """
        lengths = np.diff(cohort.visit_offsets)
        visits, longest = int(lengths.sum()), int(lengths.max(initial=1))
        columns = len(cohort.vocabulary)
        config = GeneratorConfig(
            head_hidden=256,
            learning_rate=5e-4,
            block=usual_block(columns),
            max_visits=round_up(longest, 1) if longest <= 8 else 20,
            systems=int(systems_of(cohort.vocabulary).max(initial=-1)) + 1,
        )
        if visits < 50_000:
            return replace(
                config,
                width=64,
                layers=2,
                block=16 if columns < 2048 else config.block,
                batch_subjects=16,
                max_steps=20_000,
                evaluate_every=100 if visits > 5_000 else 50,
            )
        return replace(
            config,
            width=128,
            layers=3,
            block=32 if columns < 2048 else config.block,
            batch_subjects=32,
            max_steps=20_000 if visits < 200_000 else 100_000,
            evaluate_every=200 if visits < 200_000 else 500,
        )


_WHOLE: Final = [field.name for field in fields(GeneratorConfig) if field.type == "int"]


def _wrong(name: str, want: str, got: object) -> DataError:
    return DataError(table="GeneratorConfig", column=name, want=want, got=str(got))
