"""HALO's head in plain Rust (halo_visit.rs) against XLA's, on one core: would a path in Rust pay?

    rustc --edition 2024 -O -C target-cpu=native -o /tmp/halo_visit benches/halo_visit.rs
    taskset -c 0 python benches/halo_visit.py /tmp/halo_visit [--columns 1301] [--turns 3]

Same weights and thresholds as benches/generator.py; the visits are held against XLA's first.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import generator
import generator_inputs as inputs


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--columns", type=int, default=1301)
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    cost = {visits: turns(arguments, visits) for visits in (1, 16, 64, 256)}
    generator.show([{"visits": visits, **seconds} for visits, seconds in cost.items()])


def turns(arguments: argparse.Namespace, visits: int) -> dict[str, str]:
    """Least milliseconds of each side, turn about."""
    taken: dict[str, list[float]] = {"Rust": [], "XLA, `halo`": [], "XLA, `block`": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, arguments.columns, visits)
        sizes = [str(generator.WIDTH - 1), str(arguments.columns)]
        for _ in range(arguments.turns):
            head = ["head", str(arguments.columns), str(generator.WIDTH), str(visits)]
            xla = generator.run(sys.executable, "generator_ours.py", *head, f"{folder}/xla.npy")
            command = [arguments.binary, name, str(visits), *sizes]
            taken["Rust"].append(float(subprocess.check_output(command)))
            taken["XLA, `halo`"].append(xla["halo"])
            taken["XLA, `block`"].append(xla["block"])
        drawn = np.fromfile(folder / "x.u8", np.uint8).reshape(visits, -1)
        wrong = int((drawn != np.load(folder / "xla.npy")).any(1).sum())
    assert wrong == 0, f"{wrong} of {visits} visits differ"
    return {name: f"{1000 * min(all_turns):.2f} ms" for name, all_turns in taken.items()}


def write(folder: Path, columns: int, visits: int) -> None:
    """The arrays that halo_visit.rs reads."""
    width = generator.WIDTH
    state = inputs.head_state(columns, width)
    first, second = (np.tril(state[f"ehr_head.{name}.weight"]) for name in ("auto1", "auto2"))
    free, units = slice(width - 1), slice(width - 1, width - 1 + columns)
    offset = state["ehr_head.auto1.bias"]
    arrays = {
        "read_free": first[free, :width].T,
        "offset_free": offset[free],
        "read": first[units, :width].T,
        "offset": offset[units],
        "code": first[units, width:].T,
        "write_free": second[units, free].T,
        "write": second[units, units].T,
        "bias": state["ehr_head.auto2.bias"][units],
        "h": inputs.history(visits, width),
        "threshold": inputs.thresholds(visits, columns),
    }
    for name, array in arrays.items():
        np.ascontiguousarray(array, np.dtype("<f4")).tofile(folder / name)


if __name__ == "__main__":
    main()
