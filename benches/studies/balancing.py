"""What balancing buys, and what a tuned threshold alone would have bought.

    python benches/studies/balancing.py support2|diabetes130|eicu|simulated [--by race]
        [--methods all] [--models all] [--folds 5] [--ablation] [--patients 20000]

One experiment a data set, as `equipoise evaluate` runs it; finished pieces stay in benches/data/
and are not done again. The tables go into balancing.md, in the section of that data set and those
groups; `--dry` only prints them. On the simulated hospital the methods include the oracle.
`--ablation` fills the cells of `fairplay` by a quarter, a half, three quarters and wholly, with one
generator for all (FairPlay's Supplementary Figure 1). The picture is F1 by group and method, with
both thresholds side by side.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import polars as pl
from matplotlib.figure import Figure

import equipoise as eq
from equipoise import schema
from equipoise.balance import METHODS, oracle_from, original, plan_balance
from equipoise.cohort import Cohort, concat
from equipoise.cores import cores
from equipoise.errors import UsageError
from equipoise.evaluate.experiment import Running, run_experiment
from equipoise.evaluate.over_models import MEAN_OF_MODELS, over_models
from equipoise.evaluate.results import Results, over_folds
from equipoise.terminal import progress_bars

HERE: Final = Path(__file__).resolve().parent
KEPT: Final = HERE.parent / "data" / "studies"
#: Of the simulated hospital: with fewer, the oracle would need a million patients to fill cells.
DEATHS: Final = 0.15
RATIOS: Final = (0.25, 0.5, 0.75, 1.0)
#: At the tuned threshold, but for F1 and the area metrics that need none.
OVERALL: Final = (("f1", "0.5"), ("f1", "tuned"), ("auroc", "tuned"), ("ap", "tuned"),
                  ("brier", "tuned"), ("brier", "corrected"))  # fmt: skip
FAIRNESS: Final = ("disparate_impact", "theil", "equality_of_opportunity_difference")
SHORT: Final = {"equality_of_opportunity_difference": "EOD", "disparate_impact": "DI"}


@dataclass(frozen=True)
class Filled:
    """`fairplay` at a ratio; the generator of a fold is trained once and kept in `folder`."""

    folder: Path
    ratio: float

    def __call__(
        self,
        train: Cohort,
        by: Sequence[str],
        *,
        tuning: Cohort,
        seed: int,
        progress: schema.Progress,
    ) -> Cohort:
        from equipoise.generator import load_generator, sample, train_generator

        kept = self.folder / f"generator-{seed}"
        if not kept.exists():
            made = train_generator(train, by, seed=seed, tuning=tuning, progress=progress)
            # The same fold at another ratio may have been faster; it has made the same.
            with suppress(UsageError):
                made.save(kept)
        plan = plan_balance(train, by, ratio=self.ratio)
        return concat([train, sample(load_generator(kept), plan, seed=seed, progress=progress)])


def main() -> None:
    asked = parse()
    records = read(asked.dataset, asked.data, asked.patients, 0)
    name = f"{asked.dataset} by {' x '.join(asked.by)}"
    keep = kept() / f"{name}{' ablation' if asked.ablation else ''}".replace(" ", "-")
    keep.mkdir(parents=True, exist_ok=True)
    with progress_bars() as progress:
        results = run_experiment(
            records,
            asked.by,
            methods_of(asked, keep),
            models=asked.models,
            folds=asked.folds,
            min_share=asked.min_share,
            running=Running(asked.threads, keep, progress=progress),
        )
    text = [f"`python benches/studies/balancing.py {' '.join(sys.argv[1:])}`", ""]
    text += [f"{results!r}; {len(records)} subjects.", ""]
    text += [*ablation(results)] if asked.ablation else [*tables(results)]
    heading = f"{name}{', how far the cells are filled' if asked.ablation else ''}"
    picture = HERE / "pictures" / f"{heading.replace(',', '').replace(' ', '-')}.png"
    text += [f"![F1 by group and method](pictures/{picture.name})"]
    section = "\n".join(text)
    print(section, flush=True)
    if not asked.dry:
        draw(results, picture)
        write(heading, section)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", choices=["support2", "diabetes130", "eicu", "simulated"])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--by", nargs="*", default=["race"])
    parser.add_argument("--methods", nargs="*", default=[*METHODS])
    parser.add_argument("--models", nargs="*", default=["all"])
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--min-share", type=float, default=0.01)
    parser.add_argument("--patients", type=int, default=20_000, help="of the simulated hospital")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument("--dry", action="store_true", help="leave balancing.md as it is")
    return parser.parse_args()


def methods_of(asked: argparse.Namespace, keep: Path) -> dict[str, Any]:
    if asked.ablation:
        filled = {f"fairplay@{ratio}": Filled(keep, ratio) for ratio in RATIOS}
        return {"original": original, **filled}
    methods = {name: METHODS[name] for name in asked.methods}
    if asked.dataset == "simulated":
        fresh = kept() / f"fresh-records-{4 * asked.patients}"
        if not fresh.exists():
            read("simulated", asked.data, 4 * asked.patients, 1).save(fresh)
        methods["oracle"] = oracle_from(fresh)
    return methods


def read(dataset: str, data: Path, patients: int, seed: int) -> eq.VisitRecords:
    """The records of a data set; the simulated hospital's of that seed."""
    if dataset == "support2":
        return eq.read_tables(data / "support2", "support2")
    if dataset == "eicu":
        return eq.read_eicu(data / "eicu-demo")
    with TemporaryDirectory() as scratch:
        if dataset == "simulated":
            from equipoise.simulate import simulate

            folder = Path(scratch) / "hospital"
            simulate(
                folder, patients=patients, seed=seed, lab_rows_per_patient=100, death_rate=DEATHS
            )
            return eq.read_mimic_iv(folder)
        with zipfile.ZipFile(data / "diabetes130" / "dataset_diabetes.zip") as archive:
            archive.extract("dataset_diabetes/diabetic_data.csv", scratch)
        return eq.read_tables(Path(scratch), "diabetes130")


