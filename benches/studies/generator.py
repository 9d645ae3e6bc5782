"""How close to held-out real records a generator comes, what it costs, and what simpler models do.

    python benches/studies/generator.py support2|diabetes130|simulated [--head block|halo]
        [--data ../shared/data] [--by race] [--seed 0] [--set width=128 ...] [--patients 20000]
        [--name NAME] [--fresh 120000] [--times 8]

Four fifths of the subjects are learned from (a tenth of them tunes), as many (or `--times` that)
are sampled by the same cells, and both are held against the last fifth, or against `--fresh`
patients of a further hospital of the same law, of whom there are enough in every cell. The tables
go into generator.md, in the section of that data set, head, seed and name; `--dry` only prints
them.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
import time
import zipfile
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from unittest import mock

import jax
import numpy as np
import numpy.typing as npt
import polars as pl

import equipoise as eq
from equipoise import schema
from equipoise.evaluate.fidelity import fidelity, sizes
from equipoise.generator import Generator, GeneratorConfig, log_likelihood, sample, train_generator
from equipoise.generator.batches import last_visits
from equipoise.generator.nade import BlockHead

HERE: Final = Path(__file__).resolve().parent
#: So many visits' worth of what all cells share goes into each cell's own probabilities.
PRIOR: Final = 10.0
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """As many subjects as were learned from, or so many times that, in the same cells."""

    cells: pl.DataFrame
    by: tuple[str, ...]


class IndependentHead(BlockHead):
    """Codes that know the condition and the visits before, but not each other."""

    def logits(self, h_ND: jax.Array, x_NV: jax.Array) -> jax.Array:  # noqa: ARG002
        a_N1H = (h_ND @ self.read_DH[...])[:, None]
        z_NGH = jax.nn.relu(a_N1H + self.offset_GH[...])
        logits_NGB = jax.numpy.einsum("ngh,ghb->ngb", z_NGH, self.write_GHB[...])
        return (logits_NGB + self.bias_GB[...]).reshape(len(h_ND), -1)


def main() -> None:
    arguments = parse()
    records = read(arguments.dataset, arguments.data, arguments.patients)
    train, held_out = split(records, arguments.seed)
    if arguments.fresh:
        further = read("simulated", arguments.data, arguments.fresh, seed=1)
        held_out = further.encode(train.vocabulary)
    config = configure(train, arguments.set, arguments.head)
    text = [f"`python benches/studies/generator.py {' '.join(sys.argv[1:])}`", ""]
    text += [f"{train!r} to learn from; {held_out!r} held out. {asdict(config)}", ""]
    generator, synthetic, cost = make(train, arguments, config)
    text += [cost, ""]
    known = held_out.filter(generator.conditions.known(held_out.subjects))
    judge = {"real": known, "synthetic": synthetic, "train": train}
    text += markdown(fidelity(**judge)) + markdown(sizes(**judge))
    cells = fidelity(**judge, by=arguments.by).filter(pl.col("status") == "ok")
    keys = [schema.LABEL, *arguments.by]
    means = sizes(**judge, by=arguments.by).filter(pl.col("statistic") == "mean")
    text += markdown(cells) + markdown(means.join(cells, on=keys, how="semi"))
    show(arguments, text)
    text += markdown(likelihoods(generator, train, known, arguments))
    show(arguments, text)


def show(arguments: argparse.Namespace, text: list[str]) -> None:
    section = "\n".join(text)
    print(section, flush=True)
    if not arguments.dry:
        seed = f"seed {arguments.seed}" if arguments.seed else ""
        parts = [arguments.dataset, arguments.head, seed, arguments.name]
        write(", ".join(part for part in parts if part), section)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", choices=["support2", "diabetes130", "simulated"])
    parser.add_argument("--head", choices=["block", "halo"], default="block")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--by", nargs="*", default=["race"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patients", type=int, default=20_000, help="of the simulated hospital")
    parser.add_argument("--fresh", type=int, default=0, help="patients of a further hospital")
    parser.add_argument("--times", type=int, default=1, help="as many subjects as learned from")
    parser.add_argument("--set", nargs="*", default=[], help="fields of GeneratorConfig")
    parser.add_argument("--name", default="", help="of a section beside that of the preset")
    parser.add_argument("--no-simpler", dest="simpler", action="store_false")
    parser.add_argument("--dry", action="store_true", help="leave generator.md as it is")
    asked = parser.parse_args()
    if asked.fresh and asked.dataset != "simulated":
        parser.error("--fresh: only a simulated hospital has more patients")
    return asked


def read(dataset: str, data: Path, patients: int, seed: int = 0) -> eq.VisitRecords:
    if dataset == "support2":
        return eq.read_tables(data / "support2", "support2")
    with TemporaryDirectory() as scratch:
        if dataset == "simulated":
            from equipoise.simulate import simulate

            out = Path(scratch) / "hospital"
            made = simulate(out, patients=patients, seed=seed, lab_rows_per_patient=100)
            return eq.read_mimic_iv(made)
        with zipfile.ZipFile(data / "diabetes130" / "dataset_diabetes.zip") as archive:
            archive.extract("dataset_diabetes/diabetic_data.csv", scratch)
        return eq.read_tables(Path(scratch), "diabetes130")


def split(records: eq.VisitRecords, seed: int) -> tuple[eq.Cohort, eq.Cohort]:
    """Four fifths and one fifth of the subjects whose label is known, by the first's vocabulary."""
    labelled = records.subjects[schema.LABEL].is_not_null().to_numpy()
    train, held_out = records.take(np.flatnonzero(labelled)).split(fraction=0.8, seed=seed)
    vocabulary = train.fit_vocabulary()
    return train.encode(vocabulary), held_out.encode(vocabulary)


