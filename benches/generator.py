"""Sampling a visit and a training step, against HALO as its public code does it, in PyTorch.

    python benches/generator.py [--rival PYTHON] [--sizes 1301,9671] [--visits 1,256] [--core 0]

Both sides are processes of one thread on one core, and their least processor seconds count. The
rival is HALO's head and loop written from the formulas (halo_torch.py). Its loop calls the head
once for each distinct code of the whole batch and once more; where that would take hours, one call
is timed and multiplied. The visits are held against the rival's first: by the loop itself for one
patient, and for more by one pass, as a visit x with x = [logits(x) > threshold] is the only such.
`--rival` names a Python that has PyTorch, by default this one (extra `bench`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import extract

HERE = Path(__file__).resolve().parent
WIDTH = 768


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rival", default=sys.executable)
    parser.add_argument("--sizes", default="1301,9671")
    parser.add_argument("--visits", default="1,256", help="patients; empty for steps alone")
    parser.add_argument("--core", type=int, default=0)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {arguments.core})
    os.environ["NPROC"] = "1"  # XLA's threads, of which `equipoise` makes more.
    sizes = [int(size) for size in arguments.sizes.split(",")]
    print(f"\n{extract.processor()}, one core\n")
    heads = [
        heads_of(size, int(visits), arguments.rival)
        for size in sizes
        for visits in filter(None, arguments.visits.split(","))
    ]
    if heads:
        show(heads)
        print()
    show([step_of(size, arguments.rival) for size in sizes])


def heads_of(columns: int, visits: int, python: str) -> dict[str, Any]:
    """A row of the table of samplers."""
    with tempfile.TemporaryDirectory() as folder:
        drawn = f"{folder}/visits.npy"
        size = ["head", str(columns), str(WIDTH), str(visits), drawn]
        ours = run(sys.executable, "generator_ours.py", *size)
        loop = "loop" if visits == 1 else "pass"
        rival = run(python, "generator_rival.py", *size, loop)
    assert rival["mismatching_visits"] == 0, rival
    reference = rival["passes"] * rival["pass"]
    masked_once = rival["passes"] * rival["pass_masked_once"]
    return {
        "V": columns,
        "patients": visits,
        "codes": f"{rival['codes']:.0f}",
        "reference: passes": rival["passes"],
        "visits/s": f"{visits / reference:.3g}",
        "`halo`: visits/s": f"{visits / ours['halo']:,.0f}",
        "times the reference": f"{reference / ours['halo']:,.0f}",
        "times the loop masked once": f"{masked_once / ours['halo']:,.0f}",
        "of one dense pass": f"{ours['halo'] / ours['dense_pass']:.2f}",
        "`block`: visits/s": f"{visits / ours['block']:,.0f}",
        "times reference": f"{reference / ours['block']:,.0f}",
        "of its own pass": f"{ours['block'] / ours['block_pass']:.2f}",
    }


def step_of(columns: int, python: str) -> dict[str, Any]:
    """A row of the table of training steps."""
    size = ["step", str(columns), str(WIDTH), "8"]
    rival = run(python, "generator_rival.py", *size)
    row: dict[str, Any] = {
        "V": columns,
        "PyTorch s": f"{rival['step']:.3g}",
        "MB": f"{rival['peak_mb']:,.0f}",
    }
    for kind in ("block", "halo"):
        ours = run(sys.executable, "generator_ours.py", *size, kind)
        row |= {
            f"`{kind}`: times faster": f"{rival['step'] / ours['step']:.1f}",
            f"`{kind}`: share of its memory": f"{ours['peak_mb'] / rival['peak_mb']:.2f}",
            f"`{kind}`: weights": f"{ours['weights'] / 1e6:.1f} M",
        }
    return row


def run(python: str, *command: str) -> dict[str, Any]:
    done = subprocess.run([python, *command], cwd=HERE, check=True, stdout=subprocess.PIPE)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(*command[:5], result, file=sys.stderr)
    return result


def show(rows: list[dict[str, Any]]) -> None:
    print(*table(rows), sep="\n", flush=True)


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "| " + " | ".join(rows[0]) + " |"
    yield "|---" * len(rows[0]) + "|"
    for row in rows:
        yield "| " + " | ".join(map(str, row.values())) + " |"


if __name__ == "__main__":
    main()
