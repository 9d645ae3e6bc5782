"""The main job in one function: records -> experiment -> generator -> balanced cohort -> report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from equipoise import schema, store
from equipoise.balance import METHODS, BalancingMethod, method_named, oracle_from, plan_balance
from equipoise.balance.oracle import Oracle
from equipoise.cohort import Cohort, concat
from equipoise.cores import cores
from equipoise.errors import DataError, UsageError
from equipoise.records import VisitRecords, read_source
from equipoise.sources import source_named
from equipoise.sources.declaration import Source
from equipoise.sources.files import all_files
from equipoise.tasks import TASKS
from equipoise.vocabulary import VocabularySettings

if TYPE_CHECKING:
    from equipoise.evaluate.results import Results
    from equipoise.generator import Generator, GeneratorConfig

#: Options that name files, beside the tables.
FILES: Final = ("spec", "labels", "race_table")
#: In the place of names: every balancing method there is.
ALL: Final = "all"
ORACLE: Final = "oracle="


@dataclass(frozen=True)
class Request:
    """What to read, as a person asks for it; see `sources.source_named` and `read_source`."""

    source: str
    root: Path
    task: str | None = None
    threads: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    reading: Mapping[str, Any] = field(default_factory=dict)

    def declared(self) -> Source:
        """The source; raises `UsageError` or, for a bad spec, `DataError`."""
        return source_named(self.source, **self.options)

    def records(self, progress: schema.Progress) -> VisitRecords:
        """One pass over the tables; the default task is mortality in hospital or a spec's first."""
        if self.task and self.reading.get("labels"):
            raise UsageError("either a task or a table of labels is wanted, got both")
        source = self.declared()
        task = self.task or next(iter(source.tasks or TASKS))
        options = {"threads": self.threads, "progress": progress, **self.reading}
        return read_source(source, self.root, task, **options)

    def digests(self) -> dict[str, str]:
        """SHA-256 of every file that is read, by its path below `root`, or by what asks for it."""
        told = {"spec": self.options.get("spec"), **self.reading}
        named = {name: Path(told[name]) for name in FILES if told.get(name)}
        # The name of a shipped spec is no file.
        more = {name: store.digest_of(path) for name, path in named.items() if path.is_file()}
        return store.digest(all_files(self.declared(), self.root), self.root) | more


@dataclass(frozen=True)
class Training:
    """How the generator is trained.

    settings: fields of `GeneratorConfig` that are not default. split: of which split the cohort is,
    for the manifest; None is all. shard_params: see `train_generator`.
    """

    by: Sequence[str]
    settings: Mapping[str, int | float | str] = field(default_factory=dict)
    seed: int = 0
    resume: bool = False
    split: str | None = None
    shard_params: bool = False


def methods_named(names: Sequence[str]) -> Mapping[str, BalancingMethod]:
    """The balancing methods of these names, in this order, or `all`.

    `fairplay@0.5` fills the cells half up (any method with a ratio); `oracle=RECORDS` takes its
    patients from the records of a further simulated hospital, and is called "oracle". Raises
    `UsageError` for a name that there is not, and `DataError` where RECORDS are none.
    """
    names = [one for name in names for one in (METHODS if name == ALL else [name])]
    if sum(name.startswith(ORACLE) for name in names) > 1:
        raise UsageError("want one oracle: of two, both called so, one would be lost")
    return dict(_method_of(name) for name in names)


def _method_of(text: str) -> tuple[str, BalancingMethod]:
    if text.startswith(ORACLE):
        fresh = Path(text.removeprefix(ORACLE))
        store.read_manifest(fresh, "records")
        return "oracle", oracle_from(fresh)
    name, at, ratio = text.partition("@")
    method = method_named(name)
    if not at:
        return name, method
    try:
        share = float(ratio)
    except ValueError:
        share = -1.0
    if "ratio" not in signature(method).parameters or not 0 <= share <= 1:
        raise UsageError(f"{text}: want a method that fills cells, @ and a ratio from 0 to 1")
    return text, partial(method, ratio=share)  # type: ignore[call-arg]


