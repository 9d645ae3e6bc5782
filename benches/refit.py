"""What a fold costs: vocabulary, deciles and encoding anew from records, on random subjects.

python benches/refit.py [--hospital DIR] [--repeat 5]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import equipoise as eq
import extract


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hospital", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    records = eq.read_mimic_iv(arguments.hospital or extract.hospital(36_463, "csv.gz"))
    best: dict[str, float] = {}
    for seed in range(arguments.repeat):
        start = time.perf_counter()
        train, _ = records.split(fraction=0.8, seed=seed)
        split = time.perf_counter()
        vocabulary = train.fit_vocabulary()
        fitted = time.perf_counter()
        records.encode(vocabulary)
        encoded = time.perf_counter()
        steps = {
            "split": split - start,
            "fit on 80 %": fitted - split,
            "encode all": encoded - fitted,
            "fit and encode": encoded - split,
        }
        best = {step: min(best.get(step, wall), wall) for step, wall in steps.items()}
    print(f"\n{records!r}; {extract.processor()}")
    print("| step | s |\n|---|---|")
    for step, wall in best.items():
        print(f"| {step} | {wall:.3f} |")


if __name__ == "__main__":
    main()
