"""Visits from both heads by the core against those by XLA, on one core, for few and many patients.

    taskset -c 0 python benches/head_visit.py [--columns 1301] [--turns 3]

Both draw from the weights and thresholds of benches/generator.py, in turns; the visits are held
against each other, those of `block` in every process.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict

import numpy as np

import generator


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--columns", type=int, default=1301)
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    rows = [row(arguments.columns, visits, arguments.turns) for visits in (1, 16, 64, 256)]
    generator.show(rows)


def row(columns: int, visits: int, turns: int) -> dict[str, str | int]:
    """Least milliseconds of each."""
    taken: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        drawn = {by: f"{folder}/{by}.npy" for by in ("core", "xla")}
        for _ in range(turns):
            for by, path in drawn.items():
                size = [str(columns), str(generator.WIDTH), str(visits)]
                ours = generator.run(sys.executable, "generator_ours.py", by, *size, path)
                for head in ("halo", "block"):
                    taken[f"`{head}`, {by}"].append(ours[head])
        core, xla = (np.load(path) for path in drawn.values())
    assert np.array_equal(core, xla), f"{(core != xla).any(1).sum()} visits differ"
    least = {name: f"{1000 * min(seconds):.2f} ms" for name, seconds in sorted(taken.items())}
    return {"visits at once": visits, **least}


if __name__ == "__main__":
    main()