@dataclass(frozen=True)
class Comparison:
    """What is compared, by name (see `methods_named` and `models_named`), and how."""

    by: Sequence[str]
    methods: Sequence[str]
    models: Sequence[str] = ("logistic_regression", "xgboost")
    folds: int = 5
    seed: int = 0
    settings: VocabularySettings = field(default_factory=VocabularySettings)
    min_share: float = 0.0

    def config(self) -> dict[str, Any]:
        """For the manifest; raises `UsageError` for a method or model that there is not."""
        # Imported here and below: it brings scikit-learn, which most verbs do without.
        from equipoise.evaluate.downstream import models_named

        return {
            "by": list(self.by),
            "methods": list(methods_named(self.methods)),
            "models": list(models_named(self.models)),
            "folds": self.folds,
            "vocabulary": asdict(self.settings),
            "min_share": self.min_share,
        }

    def inputs(self) -> dict[str, str]:
        """Digests of what methods draw from beside the records, for the manifest."""
        drawn = {
            name: method.digest()
            for name, method in methods_named(self.methods).items()
            if isinstance(method, Oracle)
        }
        return {name: digest for name, digest in drawn.items() if digest}


@dataclass(frozen=True)
class Job:
    """Where it goes and how it is done, on which the results do not depend.

    resume: go on with the pieces that an earlier run has kept beside `out`. inputs: digests of what
    the records were made from.
    """

    out: Path
    inputs: Mapping[str, str]
    threads: int | None = None
    resume: bool = False
    force: bool = False
    progress: schema.Progress = schema.no_progress


def evaluate(records: VisitRecords, comparison: Comparison, job: Job) -> Results:
    """Run the experiment and write its results to `job.out`; raises what `run_experiment` raises.

    What is finished is kept beside `job.out` until all is.
    """
    with store.resuming(job.out, job.resume, pieces=True) as keep:
        results = _compare(records, comparison, job, keep)
        config = {**records.config, **comparison.config()}
        inputs = {**job.inputs, **comparison.inputs()}
        results.save(job.out, force=job.force, config=config, inputs=inputs)
    return results


def run_all(records: VisitRecords, comparison: Comparison, job: Job) -> Results:
    """Fill `job.out`: records, results, report.html, model, plan.csv and balanced cohort.

    The experiment fits everything within its folds; the model and the balanced cohort at the end
    are fitted on all subjects, for use elsewhere. Raises what its parts raise.
    """
    config = {**records.config, **comparison.config()}
    inputs = {**job.inputs, **comparison.inputs()}
    made: dict[str, Any] = {"seed": comparison.seed, "inputs": inputs}
    with (
        store.resuming(job.out, job.resume, pieces=True) as keep,
        store.writing(job.out, "run", force=job.force, config=config, **made) as draft,
    ):
        records.save(draft / "records", inputs=job.inputs)
        results = _compare(records, comparison, job, keep)
        results.save(draft / "results", config=config, inputs=inputs)
        _balance_all(records, (draft, keep), comparison, made, job.progress)
        report(draft / "results", draft / "report.html")
    return results


def _compare(records: VisitRecords, comparison: Comparison, job: Job, keep: Path) -> Results:
    from equipoise.evaluate.downstream import models_named
    from equipoise.evaluate.experiment import Running, run_experiment

    return run_experiment(
        records,
        comparison.by,
        methods_named(comparison.methods),
        models=models_named(comparison.models),
        folds=comparison.folds,
        seed=comparison.seed,
        settings=comparison.settings,
        min_share=comparison.min_share,
        running=Running(job.threads or cores(), keep, job.inputs, job.progress),
    )


def parts_to_learn(
    records: VisitRecords, split: str | None, settings: VocabularySettings
) -> tuple[Cohort, Cohort | None]:
    """The subjects of a split (None: all), and those that tell when to stop.

    These are of the split `tuning`, where the source has one with labels and `train` is learned
    from; None otherwise. Raises `DataError` for a split that there is not.
    """
    chosen = records if split is None else records.of_split(split)
    cohort = chosen.encode(chosen.fit_vocabulary(settings))
    of_tuning = records.subjects.filter(pl.col(schema.SPLIT) == schema.TUNING)
    if split != schema.TRAIN or not of_tuning[schema.LABEL].count():
        return cohort, None
    return cohort, records.of_split(schema.TUNING).encode(cohort.vocabulary)


