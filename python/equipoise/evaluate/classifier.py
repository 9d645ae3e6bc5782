"""What fitting gives: something that scores rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

Scores = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int8]


class Classifier(NamedTuple):
    """A fitted model: X (n, V) -> (n,) scores from 0 to 1, and what there is to say about it."""

    scores: Callable[[sparse.csr_array], Scores]
    remark: str = ""


def probability_of(model: Any) -> Callable[[sparse.csr_array], Scores]:
    """The scores of a fitted scikit-learn classifier: its probability of the second class."""

    def scores(X: sparse.csr_array) -> Scores:
        # scikit-learn and XGBoost refuse to predict for no rows.
        return model.predict_proba(X)[:, 1].astype(np.float64) if X.shape[0] else np.empty(0)

    return scores
