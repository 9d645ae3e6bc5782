"""What XLA's threads cost and bring in training, and that they alone decide its last bits.

    python benches/threads.py [--patients 3000] [--turns 3] [--threads 1,2,4]

A step of both presets, in the least milliseconds of the turns, on one core and on all, and the
first digits of the weights' digest.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import jax
import numpy as np

import equipoise as eq
from equipoise.generator import GeneratorConfig, train_generator
from equipoise.simulate import simulate
from generator import show

#: What `GeneratorConfig.for_cohort` has from 50,000 visits on.
LARGE = {"width": 128, "layers": 3, "block": 32, "batch_subjects": 32}
PRESETS = {"small": {}, "large": LARGE}
STEPS = 60


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--patients", type=int, default=3000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", default="1,2,4")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        one(*arguments.child)
        return
    with tempfile.TemporaryDirectory() as folder:
        hospital = Path(folder) / "hospital"
        simulate(hospital, patients=arguments.patients)
        show(
            [
                row(hospital, preset, cores, threads, arguments.turns)
                for preset in PRESETS
                for cores in sorted({1, len(os.sched_getaffinity(0))})
                for threads in arguments.threads.split(",")
            ]
        )


def row(hospital: Path, preset: str, cores: int, threads: str, turns: int) -> dict[str, str]:
    """A row of the table."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(mine)[:cores])
    command = [sys.executable, __file__, "--child", str(hospital), preset]
    said = [
        subprocess.run(
            command,
            env={**os.environ, "NPROC": threads},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
        for _ in range(turns)
    ]
    os.sched_setaffinity(0, mine)
    (digest,) = {digest for digest, _ in said}
    least = min(float(step) for _, step in said)
    print(preset, cores, threads, said, file=sys.stderr)
    return {
        "preset": preset,
        "cores": str(cores),
        "threads": threads,
        "ms a step": f"{least:.1f}",
        "weights": digest,
    }


def one(hospital: str, preset: str) -> None:
    """Train for some steps; says the weights' digest and the milliseconds of a step."""
    records = eq.read_mimic_iv(hospital)
    cohort = records.encode(eq.Vocabulary.fit(records))
    config = replace(
        GeneratorConfig.for_cohort(cohort),
        max_steps=3 * STEPS,
        evaluate_every=STEPS,
        **PRESETS[preset],
    )
    looks: list[float] = []
    trained = train_generator(
        cohort, ["race", "sex"], config=config, watch=lambda *_: looks.append(perf_counter())
    )
    sha = hashlib.sha256()
    for leaf in jax.tree.leaves(trained.params):
        sha.update(np.asarray(leaf).tobytes())
    # The first look comes with compiling.
    print(sha.hexdigest()[:8], 1e3 * (looks[1] - looks[0]) / STEPS)


if __name__ == "__main__":
    main()
