"""FairPlay: fill the small cells with patients from a conditional generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from equipoise import schema
from equipoise.balance.plan import plan_balance
from equipoise.cohort import Cohort, concat

if TYPE_CHECKING:
    from equipoise.generator.config import GeneratorConfig


def fairplay(
    train: Cohort,
    by: Sequence[str],
    *,
    tuning: Cohort,
    seed: int,
    progress: schema.Progress = schema.no_progress,
    config: GeneratorConfig | None = None,
    ratio: float = 1.0,
    leave_small: bool = False,
) -> Cohort:
    """The training cohort and m - n synthetic subjects in each (label x group) cell.

    FairPlay, Theodorou et al. (npj Digital Medicine 8:100, 2025). The generator learns from
    `train` alone; `tuning` only tells it when to stop. Choose a configuration with
    `functools.partial(fairplay, config=...)`. `ratio` and `leave_small` are those of
    `plan_balance`, whose errors this raises.
    """
    plan = plan_balance(train, by, ratio=ratio, leave_small=leave_small)
    if plan.synthetic == 0:
        return train
    # Imported here: it brings JAX, which few balancing methods need.
    from equipoise.generator import sample, train_generator

    generator = train_generator(
        train, by, seed=seed, config=config, tuning=tuning, progress=progress
    )
    return concat([train, sample(generator, plan, seed=seed, progress=progress)])
