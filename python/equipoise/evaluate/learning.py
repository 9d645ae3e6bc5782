"""From a training set to a predictor: one classifier for all, or one for each group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import sparse

from equipoise import schema
from equipoise.cohort import Cohort
from equipoise.evaluate.classifier import Classifier, Labels, Scores
from equipoise.evaluate.counts import crossed
from equipoise.evaluate.downstream import Fit, model_named
from equipoise.training_set import TrainingSet

#: A group with fewer visits of either class gets no classifier of its own.
FEWEST_OF_A_CLASS: Final = 10


@dataclass(frozen=True, eq=False)
class Predictor:
    """What was fitted: one classifier for all, or one for each group and one for all others.

    remark: what there is to say about the fitting, or nothing.
    """

    pooled: Classifier
    apart: tuple[str, ...]
    own: Mapping[str, Classifier]
    remark: str = ""

    def scores(self, cohort: Cohort) -> Scores:
        """(rows,) scores from 0 to 1 of the labelled visits, in the order of `to_sklearn`."""
        X, _, groups, _ = cohort.to_sklearn()
        if not self.own:
            return self.pooled.scores(X)
        scores = np.full(X.shape[0], np.nan)
        group = crossed(groups.select(self.apart)).to_numpy()
        others = np.ones(X.shape[0], bool)
        for name, classifier in self.own.items():
            rows = np.flatnonzero(group == name)
            scores[rows] = classifier.scores(X[rows])
            others[rows] = False
        rows = np.flatnonzero(others)
        if len(rows):
            scores[rows] = self.pooled.scores(X[rows])
        return scores


def fit_predictor(
    model: str | Fit, training: Cohort | TrainingSet, *, seed: int = 0, threads: int | None = None
) -> Predictor:
    """Fit a model (one of `MODELS` by name, or a `Fit`) on every visit whose label is known.

    Where these hold one class only nothing can be fitted: all scores are NaN and `remark` says so.
    A group of `training.apart` with fewer than `FEWEST_OF_A_CLASS` visits of either class, and who
    is in no group, is scored by the classifier of all; `remark` names such groups. The same input,
    seed and threads give the same scores. Raises `UsageError` for an unknown name.
    """
    fit = model_named(model) if isinstance(model, str) else model
    training = TrainingSet.of(training)
    X, y, groups, _ = training.cohort.to_sklearn()
    weight = None
    if training.weights is not None:
        known = training.cohort.visits[schema.LABEL].is_not_null().to_numpy()
        weight = training.weights[known]
    if len(np.unique(y)) < 2:
        remark = "the training visits have one class only, so no scores"
        return Predictor(Classifier(_no_scores), (), {}, remark)
    pooled = fit(X, y, weight, seed, threads)
    if not training.apart:
        return Predictor(pooled, (), {}, pooled.remark)
    group = crossed(groups.select(training.apart))
    own = {}
    small = []
    for name in group.drop_nulls().unique().sort():
        rows = np.flatnonzero((group == name).fill_null(value=False).to_numpy())
        if _has_too_few(y[rows]):
            small.append(name)
            continue
        part = None if weight is None else weight[rows]
        own[name] = fit(X[rows], y[rows], part, seed, threads)
    return Predictor(pooled, training.apart, own, _remark(own, small))


def fit_scores(
    model: str | Fit,
    training: Cohort | TrainingSet,
    test: Cohort,
    *,
    seed: int = 0,
    threads: int | None = None,
) -> Scores:
    """Fit on `training` and score the labelled visits of `test`, in the order of `to_sklearn`."""
    return fit_predictor(model, training, seed=seed, threads=threads).scores(test)


def _has_too_few(y: Labels) -> bool:
    return min(int(y.sum()), len(y) - int(y.sum())) < FEWEST_OF_A_CLASS


def _remark(own: Mapping[str, Classifier], small: list[str]) -> str:
    remarks = [f"{name}: {fitted.remark}" for name, fitted in own.items() if fitted.remark]
    if small:
        remarks.append(
            f"{', '.join(small)} scored by the classifier of all, for in training there are fewer "
            f"than {FEWEST_OF_A_CLASS} visits of a class"
        )
    return "; ".join(remarks)


def _no_scores(X: sparse.csr_array) -> Scores:
    return np.full(X.shape[0], np.nan)
