"""The size of a generator, and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np

from equipoise.cohort import Cohort
from equipoise.errors import DataError
from equipoise.generator.sizes import blocks_of, round_up


@dataclass(frozen=True)
class GeneratorConfig:
    """Size and training of a generator; `for_cohort` picks values that suit the data.

    width, layers, heads: of the coarse decoder. condition_every_visit: whether the condition is
    added to the row of every visit, or has one row of its own only, as in HALO.
    head: the fine head, "block" (block-NADE) or "halo" (the paper's masked layers). block: its
    codes to a block. head_hidden: its hidden width, if "block". spare_tokens: unused tokens wanted
    between the codes and the end of a record (`from_halo` keeps HALO's label columns there).
    max_visits: longer subjects are cut to their last `max_visits`, for the label sits on the last.
    batch_subjects: subjects per step. max_steps: the most steps there will be.
    evaluate_every: steps between looks at the tuning subjects. patience: how many such looks in a
    row may fail to improve before training ends. learning_rate: Adam's, constant as in HALO.
    """

    width: int = 256
    layers: int = 4
    heads: int = 4
    condition_every_visit: bool = True
    head: Literal["block", "halo"] = "block"
    head_hidden: int = 512
    spare_tokens: int = 0
    block: int = 256
    max_visits: int = 20
    batch_subjects: int = 64
    learning_rate: float = 3e-4
    max_steps: int = 100_000
    evaluate_every: int = 500
    patience: int = 5

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (isinstance(value, bool | str) or value > 0 or field.default == value == 0):
                raise DataError(
                    table="GeneratorConfig",
                    column=field.name,
                    want="a number above 0",
                    got=str(value),
                )
        if self.head not in ("block", "halo"):
            raise DataError(
                table="GeneratorConfig", column="head", want="block or halo", got=str(self.head)
            )
        if self.width % self.heads:
            raise DataError(
                table="GeneratorConfig",
                column="heads",
                want=f"a divisor of the width {self.width}",
                got=str(self.heads),
            )

    def blocks(self, codes: int) -> tuple[int, int]:
        """How many blocks of how many tokens a head of so many codes has, the end included."""
        return blocks_of(codes + self.spare_tokens + 1, self.block)

    @staticmethod
    def for_cohort(cohort: Cohort) -> GeneratorConfig:
        """Small for hundreds of subjects (seconds on a laptop), full for a hospital's records."""
        lengths = np.diff(cohort.visit_offsets)
        visits, longest = int(lengths.sum()), int(lengths.max(initial=1))
        config = GeneratorConfig(
            block=128 if len(cohort.vocabulary) < 4096 else 256,
            max_visits=round_up(longest, 1) if longest <= 8 else 20,
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
