"""The main job in one function: records -> experiment -> generator -> balanced cohort -> report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from equipoise import schema, store
from equipoise.balance import METHODS, BalancingMethod, method_named, plan_balance
from equipoise.cohort import Cohort, concat
from equipoise.errors import UsageError
from equipoise.evaluate.experiment import run_experiment
from equipoise.evaluate.results import Results
from equipoise.records import VisitRecords, read_source
from equipoise.sources import source_named
from equipoise.sources.declaration import Source
from equipoise.sources.files import all_files
from equipoise.tasks import TASKS
from equipoise.vocabulary import VocabularySettings

if TYPE_CHECKING:
    from equipoise.generator import Generator, GeneratorConfig

#: In the place of names: every balancing method there is.
ALL: Final = "all"


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
        source = self.declared()
        task = self.task or next(iter(source.tasks or TASKS))
        options = {"threads": self.threads, "progress": progress, **self.reading}
        return read_source(source, self.root, task, **options)

    def digests(self) -> dict[str, str]:
        """SHA-256 of every file that is read."""
        return store.digest(all_files(self.declared(), self.root))


@dataclass(frozen=True)
class Training:
    """How the generator is trained. settings: fields of `GeneratorConfig` that are not default."""

    by: Sequence[str]
    settings: Mapping[str, int | float | str] = field(default_factory=dict)
    seed: int = 0
    resume: bool = False


def methods_named(names: Sequence[str]) -> Mapping[str, BalancingMethod]:
    """The balancing methods of these names, in this order, or `all`; raises `UsageError`."""
    chosen = METHODS if list(names) == [ALL] else names
    return {name: method_named(name) for name in chosen}


def run_all(
    records: VisitRecords,
    out: Path,
    *,
    by: Sequence[str],
    methods: Sequence[str],
    folds: int,
    seed: int,
    threads: int | None,
    settings: VocabularySettings,
    inputs: Mapping[str, str],
    force: bool = False,
    progress: schema.Progress = schema.no_progress,
) -> Results:
    """Fill the folder `out`: records, results, report.html, model, plan.csv and balanced cohort.

    The experiment fits everything within its folds; the model and the balanced cohort at the end
    are fitted on all subjects, for use elsewhere. Raises what its parts raise.
    """
    chosen = methods_named(methods)
    config: dict[str, Any] = {
        **records.config,
        "by": list(by),
        "methods": list(chosen),
        "folds": folds,
        "vocabulary": asdict(settings),
    }
    made: dict[str, Any] = {"seed": seed, "inputs": inputs}
    with store.writing(out, "run", force=force, config=config, **made) as draft:
        records.save(draft / "records", inputs=inputs)
        results = run_experiment(
            records,
            by,
            chosen,
            folds=folds,
            seed=seed,
            settings=settings,
            threads=threads,
            progress=progress,
        )
        results.save(draft / "results", config=config, inputs=inputs)
        _balance_all(records, draft, by, settings, made, progress)
        report(draft / "results", draft / "report.html")
    return results


def train_model(
    cohort: Cohort,
    out: Path,
    training: Training,
    *,
    force: bool = False,
    inputs: Mapping[str, str],
    progress: schema.Progress = schema.no_progress,
    watch: Callable[[Mapping[str, float]], None] | None = None,
) -> bool:
    """Train a generator and write it to `out`; what is done so far is kept beside it until then.

    Several processes may do this together (`parallel.join_cluster`); true is returned to the one
    that writes. Raises what `train_generator` raises, and `UsageError` for an unknown setting.
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
            snapshots=work,
            progress=progress,
            watch=watch,
        )
        if leads():
            _save_model(generator, out, force=force, seed=training.seed, inputs=inputs)
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
        raise UsageError(f"there is no setting {', '.join(unknown)}; see GeneratorConfig")
    return replace(config, **settings)  # type: ignore[arg-type]


def _save_model(generator: Generator, out: Path, **made: Any) -> None:
    """The generator's folder, with a picture of how it was trained."""
    from equipoise.report.curves import training_curves

    curves = training_curves(generator.history, int(generator.report["best_step"]))
    generator.save(out, {"curves.png": curves}, **made)


def report(results: Path, out: Path) -> Path:
    """Render the results in a folder to the file `out`; raises `DataError`."""
    # Imported here: it brings matplotlib, which only a report needs.
    from equipoise.report.html import write_report

    manifest = store.read_manifest(results, "results")
    return write_report(Results.load(results), out, manifest=manifest)


def _balance_all(
    records: VisitRecords,
    folder: Path,
    by: Sequence[str],
    settings: VocabularySettings,
    made: Mapping[str, Any],
    progress: schema.Progress,
) -> None:
    """A generator of all subjects, its plan, and the balanced cohort."""
    # Imported here: it brings JAX, which the data half does without.
    from equipoise.generator import sample, train_generator

    known = np.flatnonzero(records.subjects[schema.LABEL].is_not_null().to_numpy())
    records = records.take(known)
    cohort = records.encode(records.fit_vocabulary(settings))
    plan = plan_balance(cohort, by)
    generator = train_generator(cohort, by, seed=made["seed"], progress=progress)
    _save_model(generator, folder / "model", **made)
    plan.to_csv(folder / "plan.csv")
    synthetic = sample(generator, plan, seed=made["seed"], progress=progress)
    concat([cohort, synthetic]).save(folder / "balanced", config={"by": list(by)}, **made)