def train_model(
    cohort: Cohort,
    out: Path,
    training: Training,
    *,
    tuning: Cohort | None = None,
    force: bool = False,
    inputs: Mapping[str, str],
    progress: schema.Progress = schema.no_progress,
    watch: Callable[[Mapping[str, float]], None] | None = None,
) -> bool:
    """Train a generator and write it to `out`; what is done so far is kept beside it until then.

    `tuning` tells when to stop, or else a tenth of `cohort` does (see `train_generator`).
    Several processes may do this together (`parallel.join_cluster`); true is returned to the one
    that writes. Raises what `train_generator` raises, and `UsageError` for settings that are none.
    """
    # Imported here: it brings JAX, which the data half does without.
    from equipoise.generator import train_generator
    from equipoise.generator.parallel import join_cluster, leads

    join_cluster()
    config = _config(cohort, training.settings) if training.settings else None
    working = store.resuming(out, training.resume) if leads() else _shared(out)
    with working as work:
        generator = train_generator(
            cohort,
            training.by,
            training.seed,
            config=config,
            tuning=tuning,
            snapshots=work,
            shard_params=training.shard_params,
            progress=progress,
            watch=watch,
        )
        if leads():
            told = {**asdict(generator.config), "split": training.split}
            told["tuned_on"] = schema.TUNING if tuning is not None else None
            made = {"seed": training.seed, "inputs": inputs, "config": told}
            _save_model(generator, out, force=force, **made)
    return leads()


@contextmanager
def _shared(out: Path) -> Iterator[Path]:
    """The work folder of `store.resuming`, which another process looks after."""
    yield store.work_of(out)


def _config(cohort: Cohort, settings: Mapping[str, int | float | str]) -> GeneratorConfig:
    from equipoise.generator import GeneratorConfig

    config = GeneratorConfig.for_cohort(cohort)
    unknown = sorted(settings.keys() - asdict(config).keys())
    if unknown:
        raise UsageError(
            f"there is no setting {', '.join(unknown)}, but {', '.join(asdict(config))}"
        )
    try:
        return replace(config, **settings)  # type: ignore[arg-type]
    except DataError as error:
        raise UsageError(str(error)) from None


def _save_model(generator: Generator, out: Path, **made: Any) -> None:
    """The generator's folder, with a picture of how it was trained."""
    from equipoise.report.curves import training_curves

    curves = training_curves(generator.history, int(generator.report["best_step"]))
    generator.save(out, {"curves.png": curves}, **made)


def report(results: Path, out: Path) -> Path:
    """Render the results in a folder to the file `out`; raises `DataError`."""
    # Imported here: they bring matplotlib and SciPy's statistics, which only a report needs.
    from equipoise.evaluate.results import Results
    from equipoise.report.html import write_report

    manifest = store.read_manifest(results, "results")
    return write_report(Results.load(results), out, manifest=manifest)


def _balance_all(
    records: VisitRecords,
    folders: tuple[Path, Path],
    comparison: Comparison,
    made: Mapping[str, Any],
    progress: schema.Progress,
) -> None:
    """A generator of all subjects, its plan, and the balanced cohort.

    folders: what they are written to, and what keeps the training for who goes on with it.
    """
    # Imported here: it brings JAX, which the data half does without.
    from equipoise.generator import sample, train_generator

    known = np.flatnonzero(records.subjects[schema.LABEL].is_not_null().to_numpy())
    records = records.take(known)
    (folder, keep), by = folders, comparison.by
    cohort = records.encode(records.fit_vocabulary(comparison.settings))
    plan = plan_balance(cohort, by)
    generator = train_generator(
        cohort, by, seed=comparison.seed, snapshots=keep / "generator", progress=progress
    )
    _save_model(generator, folder / "model", **made)
    plan.to_csv(folder / "plan.csv")
    synthetic = sample(generator, plan, seed=comparison.seed, progress=progress)
    concat([cohort, synthetic]).save(folder / "balanced", config={"by": list(by)}, **made)
