"""The classifiers that a cohort is judged by: one row per visit, sparse multi-hot codes in."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from equipoise.cohort import Cohort
from equipoise.errors import UsageError

Scores = npt.NDArray[np.float64]
#: FairPlay's own setting for logistic regression.
MAX_ITERATIONS: Final = 1000
#: Below this many stored ones XGBoost runs on one thread.
ONE_THREAD: Final = 500_000


class Classifier(NamedTuple):
    """A fitted model: X (n, V) -> (n,) scores from 0 to 1, and what there is to say about it."""

    scores: Callable[[sparse.csr_array], Scores]
    remark: str = ""


def fit_classifier(
    model: str, train: Cohort, *, seed: int = 0, threads: int | None = None
) -> Classifier:
    """Fit one of `MODELS` on every visit of `train` whose label is known.

    Where these hold one class only nothing can be fitted: all scores are NaN and `remark` says so.
    The same cohort, seed and threads give the same scores. Raises `UsageError` for another model.
    """
    if model not in MODELS:
        raise UsageError(f"{model} is no model; want one of {', '.join(MODELS)}")
    X, y, _, _ = train.to_sklearn()
    if len(np.unique(y)) < 2:
        return Classifier(_no_scores, "the training visits have one class only, so no scores")
    return MODELS[model](X, y, seed, threads)


def fit_scores(
    model: str, train: Cohort, test: Cohort, *, seed: int = 0, threads: int | None = None
) -> Scores:
    """Fit on `train` and score the labelled visits of `test`, in the order of `to_sklearn`."""
    return fit_classifier(model, train, seed=seed, threads=threads).scores(test.to_sklearn().X)


def logistic_regression(
    X: sparse.csr_array, y: npt.NDArray[np.int8], seed: int, threads: int | None
) -> Classifier:
    """scikit-learn's logistic regression as FairPlay uses it: L2 with C = 1, L-BFGS.

    In double precision: in single precision L-BFGS can give up before it has converged.
    """
    from sklearn.linear_model import LogisticRegression

    del threads  # L-BFGS has one
    model = LogisticRegression(C=1.0, solver="lbfgs", max_iter=MAX_ITERATIONS, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X.astype(np.float64), y)
    converged = int(model.n_iter_[0]) < MAX_ITERATIONS
    remark = "" if converged else f"had not converged after {MAX_ITERATIONS} iterations"
    return Classifier(_probability(model), remark)


def xgboost(
    X: sparse.csr_array, y: npt.NDArray[np.int8], seed: int, threads: int | None
) -> Classifier:
    """XGBoost at its defaults, which are FairPlay's: 100 histogram trees of depth 6, rate 0.3.

    A code that is not stored is "missing" to XGBoost; as all stored ones are 1, that is as good
    as 0.
    """
    from xgboost import XGBClassifier

    # On little data threads only wait for each other, at every node of every tree.
    jobs = 1 if X.nnz < ONE_THREAD else threads
    model = XGBClassifier(tree_method="hist", n_jobs=jobs, random_state=seed)
    model.fit(X, y)
    return Classifier(_probability(model))


Fit = Callable[[sparse.csr_array, npt.NDArray[np.int8], int, int | None], Classifier]
MODELS: Final[Mapping[str, Fit]] = MappingProxyType(
    {"logistic_regression": logistic_regression, "xgboost": xgboost}
)


def _probability(model: Any) -> Callable[[sparse.csr_array], Scores]:
    def scores(X: sparse.csr_array) -> Scores:
        # scikit-learn and XGBoost refuse to predict for no rows.
        return model.predict_proba(X)[:, 1].astype(np.float64) if X.shape[0] else np.empty(0)

    return scores


def _no_scores(X: sparse.csr_array) -> Scores:
    return np.full(X.shape[0], np.nan)
