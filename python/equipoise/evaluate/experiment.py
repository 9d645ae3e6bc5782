"""The experiment: balancing methods compared on real, held-out visits, fold by fold.

Everything is fitted on a fold's own training subjects: vocabulary, deciles, majority group, methods
and classifiers. Thresholds come from the fold's tuning part. What a fold is judged on has been seen
by nothing, which a guard checks before each model is fitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from equipoise import schema
from equipoise.cohort import Cohort, check_groups
from equipoise.errors import DataError, UsageError
from equipoise.evaluate import notes
from equipoise.evaluate.counts import OK
from equipoise.evaluate.downstream import MODELS
from equipoise.evaluate.folds import Fold, make_folds
from equipoise.evaluate.gains import estimate_gains
from equipoise.evaluate.judging import Grouping, groupings_of, judge_fairness, judge_groups
from equipoise.evaluate.leakage import check_leakage
from equipoise.evaluate.learning import fit_predictor
from equipoise.evaluate.results import CELLS, PREDICTIONS, Results
from equipoise.evaluate.thresholds import f1_threshold
from equipoise.training_set import TrainingSet
from equipoise.vocabulary import Vocabulary, VocabularySettings


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


class Method(Protocol):
    """A balancing method: see `equipoise.balance.BalancingMethod`, which is this contract."""

    def __call__(
        self,
        train: Cohort,
        by: Sequence[str],
        *,
        tuning: Cohort,
        seed: int,
        progress: schema.Progress,
    ) -> Cohort | TrainingSet: ...


@dataclass(frozen=True)
class _Work:
    """What is the same in every fold."""

    by: tuple[str, ...]
    groupings: Sequence[Grouping]
    methods: Mapping[str, Method]
    models: tuple[str, ...]
    folds: int
    seed: int
    settings: VocabularySettings
    threads: int | None
    progress: schema.Progress


class _Outcome(NamedTuple):
    predictions: list[pl.DataFrame]
    metrics: list[pl.DataFrame]
    fairness: list[pl.DataFrame]
    cells: list[pl.DataFrame]
    notes: list[str]


def run_experiment(
    records: Records,
    by: Sequence[str],
    methods: Mapping[str, Method],
    *,
    folds: int = 5,
    seed: int = 0,
    models: Sequence[str] = ("logistic_regression", "xgboost"),
    settings: VocabularySettings | None = None,
    threads: int | None = None,
    keep_together: npt.NDArray[np.generic] | None = None,
    resamples: int = 1000,
    progress: schema.Progress = schema.no_progress,
) -> Results:
    """Compare `methods` (by name) in cross-validation over the subjects of `records`.

    Gains are measured from the method named "original". `keep_together` (S,) holds ids of persons
    whose subjects must stay in one part of a fold (default: `schema.PERSON_ID`, where subjects have
    it). `resamples` are those of the gains' intervals.
    Subjects with an unknown label are left out and counted in the notes.

    Raises `DataError` for an unknown group column or a label of one class, `UsageError` for an
    unknown model, no method, a group column named like one of the results', or folds that the
    subjects do not fill, and `LeakageError` if a fold is about to be judged on what was seen.
    """
    by = tuple(check_groups(records.subjects, by))
    _check_request(by, methods, models)
    label = records.subjects[schema.LABEL]
    known = np.flatnonzero(label.is_not_null().to_numpy())
    _check_classes(label)
    left_out = len(label) - len(known)
    if left_out:
        records = records.take(known)
        keep_together = None if keep_together is None else keep_together[known]
    keep_together = _persons(records) if keep_together is None else keep_together
    work = _Work(
        by=by,
        groupings=groupings_of(records.subjects, by),
        methods=methods,
        models=tuple(models),
        folds=folds,
        seed=seed,
        settings=settings or VocabularySettings(),
        threads=threads,
        progress=progress,
    )
    labels = records.subjects[schema.LABEL].to_numpy()
    plan = make_folds(labels, folds, seed, keep_together=keep_together)
    outcomes = [_run_fold(records, fold, work) for fold in plan]
    return _pool(records, work, outcomes, left_out, resamples)


def _pool(
    records: Records, work: _Work, outcomes: Sequence[_Outcome], left_out: int, resamples: int
) -> Results:
    """The folds together, with the gains over them."""
    predictions = pl.concat(frame for outcome in outcomes for frame in outcome.predictions)
    cells = pl.concat(frame for outcome in outcomes for frame in outcome.cells)
    sizes = {grouping.name: grouping.sizes(records.subjects) for grouping in work.groupings}
    work.progress("intervals", 0, 1)
    gains = estimate_gains(predictions, work.groupings, sizes, resamples=resamples, seed=work.seed)
    work.progress("intervals", 1, 1)
    methods = tuple(work.methods)
    return Results(
        predictions=predictions,
        metrics=pl.concat(frame for outcome in outcomes for frame in outcome.metrics),
        fairness=pl.concat(frame for outcome in outcomes for frame in outcome.fairness),
        gains=gains,
        cells=cells,
        ledger=records.ledger,
        by=work.by,
        methods=methods,
        models=work.models,
        folds=work.folds,
        seed=work.seed,
        notes=(
            *notes.on_data(records.subjects, work.by, left_out, work.groupings),
            *(note for outcome in outcomes for note in outcome.notes),
            *notes.on_results(predictions, cells, work.groupings, methods),
        ),
    )


def _run_fold(records: Records, fold: Fold, work: _Work) -> _Outcome:
    learning = records.take(fold.train)
    vocabulary = learning.fit_vocabulary(work.settings)
    train = learning.encode(vocabulary)
    tuning, held_out = (
        records.take(places).encode(vocabulary) for places in (fold.tuning, fold.held_out)
    )
    outcome = _Outcome([], [], [], [], [])
    # Half the range: a seed has to fit into 31 bits for some of the libraries.
    seed = int(np.random.SeedSequence([work.seed, fold.number]).generate_state(1)[0]) >> 1
    for m, (method, balance) in enumerate(work.methods.items()):
        done, all_of_them = fold.number * len(work.methods) + m, work.folds * len(work.methods)
        work.progress(f"fold {fold.number + 1}, {method}", done, all_of_them)
        training = TrainingSet.of(
            balance(train, work.by, tuning=tuning, seed=seed, progress=work.progress)
        )
        balanced = training.cohort
        _check_vocabulary(balanced, train, method)
        outcome.cells.append(_count_cells(balanced, fold.number, method, work.by))
        for model in work.models:
            check_leakage(balanced, tuning=tuning, held_out=held_out)
            frame, remark = _predict(model, training, tuning, held_out, seed, work)
            arm = [pl.lit(fold.number).cast(pl.Int64).alias("fold")]
            arm += [pl.lit(method).alias("method"), pl.lit(model).alias("model")]
            outcome.predictions.append(frame.select(*arm, *list(PREDICTIONS)[3:], *work.by))
            outcome.metrics.append(judge_groups(frame, work.groupings).select(*arm, pl.all()))
            sizes = {grouping.name: grouping.sizes(train.subjects) for grouping in work.groupings}
            fairness = judge_fairness(frame, work.groupings, sizes)
            outcome.fairness.append(fairness.select(*arm, pl.all()))
            if remark:
                outcome.notes.append(f"fold {fold.number + 1}, {method}, {model}: {remark}")
    return outcome


def _predict(
    model: str, training: TrainingSet, tuning: Cohort, held_out: Cohort, seed: int, work: _Work
) -> tuple[pl.DataFrame, str]:
    """The scored held-out visits with their groups and tuned threshold, and a remark or nothing."""
    fitted = fit_predictor(model, training, seed=seed, threads=work.threads)
    threshold = f1_threshold(tuning.to_sklearn().y, fitted.scores(tuning))
    _, _, groups, visits = held_out.to_sklearn()
    frame = visits.select(schema.SUBJECT_ID, schema.VISIT_ID, schema.LABEL).with_columns(
        pl.Series("score", fitted.scores(held_out), pl.Float64),
        pl.lit(threshold.value, pl.Float64).alias("tuned_threshold"),
        *groups.select(work.by),
    )
    remark = fitted.remark
    if threshold.status != OK and not remark:
        remark = f"no tuned threshold, for the tuning part has status {threshold.status}"
    return frame, remark


def _count_cells(balanced: Cohort, fold: int, method: str, by: Sequence[str]) -> pl.DataFrame:
    """What a classifier learns from: a frame of `CELLS` and `by`, one row per observed cell."""
    positive = balanced.visits[schema.LABEL].fill_null(value=False).to_numpy()
    owner = balanced.subject_of_visit()
    subjects = balanced.subjects.with_columns(
        visits=np.diff(balanced.visit_offsets),
        positive_visits=np.bincount(owner, positive, minlength=len(balanced)).astype(np.int64),
    )
    synthetic = pl.col(schema.SYNTHETIC).fill_null(value=False)
    different = pl.col(schema.SUBJECT_ID).filter(~synthetic).n_unique()
    keys = [schema.LABEL, *by]
    cells = subjects.group_by(keys).agg(
        different.cast(pl.Int64).alias("subjects"),
        ((~synthetic).sum() - different).cast(pl.Int64).alias("copies"),
        synthetic.sum().cast(pl.Int64).alias("synthetic"),
        pl.col("visits").sum(),
        pl.col("positive_visits").sum(),
    )
    return cells.sort(keys).select(
        pl.lit(fold).cast(pl.Int64).alias("fold"),
        pl.lit(method).alias("method"),
        *list(CELLS)[2:-1],
        (pl.col("visits") / pl.col("visits").sum()).alias("visit_share"),
        *by,
    )


def _check_vocabulary(balanced: Cohort, train: Cohort, method: str) -> None:
    if not balanced.vocabulary.equals(train.vocabulary):
        raise DataError(
            table=f"the cohort of {method}",
            want="the vocabulary of its training cohort",
            got="another",
        )


def _persons(records: Records) -> npt.NDArray[np.generic] | None:
    if schema.PERSON_ID not in records.subjects.columns:
        return None
    return records.subjects[schema.PERSON_ID].to_numpy()


def _check_request(by: Sequence[str], methods: Mapping[str, Method], models: Sequence[str]) -> None:
    for name in by:
        if name in PREDICTIONS or name in CELLS or list(by).count(name) > 1:
            raise UsageError(f"{name} cannot be a group here: it is used twice, or by the results")
    for name in models:
        if name not in MODELS:
            raise UsageError(f"{name} is no model; want some of {', '.join(MODELS)}")
    if not methods or not models:
        raise UsageError("want at least one method and one model, got none")


def _check_classes(label: pl.Series) -> None:
    classes = label.drop_nulls().unique().to_list()
    if len(classes) < 2:
        raise DataError(
            "the task's label has one class only" if classes else "no label is known",
            table="subjects",
            column=schema.LABEL,
            want="both classes, true and false",
            got=f"only {str(classes[0]).lower()}" if classes else "null everywhere",
        )
