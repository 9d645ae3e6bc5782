"""The main job in one function: records -> experiment -> generator -> balanced cohort -> report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from equipoise import schema, store
from equipoise.balance import BalancingMethod, method_named, plan_balance
from equipoise.cohort import concat
from equipoise.evaluate.experiment import run_experiment
from equipoise.evaluate.results import Results
from equipoise.records import VisitRecords, read_source
from equipoise.sources import source_named
from equipoise.sources.declaration import Source
from equipoise.sources.files import all_files
from equipoise.tasks import TASKS
from equipoise.vocabulary import VocabularySettings


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


def methods_named(names: Sequence[str]) -> Mapping[str, BalancingMethod]:
    """The balancing methods of these names, in this order; raises `UsageError`."""
    return {name: method_named(name) for name in names}


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
    config: dict[str, Any] = {
        **records.config,
        "by": list(by),
        "methods": list(methods),
        "folds": folds,
        "vocabulary": asdict(settings),
    }
    made: dict[str, Any] = {"seed": seed, "inputs": inputs}
    with store.writing(out, "run", force=force, config=config, **made) as draft:
        records.save(draft / "records", inputs=inputs)
        results = run_experiment(
            records,
            by,
            methods_named(methods),
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
    generator.save(folder / "model", **made)
    plan.to_csv(folder / "plan.csv")
    synthetic = sample(generator, plan, seed=made["seed"], progress=progress)
    concat([cohort, synthetic]).save(folder / "balanced", config={"by": list(by)}, **made)
