"""The classifiers that a cohort is judged by: one row per visit, sparse multi-hot codes in."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from equipoise.errors import UsageError

Scores = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int8]
#: FairPlay's own setting for logistic regression.
MAX_ITERATIONS: Final = 1000
#: Below this many stored ones XGBoost runs on one thread.
ONE_THREAD: Final = 500_000


class Classifier(NamedTuple):
    """A fitted model: X (n, V) -> (n,) scores from 0 to 1, and what there is to say about it."""

    scores: Callable[[sparse.csr_array], Scores]
    remark: str = ""


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
    converged = int(model.n_iter_[0]) < MAX_ITERATIONS
    remark = "" if converged else f"had not converged after {MAX_ITERATIONS} iterations"
    return Classifier(_probability(model), remark)


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
    return Classifier(_probability(model))


#: (X (n, V), y (n,), weight (n,) or None: all alike, seed, threads) to the fitted model. The same
#: input gives the same scores.
Fit = Callable[[sparse.csr_array, Labels, Scores | None, int, int | None], Classifier]
MODELS: Final[Mapping[str, Fit]] = MappingProxyType(
    {"logistic_regression": logistic_regression, "xgboost": xgboost}
)


def model_named(name: str) -> Fit:
    """The model of this name; raises `UsageError` that lists the names."""
    if name not in MODELS:
        raise UsageError(f"{name} is no model; want one of {', '.join(MODELS)}")
    return MODELS[name]


def models_named(names: Sequence[str]) -> dict[str, Fit]:
    """The models of these names, in this order; raises `UsageError`."""
    return {name: model_named(name) for name in names}


def _probability(model: Any) -> Callable[[sparse.csr_array], Scores]:
    def scores(X: sparse.csr_array) -> Scores:
        # scikit-learn and XGBoost refuse to predict for no rows.
        return model.predict_proba(X)[:, 1].astype(np.float64) if X.shape[0] else np.empty(0)

    return scores
