"""What sequential trees cost, in processor seconds and memory, on simulated sparse visits.

python benches/sma.py [--wide] [--rows 16000] [--parents 100] [--alpha 0.05] [--min-leaf 5]

1,301 columns, or 9,671 with `--wide`. A visit has about 40 ones: codes as rare as 1 / rank, made
likelier by one of 40 latent conditions, which label and group shift, and 50 labs of ten bins, each
measured or not. All cells are filled up to the largest. R2 is that of `evaluate.fidelity`, against
fresh rows of the same law in the same cells; copies and other fresh rows are held against them too.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import polars as pl

from equipoise import schema
from equipoise.balance.sequential import SequenceConfig
from equipoise.balance.sma import sma
from equipoise.balance.trees import Stop
from equipoise.cohort import Cohort, cohort_from_lists
from equipoise.evaluate.fidelity import code_probabilities, matched, pair_probabilities, r2
from equipoise.vocabulary import BINS, LAB, Vocabulary

LABS = 50
CONDITIONS = 40
#: How often a visit has each panel of labs.
PANELS = np.array([0.9, 0.8, 0.5, 0.4, 0.2])


def main() -> None:
    arguments = parse()
    columns = 9_671 if arguments.wide else 1_301
    rng = np.random.default_rng(1)
    label = rng.random(arguments.rows) < 0.1
    real = hospital(columns, label, rng.choice(4, len(label), p=[0.65, 0.2, 0.1, 0.05]), 2)
    config = SequenceConfig(arguments.parents, stop=Stop(arguments.min_leaf, arguments.alpha))
    before, start = peak(), time.process_time()
    stages: dict[str, float] = {}

    def progress(stage: str, done: int, total: int) -> None:
        stages[stage] = time.process_time() - start

    balanced = sma(real, ["group"], tuning=real, seed=0, progress=progress, config=config)
    seconds, most = time.process_time() - start, peak()
    made = balanced.filter(balanced.subjects[schema.SYNTHETIC])
    fresh = like(made, columns, 3)
    print(f"{real!r}; {len(made)} rows drawn, {len(made.codes) / len(made):.1f} ones a row")
    print("| columns | rows | drawn | s for trees | s in all | peak MB | before |")
    print("|---|---|---|---|---|---|---|")
    print(
        f"| {columns:,} | {len(real):,} | {len(made):,} | {stages['sma: trees']:.1f} | "
        f"{seconds:.1f} | {most:,.0f} | {before:,.0f} |"
    )
    print("\n| against fresh rows of the law | R2 of columns | R2 of pairs |\n|---|---|---|")
    print(f"| sma | {fit(fresh, made)} |")
    print(f"| upsample | {fit(fresh, upsampled(made, real))} |")
    print(f"| other fresh rows | {fit(fresh, like(made, columns, 4))} |")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--wide", action="store_true")
    parser.add_argument("--rows", type=int, default=16_000)
    parser.add_argument("--parents", type=int, default=100)
    parser.add_argument("--alpha", type=float, default=Stop().alpha)
    parser.add_argument("--min-leaf", type=int, default=Stop().min_leaf)
    return parser.parse_args()


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def hospital(columns: int, label: np.ndarray, group: np.ndarray, seed: int) -> Cohort:
    """A visit of each subject. The law is one and the same, whatever the seed."""
    law, rng = np.random.default_rng(0), np.random.default_rng(seed)
    rows, codes = len(label), columns - LABS * BINS
    lift = law.normal(0, 0.5, (2, 4, CONDITIONS)).cumsum(axis=0)
    severity = rng.normal(0, 1, (rows, CONDITIONS)) + lift[label.astype(int), group]
    of_code, of_lab = (law.integers(0, CONDITIONS, n) for n in (codes, LABS))
    cuts = np.quantile(law.normal(0, 1.3, 10_000), np.arange(1, BINS) / BINS)
    bins = np.searchsorted(cuts, severity[:, of_lab] + rng.normal(0, 0.7, (rows, LABS)))
    panels = rng.random((rows, len(PANELS))) < PANELS
    taken = panels[:, np.arange(LABS) % len(PANELS)] & (rng.random((rows, LABS)) < 0.95)
    share = 15 / 2 / np.arange(1.0, codes + 1) / np.sum(1 / np.arange(1.0, codes + 1))
    visits = [
        np.concatenate(
            [
                # A code belongs to one condition, and is ten times as likely where that is present.
                np.flatnonzero(rng.random(codes) < np.minimum(share * (1 + 9 * ill), 0.9)),
                (codes + np.arange(LABS) * BINS + bins[row])[taken[row]],
            ]
        )
        for row, ill in enumerate((severity > 1.3)[:, of_code])
    ]
    names = pl.Series(group).replace_strict(dict(enumerate("ABCD")), return_dtype=pl.String)
    frame = pl.DataFrame({schema.LABEL: label, "group": names})
    return cohort_from_lists([[visit] for visit in visits], frame, vocabulary(columns))


def vocabulary(columns: int) -> Vocabulary:
    codes = columns - LABS * BINS
    named = Vocabulary.of_codes([f"C{i}" for i in range(codes)])
    labs = Vocabulary.of_codes([f"L{i // BINS:02d}" for i in range(LABS * BINS)], LAB)
    bins = pl.Series("bin", np.arange(LABS * BINS) % BINS).cast(pl.Int8)
    return Vocabulary(pl.concat([named.columns, labs.columns.with_columns(bins)]))


def like(made: Cohort, columns: int, seed: int) -> Cohort:
    """Fresh subjects of the law in the cells of the made ones."""
    group = made.subjects["group"].replace_strict({g: i for i, g in enumerate("ABCD")})
    return hospital(columns, made.subjects["label"].to_numpy(), group.to_numpy(), seed)


def upsampled(made: Cohort, real: Cohort) -> Cohort:
    """Copies of real subjects in the cells of the made ones."""
    rng = np.random.default_rng(1)
    keys = ["label", "group"]
    places = real.subjects.with_row_index("place").group_by(keys).agg("place")
    wanted = made.subjects.group_by(keys).len("wanted").join(places, on=keys).sort(keys)
    copies = [rng.choice(row["place"], row["wanted"]) for row in wanted.iter_rows(named=True)]
    return real.take(np.concatenate(copies))


def fit(real: Cohort, other: Cohort) -> str:
    """R2 of the columns' shares and of the pairs' within a visit."""
    both = (
        matched(share(real), share(other)) for share in (code_probabilities, pair_probabilities)
    )
    return " | ".join(f"{r2(one):.4f}" for one in both)


if __name__ == "__main__":
    main()
