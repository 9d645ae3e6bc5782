"""The experiment: balancing methods compared on real, held-out visits, fold by fold.

Everything is fitted on a fold's own training subjects: vocabulary, deciles, majority group, methods
and classifiers. Thresholds come from the fold's tuning part. What a fold is judged on has been seen
by nothing, which a guard checks before each model is fitted. How the work is cut: see `pieces`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Protocol, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from equipoise import schema, store
from equipoise.cohort import Cohort, check_groups
from equipoise.errors import DataError, UsageError
from equipoise.evaluate.downstream import Fit, models_named
from equipoise.evaluate.folds import Fold, make_folds, strata_of
from equipoise.evaluate.notes import on_folds
from equipoise.evaluate.pieces import Balancing, Fitting, Method, Parts
from equipoise.evaluate.pooling import pool
from equipoise.evaluate.processes import check_sendable, work_off
from equipoise.evaluate.results import CELLS, PREDICTIONS, Results, Setup
from equipoise.evaluate.schedule import Schedule
from equipoise.vocabulary import Vocabulary, VocabularySettings

SETUP: Final = "setup.json"
#: What columns are called in the frames that results are made from.
_WITHIN: Final = ("overall", "len", "in", "n", "factor", "whole", "odds", "of_all", "cell", "__row")
DEFAULT_MODELS: Final = ("logistic_regression", "xgboost")


class Records(Protocol):
    """What an experiment needs of `VisitRecords`."""

    @property
    def subjects(self) -> pl.DataFrame: ...
    @property
    def ledger(self) -> pl.DataFrame: ...
    def __len__(self) -> int: ...
    def take(self, subjects: npt.NDArray[np.integer], /) -> Self: ...
    def fit_vocabulary(self, settings: VocabularySettings, /) -> Vocabulary: ...
    def encode(self, vocabulary: Vocabulary, /) -> Cohort: ...


@dataclass(frozen=True)
class Running:
    """How the work is done, on which the results do not depend.

    threads: pieces at a time; with 1 in this process, with more each in a process of its own, which
    as always takes a script whose work is under `if __name__ == "__main__":`. keep: the folder
    where finished pieces stay, so that a further run goes on with them; without it they go when the
    run ends. inputs: digests of what the records were made from, which have to be the same for
    that.
    """

    threads: int = 1
    keep: Path | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    progress: schema.Progress = schema.no_progress

    @contextmanager
    def kept(self) -> Iterator[Path]:
        """The folder of the pieces."""
        if self.keep is not None:
            yield self.keep
            return
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


def run_experiment(
    records: Records,
    by: Sequence[str],
    methods: Mapping[str, Method],
    *,
    models: Sequence[str] | Mapping[str, Fit] = DEFAULT_MODELS,
    folds: int = 5,
    seed: int = 0,
    settings: VocabularySettings | None = None,
    keep_together: npt.NDArray[np.generic] | None = None,
    resamples: int = 2000,
    min_share: float = 0.0,
    running: Running | None = None,
) -> Results:
    """Compare `methods` (by name) in cross-validation over the subjects of `records`.

    models: names (see `downstream.models_named`), or fitting functions by name. keep_together: (S,)
    ids of persons whose subjects must stay in one part of a fold (default: `schema.PERSON_ID`).
    resamples: those of the gains' intervals. min_share: smaller crossed groups are not judged.
    Gains are measured from the method "original". Subjects with an unknown label are left out.

    Raises `DataError` for an unknown group column or one class, `UsageError` for a request that
    makes no sense, and `LeakageError` if a fold is about to be judged on what was seen. What was
    finished by then stays in `running.keep`.
    """
    running = running or Running()
    fits = models if isinstance(models, Mapping) else models_named(models)
    setup = Setup(
        by=tuple(check_groups(records.subjects, by)),
        methods=tuple(methods),
        models=tuple(fits),
        folds=folds,
        seed=seed,
        resamples=resamples,
        min_share=min_share,
    )
    _check_request(setup)
    known, left_out = _known(records.subjects[schema.LABEL])
    if left_out:
        records = records.take(known)
        keep_together = None if keep_together is None else keep_together[known]
    plan = _plan_folds(records, setup, keep_together)
    encode = _Encoder(records, plan, settings or VocabularySettings())
    with running.kept() as keep:
        _check_same(keep, encode, setup, running.inputs, {**methods, **fits})
        arms = _arms(keep, plan, setup, methods, fits, running.threads)
        work_off(Schedule(arms, encode, running.progress), running.threads, running.progress)
        told = tuple(on_folds(records.subjects, setup.by, folds))
        return pool(arms, setup, records.ledger, left_out, told, running.progress)


@dataclass(frozen=True)
class _Encoder:
    """From a fold's number to its cohorts."""

    records: Records
    plan: Sequence[Fold]
    settings: VocabularySettings

    def __call__(self, number: int) -> Parts:
        fold = self.plan[number]
        learning = self.records.take(fold.train)
        vocabulary = learning.fit_vocabulary(self.settings)
        tuning, held_out = (
            self.records.take(places).encode(vocabulary) for places in (fold.tuning, fold.held_out)
        )
        return Parts(learning.encode(vocabulary), tuning, held_out)


