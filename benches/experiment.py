"""How long a whole experiment takes: 9 methods x 5 models x 5 folds, about 20,000 visits.

    python benches/experiment.py [--patients 14300] [--methods all] [--threads 2]

On a simulated hospital, by sex. The training and sampling of the generative methods (sma, mcrage,
fairplay) is timed beside it, for the goal leaves generators' training out.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

sys.path.insert(0, str(Path(__file__).resolve().parent / "studies"))
from balancing import read

from equipoise.balance import METHODS
from equipoise.cores import cores
from equipoise.evaluate.experiment import Running, run_experiment

GENERATIVE = ("sma", "mcrage", "fairplay")


@dataclass(frozen=True)
class Timed:
    """A method that leaves in `folder` how long it took."""

    name: str
    folder: Path

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        balanced = METHODS[self.name](*arguments, **options)
        spent = f"{time.perf_counter() - start}"
        (self.folder / f"{self.name}-{uuid4()}").write_text(spent, encoding="utf-8")
        return balanced


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--patients", type=int, default=14_300)
    parser.add_argument("--methods", nargs="*", default=[*METHODS])
    parser.add_argument("--threads", type=int, default=cores())
    asked = parser.parse_args()
    records = read("simulated", Path(), asked.patients, 0)
    columns = len(records.fit_vocabulary())
    with TemporaryDirectory() as scratch:
        timed = Path(scratch)
        methods: dict[str, Any] = {
            name: Timed(name, timed) if name in GENERATIVE else METHODS[name]
            for name in asked.methods
        }
        start = time.perf_counter()
        results = run_experiment(
            records, ["sex"], methods, models=["all"], folds=5, running=Running(asked.threads)
        )
        wall = time.perf_counter() - start
        spent = {
            name: sum(float(file.read_text(encoding="utf-8")) for file in timed.glob(f"{name}-*"))
            for name in GENERATIVE
        }
    print(f"{results!r}; {len(records.visits):,} visits x {columns:,} columns")
    print(f"{wall / 60:.1f} minutes on {asked.threads} threads; of them, in minutes of one thread:")
    for name, seconds in spent.items():
        print(f"{name}: training and sampling {seconds / 60:.1f}")


if __name__ == "__main__":
    main()
