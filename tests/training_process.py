"""A training in a process of its own, to be killed: `python training_process.py WORK OUT [...]`.

Says "step N" at every step and writes the model when it is done. Further words: `free` (no
snapshots), `sharded` (weights cut over the devices), `wide` (with products that XLA cuts by its
threads). The losses are told as JSON on the last line.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import jax

from equipoise.generator import train_generator
from equipoise.generator.parallel import join_cluster, leads
from generator_toys import SMALL
from toys import toy_cohort

#: Every option at once, and epochs of 7 steps, so that kills fall into the midst of them.
CONFIG = replace(
    SMALL,
    layers=1,
    max_steps=24,
    evaluate_every=3,
    learning_rate=3e-3,
    schedule="cosine",
    warmup_steps=5,
    weight_decay=0.01,
    clip_norm=1.0,
    condition_dropout=0.2,
    patience=100,
)


def main(work: str, out: str, *words: str) -> None:
    join_cluster()

    def tell(stage: str, done: int, total: int) -> None:
        print("step", done, flush=True)

    wide = {"width": 256, "batch_subjects": 64, "max_steps": 4} if "wide" in words else {}
    generator = train_generator(
        toy_cohort(240, 64, seed=1) if wide else toy_cohort(120, 24, seed=1),
        ["race", "sex"],
        seed=5,
        config=replace(CONFIG, **wide),
        snapshots=None if "free" in words else work,
        shard_params="sharded" in words,
        progress=tell,
    )
    if leads():
        generator.save(Path(out))
    told = {"devices": jax.device_count(), "losses": generator.history["tuning_nll"].to_list()}
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    from equipoise.generator import snapshots

    snapshots._SHARE = float("inf")  # Save at every look, however short training is.
    main(*sys.argv[1:])