def _plan_folds(
    records: Records, setup: Setup, keep_together: npt.NDArray[np.generic] | None
) -> list[Fold]:
    subjects = records.subjects
    if keep_together is None and schema.PERSON_ID in subjects.columns:
        keep_together = subjects[schema.PERSON_ID].to_numpy()
    strata = strata_of(subjects, setup.by)
    return make_folds(strata, setup.folds, setup.seed, keep_together=keep_together)


def _arms(
    keep: Path,
    plan: Sequence[Fold],
    setup: Setup,
    methods: Mapping[str, Method],
    fits: Mapping[str, Fit],
    processes: int,
) -> dict[Balancing, list[Fitting]]:
    """Every balancing with its models, in the order of the tables."""
    if processes > 1:
        check_sendable(methods)
        check_sendable(fits)
    arms = {}
    for fold in plan:
        # Half the range: a seed has to fit into 31 bits for some of the libraries.
        seed = int(np.random.SeedSequence([setup.seed, fold.number]).generate_state(1)[0]) >> 1
        folder = keep / f"fold-{fold.number}"
        for name, method in methods.items():
            balancing = Balancing(folder, fold.number, name, method, setup.by, seed)
            arms[balancing] = [Fitting(balancing, model, fit) for model, fit in fits.items()]
    return arms


def _check_same(
    keep: Path,
    encode: _Encoder,
    setup: Setup,
    inputs: Mapping[str, str],
    used: Mapping[str, Method | Fit],
) -> None:
    """Raise `UsageError` if the pieces in `keep` answer another question.

    Methods and models may be added or left out: their pieces do not depend on each other. Of those
    `used` that have a `digest` (data to draw from, one's own model) it has to be as before.
    """
    subjects = encode.records.subjects.select(schema.SUBJECT_ID, schema.LABEL, *setup.by)
    now = {
        "by": list(setup.by),
        "folds": setup.folds,
        "seed": setup.seed,
        "vocabulary": asdict(encode.settings),
        "subjects": sha256(subjects.write_csv().encode()).hexdigest(),
        "visits": _digest_of(encode.records, encode.settings),
        "inputs": dict(inputs),
        "equipoise": version("equipoise"),
    }
    path = keep / SETUP
    before: Mapping[str, Any] = store.read_json(path) if path.exists() else now
    other = [name for name, value in now.items() if before.get(name) != value]
    earlier: Mapping[str, str | None] = before.get("drawn_from", {})
    drawn = {name: method.digest() for name, method in used.items() if hasattr(method, "digest")}
    other += [name for name in drawn if earlier.get(name, drawn[name]) != drawn[name]]
    if other:
        raise UsageError(
            f"what an earlier run has kept had another {', '.join(other)}: "
            "ask for the same, or begin anew without --resume"
        )
    told = {**now, "drawn_from": {**earlier, **drawn}}
    if told != before:
        store.write_json(path, told)


def _digest_of(records: Records, settings: VocabularySettings) -> str:
    """A digest of the visits' codes and bins, by a vocabulary of all of them."""
    cohort = records.encode(records.fit_vocabulary(settings))
    whole = sha256(cohort.vocabulary.columns.write_json().encode())
    for array in (cohort.visit_offsets, cohort.code_offsets, cohort.codes):
        whole.update(array.tobytes())
    return whole.hexdigest()


def _check_request(setup: Setup) -> None:
    for name in setup.by:
        if name in {*PREDICTIONS, *CELLS, *_WITHIN}:
            raise UsageError(f"{name} cannot be a group here: it is used by the results")
    if not setup.methods or not setup.models:
        raise UsageError("want at least one method and one model, got none")


def _known(label: pl.Series) -> tuple[npt.NDArray[np.int64], int]:
    """The places of known labels, and how many are unknown; both classes have to be there."""
    classes = label.drop_nulls().unique().to_list()
    if len(classes) < 2:
        raise DataError(
            "the task's label has one class only" if classes else "no label is known",
            table="subjects",
            column=schema.LABEL,
            want="both classes, true and false",
            got=f"only {str(classes[0]).lower()}" if classes else "null everywhere",
        )
    return np.flatnonzero(label.is_not_null().to_numpy()), label.null_count()