def tables(results: Results) -> list[str]:
    """FairPlay's Tables 2 and 3, and what of it a threshold would have bought."""
    several = len(results.models) > 1
    metrics = over_models(results.metrics) if several else results.metrics
    fairness = over_models(results.fairness) if several else results.fairness
    whole = pl.concat(
        [pick(metrics.filter(by="overall"), metric, threshold) for metric, threshold in OVERALL]
        + [pick(fairness.filter(by=results.by[0]), metric, "tuned") for metric in FAIRNESS]
    )
    told = f"mean of {len(results.models)} models" if several else results.models[0]
    lines = [f"Overall, {told}, mean (sd) over folds:", "", *wide(whole, results.methods)]
    by_group = metrics.filter(pl.col("by") == results.by[0], metric="f1", threshold="tuned")
    by_group = over_folds(by_group.drop("metric", "threshold", "by")).select(
        "method", pl.col("group").alias("what"), "mean", "sd"
    )
    lines += ["F1 by group, tuned threshold:", "", *wide(by_group, results.methods)]
    model = MEAN_OF_MODELS if several else results.models[0]
    gains = results.gains.filter(
        pl.col("part").is_in(["total", "threshold", "information"]), model=model, metric="f1"
    )
    lines += ["The gain in F1 over original, taken apart (95 % paired bootstrap):", ""]
    lines += gain_table(gains.filter(by="overall"), "method")
    lines += ["The information part by group:", ""]
    lines += gain_table(gains.filter(by=results.by[0], part="information"), "group")
    return lines


def ablation(results: Results) -> list[str]:
    several = len(results.models) > 1
    metrics = over_models(results.metrics) if several else results.metrics
    fairness = over_models(results.fairness) if several else results.fairness
    whole = pl.concat(
        [pick(metrics.filter(by="overall"), metric, threshold) for metric, threshold in OVERALL]
        + [pick(fairness.filter(by=results.by[0]), metric, "tuned") for metric in FAIRNESS]
    )
    return wide(whole, results.methods)