def configure(train: eq.Cohort, settings: list[str], head: str) -> GeneratorConfig:
    config = GeneratorConfig.for_cohort(train)
    types = {field.name: type(getattr(config, field.name)) for field in fields(config)}
    pairs = (setting.split("=") for setting in settings)
    return replace(config, head=head, **{name: types[name](value) for name, value in pairs})


def make(
    train: eq.Cohort, arguments: argparse.Namespace, config: GeneratorConfig
) -> tuple[Generator, eq.Cohort, str]:
    by, seed, start = arguments.by, arguments.seed, clocks()
    generator = train_generator(train, by, seed, config=config)
    trained = clocks()
    cells = generator.conditions.cells.rename({"subjects": "synthetic"})
    cells = cells.with_columns(pl.col("synthetic") * arguments.times)
    synthetic = sample(generator, Plan(cells, tuple(by)), seed=seed)
    done = clocks()
    steps = generator.history["step"][-1]
    cost = (
        f"{generator!r}. {steps} steps, the best at {generator.report['best_step']}: "
        f"{trained[0] - start[0]:.0f} s, {trained[1] - start[1]:.0f} s of processors; "
        f"sampling {len(synthetic)} subjects: {done[0] - trained[0]:.0f} s, "
        f"{done[1] - trained[1]:.0f} s of processors; load {os.getloadavg()[1]:.1f} on "
        f"{os.cpu_count()} cores ({platform.machine()}, JAX {jax.__version__})."
    )
    return generator, synthetic, cost


def clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def likelihoods(
    generator: Generator, train: eq.Cohort, held_out: eq.Cohort, arguments: argparse.Namespace
) -> pl.DataFrame:
    """Held-out nats per visit of the generator and, unless left out, of simpler models."""
    config = generator.config
    rows = [(f"the generator ({arguments.head} head)", per_visit(generator, held_out))]
    if arguments.simpler:
        rows = simpler(config, train, held_out, arguments) + rows
    return pl.DataFrame(rows, schema=["model", "held-out NLL, nats per visit"], orient="row")


