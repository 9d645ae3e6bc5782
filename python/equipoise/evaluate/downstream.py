"""The classifiers that a cohort is judged by: one row per visit, sparse multi-hot codes in."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from equipoise.errors import UsageError
from equipoise.evaluate.classifier import Classifier, Labels, Scores, probability_of
from equipoise.evaluate.nearest import nearest_neighbors
from equipoise.evaluate.own import estimator_at

#: FairPlay's own setting for logistic regression.
MAX_ITERATIONS: Final = 1000
#: Below this many stored ones XGBoost runs on one thread.
ONE_THREAD: Final = 500_000


def logistic_regression(
    X: sparse.csr_array, y: Labels, weight: Scores | None, seed: int, threads: int | None
) -> Classifier:
    """scikit-learn's logistic regression as FairPlay uses it: L2 with C = 1, L-BFGS.

    In double precision: in single precision L-BFGS can give up before it has converged.
    """
    from sklearn.linear_model import LogisticRegression

    del threads  # L-BFGS has one
    model = LogisticRegression(C=1.0, solver="lbfgs", max_iter=MAX_ITERATIONS, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X.astype(np.float64), y, sample_weight=weight)
    return Classifier(probability_of(model), _converged(int(model.n_iter_[0])))


def xgboost(
    X: sparse.csr_array, y: Labels, weight: Scores | None, seed: int, threads: int | None
) -> Classifier:
    """XGBoost at its defaults, which are FairPlay's: 100 histogram trees of depth 6, rate 0.3.

    A code that is not stored is "missing" to XGBoost; as all stored ones are 1, that is as good
    as 0.
    """
    from xgboost import XGBClassifier

    # On little data threads only wait for each other, at every node of every tree.
    jobs = 1 if X.nnz < ONE_THREAD else threads
    model = XGBClassifier(tree_method="hist", n_jobs=jobs, random_state=seed)
    model.fit(X, y, sample_weight=weight)
    return Classifier(probability_of(model))


def random_forest(
    X: sparse.csr_array, y: Labels, weight: Scores | None, seed: int, threads: int | None
) -> Classifier:
    """scikit-learn's random forest at its defaults, which are FairPlay's: 100 trees, sqrt(V)."""
    from sklearn.ensemble import RandomForestClassifier

    model = RandomForestClassifier(n_estimators=100, random_state=seed, n_jobs=threads)
    model.fit(X.tocsc(), y, sample_weight=weight)
    return Classifier(probability_of(model))


def neural_network(
    X: sparse.csr_array, y: Labels, weight: Scores | None, seed: int, threads: int | None
) -> Classifier:
    """A network of 256 and 128 hidden units as FairPlay uses it, stopped early on a tenth.

    That tenth is of the rows that are learned from, and stratified, so it takes two rows of each
    class; without them it is trained to convergence.
    """
    from sklearn.neural_network import MLPClassifier

    del threads  # as many as BLAS takes
    model = MLPClassifier(
        hidden_layer_sizes=(256, 128),
        early_stopping=_can_stop_early(y),
        max_iter=MAX_ITERATIONS,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, y, sample_weight=weight)
    return Classifier(probability_of(model), _converged(model.n_iter_))


def _can_stop_early(y: Labels) -> bool:
    rarer = min(int(y.sum()), len(y) - int(y.sum()))
    return rarer >= 2 and len(y) >= 20


def _converged(iterations: int) -> str:
    if iterations < MAX_ITERATIONS:
        return ""
    return f"had not converged after {MAX_ITERATIONS} iterations"


#: (X (n, V), y (n,), weight (n,) or None: all alike, seed, threads) to the fitted model. The same
#: input gives the same scores.
Fit = Callable[[sparse.csr_array, Labels, Scores | None, int, int | None], Classifier]
MODELS: Final[Mapping[str, Fit]] = MappingProxyType(
    {
        "knn": nearest_neighbors,
        "logistic_regression": logistic_regression,
        "neural_network": neural_network,
        "random_forest": random_forest,
        "xgboost": xgboost,
    }
)
ALL: Final = "all"


def models_named(names: Sequence[str]) -> dict[str, Fit]:
    """The models of these names, in this order; "all" is the five of FairPlay.

    A name with a colon, `package.module:estimator`, is the user's own (see `own.estimator_at`).
    Raises `UsageError` that lists the names.
    """
    chosen = [one for name in names for one in (MODELS if name == ALL else [name])]
    return {name: model_named(name) for name in chosen}


def model_named(name: str) -> Fit:
    """One of `models_named`."""
    if ":" in name:
        return estimator_at(name)
    if name not in MODELS:
        known = ", ".join(MODELS)
        raise UsageError(f"{name} is no model; want one of {known}, or package.module:estimator")
    return MODELS[name]