def draw(results: Results, path: Path) -> None:
    """F1 in each group that enough positives were seen in, at 0.5 and at the tuned threshold."""
    metrics = over_models(results.metrics) if len(results.models) > 1 else results.metrics
    f1 = over_folds(
        metrics.filter(pl.col("by").is_in(["overall", results.fairness["by"][-1]]), metric="f1")
        .filter((pl.col("positives").sum() >= 10).over("method", "threshold", "by", "group"))
        .drop("metric")
    )
    groups = f1["group"].unique(maintain_order=True).to_list()
    places = {group: -float(place) for place, group in enumerate(groups)}
    # A legend beside rows of a third of an inch, and room for the axis.
    figure = Figure(figsize=(10, 1.4 + 0.34 * max(len(groups), 6)), dpi=110, layout="constrained")
    for axes, threshold in zip(
        figure.subplots(1, 2, sharex=True, sharey=True), ("0.5", "tuned"), strict=True
    ):
        for place, method in enumerate(results.methods):
            own = f1.filter(method=method, threshold=threshold).filter(pl.col("mean").is_finite())
            shift = 0.6 * (place + 0.5) / len(results.methods) - 0.3
            heights = [places[group] - shift for group in own["group"]]
            look = {"color": "black", "marker": "|", "markersize": 9} if method == "original" else {
                "color": f"C{place}", "marker": "o", "markersize": 4}  # fmt: skip
            axes.plot(own["mean"], heights, linestyle="", label=method, **look)
        axes.set_title(f"F1, threshold {threshold}", fontsize=10)
        axes.set_yticks([*places.values()], ["all" if g == "overall" else g for g in groups])
        axes.grid(axis="y", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Software": None})


def pick(frame: pl.DataFrame, metric: str, threshold: str) -> pl.DataFrame:
    rows = frame.filter(metric=metric, threshold=threshold).select("fold", "method", "value")
    name = SHORT.get(metric, metric)
    label = f"{name} at {threshold}" if metric in ("f1", "brier") else name
    return over_folds(rows).select("method", pl.lit(label).alias("what"), "mean", "sd")


def wide(frame: pl.DataFrame, methods: Sequence[str]) -> list[str]:
    """A row for each method, a column for each `what`."""
    names = frame["what"].unique(maintain_order=True).to_list()
    cells = {(m, w): cell(mean, sd) for m, w, mean, sd in frame.iter_rows()}
    lines = [f"| method | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    lines += [
        f"| {method} | {' | '.join(cells.get((method, name), '') for name in names)} |"
        for method in methods
    ]
    return [*lines, ""]


def cell(mean: float, sd: float) -> str:
    return "n/e" if mean != mean else f"{mean:.3f} ({sd:.3f})"


def gain_table(gains: pl.DataFrame, other: str) -> list[str]:
    columns = "part" if other == "method" else "group"
    names = gains[columns].unique(maintain_order=True).to_list()
    rows = {(r["method"], r[columns]): r for r in gains.iter_rows(named=True)}
    lines = [f"| method | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for method in gains["method"].unique(maintain_order=True):
        told = [interval(rows[method, name]) for name in names]
        lines.append(f"| {method} | {' | '.join(told)} |")
    return [*lines, ""]


def interval(row: dict[str, Any]) -> str:
    if row["value"] != row["value"]:
        return f"n/e ({row['status']})"
    few = " (few)" if row["status"] == "too_few" else ""
    return f"{row['value']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]{few}"


def kept() -> Path:
    """Where pieces are kept, and gone on with: those of one commit, for they print as its."""
    return KEPT / commit()


def commit() -> str:
    """The commit that is run, with `-dirty` behind it if files were changed since."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    asked = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE)
    return asked.stdout.strip()


def write(heading: str, section: str) -> None:
    path = HERE / "balancing.md"
    text = path.read_text(encoding="utf-8") if path.exists() else "# What balancing buys\n"
    load = os.getloadavg()[0]
    where = f"Commit {commit()}; Python {platform.python_version()}; load {load:.0f}."
    block = f"## {heading}\n{where}\n{section.rstrip()}\n"
    old = re.compile(rf"^## {re.escape(heading)}\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
    text = old.sub("", text).rstrip() + "\n\n" + block
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