def simpler(
    config: GeneratorConfig, train: eq.Cohort, held_out: eq.Cohort, arguments: argparse.Namespace
) -> list[tuple[str, float]]:
    """Models without a network, and a network whose codes do not know each other."""
    # The seed, and so the subjects that tune, are the generator's.
    independent = replace(config, head="block")
    with mock.patch("equipoise.generator.network.BlockHead", IndependentHead):
        alone = train_generator(train, arguments.by, arguments.seed, config=independent)
        of_alone = per_visit(alone, held_out)
    train, known = (last_visits(part, config.max_visits) for part in (train, held_out))
    return [
        ("unigram: independent codes", independent_nats(train, known, [], config)),
        ("independent codes by cell", independent_nats(train, known, arguments.by, config)),
        ("independent codes by condition and history (a network)", of_alone),
    ]


def per_visit(generator: Generator, cohort: eq.Cohort) -> float:
    visits = len(last_visits(cohort, generator.config.max_visits).visits)
    return -float(log_likelihood(generator, cohort).sum()) / visits


def independent_nats(
    train: eq.Cohort, held_out: eq.Cohort, by: list[str], config: GeneratorConfig
) -> float:
    """NLL per visit of codes and end that are independent given the cell (all one without `by`)."""
    keys = [schema.LABEL, *by] if by else []
    whole = probabilities(train, np.ones(len(train), bool), 0.5, 1.0)
    total = 0.0
    cells = held_out.subjects.select(keys).unique().iter_rows() if keys else [()]
    for cell in cells:
        inside = [members(part, dict(zip(keys, cell, strict=True))) for part in (train, held_out)]
        p_V = probabilities(train, inside[0], PRIOR * whole, PRIOR) if keys else whole
        counts, visits, open_ = counted(held_out.filter(inside[1]), config.max_visits)
        trials = np.append(np.full(len(counts) - 1, visits), open_)
        total -= float((counts * np.log(p_V) + (trials - counts) * np.log1p(-p_V)).sum())
    return total / len(held_out.visits)


def members(cohort: eq.Cohort, cell: dict[str, object]) -> npt.NDArray[np.bool_]:
    keep = np.ones(len(cohort), bool)
    for name, value in cell.items():
        keep &= (cohort.subjects[name] == value).to_numpy()
    return keep


def probabilities(
    cohort: eq.Cohort, keep: npt.NDArray[np.bool_], prior: Floats | float, weight: float
) -> Floats:
    """(V + 1,) of each code in a visit and of the end after it, drawn towards the prior."""
    inside = cohort.filter(keep)
    counts = np.bincount(inside.codes, minlength=len(cohort.vocabulary) + 1).astype(np.float64)
    counts[-1] = len(inside)
    return np.asarray((counts + prior) / (len(inside.visits) + weight))


def counted(cohort: eq.Cohort, most: int) -> tuple[Floats, int, int]:
    """(V + 1,) codes and ends that count, the visits, and the visits after which one may follow."""
    lengths = np.diff(cohort.visit_offsets)
    counts = np.bincount(cohort.codes, minlength=len(cohort.vocabulary) + 1).astype(np.float64)
    full = int((lengths >= most).sum())
    counts[-1] = len(cohort) - full
    return counts, len(cohort.visits), len(cohort.visits) - full


def markdown(table: pl.DataFrame) -> list[str]:
    with pl.Config(
        tbl_formatting="MARKDOWN", tbl_hide_column_data_types=True, tbl_hide_dataframe_shape=True,
        tbl_rows=-1, tbl_cols=-1, tbl_width_chars=1000, fmt_str_lengths=100, float_precision=4,
    ):  # fmt: skip
        return [str(table), ""]


def write(name: str, section: str) -> None:
    """Put the section between its markers in generator.md, at the end if there are none yet."""
    path = HERE / "generator.md"
    text = path.read_text() if path.exists() else "# The generator, measured\n"
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    block = f"{begin}\n## {name}\n{section}\n{end}"
    found = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    path.write_text(
        found.sub(lambda _: block, text) if found.search(text) else f"{text}\n{block}\n"
    )


if __name__ == "__main__":
    main()
