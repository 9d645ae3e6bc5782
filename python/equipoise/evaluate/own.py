"""The user's own estimator among the models."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from equipoise.errors import EquipoiseError, UsageError
from equipoise.evaluate.classifier import Classifier, Labels, Scores


class EstimatorError(EquipoiseError):
    """The user's estimator failed."""


@dataclass(frozen=True)
class Own:
    """A scikit-learn classifier that is cloned, seeded and fitted like the other models."""

    name: str
    estimator: Any

    def __call__(
        self,
        X: sparse.csr_array,
        y: Labels,
        weight: Scores | None,
        seed: int,
        threads: int | None,
    ) -> Classifier:
        """Fit a clone; raises `EstimatorError` that names the model if it fails."""
        from sklearn.base import clone

        model = clone(self.estimator)
        model.set_params(**_seeded(model.get_params(), seed, threads))
        takes_weight = "sample_weight" in inspect.signature(model.fit).parameters
        weights = {"sample_weight": weight} if weight is not None and takes_weight else {}
        self._try(lambda: model.fit(X, y, **weights), "fit")

        def scores(rows: sparse.csr_array) -> Scores:
            if not rows.shape[0]:
                return np.empty(0)
            told = np.asarray(self._try(lambda: model.predict_proba(rows), "predict_proba"))
            if told.shape != (rows.shape[0], 2):
                raise EstimatorError(
                    f"{self.name}: predict_proba: want shape {(rows.shape[0], 2)}, got {told.shape}"
                )
            return told[:, 1].astype(np.float64)

        ignored = weight is not None and not takes_weight
        return Classifier(scores, "its fit takes no sample_weight: all alike" if ignored else "")

    def digest(self) -> str:
        """Of its class, its settings and the code that it is in."""
        kind = type(self.estimator)
        # Where an object lies is no part of what it is.
        settings = re.sub(r" at 0x[0-9a-f]+", "", repr(sorted(self.estimator.get_params().items())))
        whole = sha256(f"{kind.__qualname__} {settings}".encode())
        with suppress(OSError, TypeError):
            whole.update(inspect.getsource(sys.modules[kind.__module__]).encode())
        return whole.hexdigest()

    def _try(self, work: Any, what: str) -> Any:
        try:
            return work()
        except Exception as error:
            # The message itself may quote data.
            raise EstimatorError(f"{self.name}: {what} raised {type(error).__name__}") from error


def _seeded(parameters: Mapping[str, Any], seed: int, threads: int | None) -> dict[str, Any]:
    """Seeds, and threads where they were asked for; also of a pipeline's steps."""
    given: dict[str, Any] = {}
    for name, value in parameters.items():
        end = name.split("__")[-1]
        if end == "random_state":
            given[name] = seed
        elif end == "n_jobs" and value is not None:
            given[name] = threads
    return given


def from_estimator(name: str, estimator: Any) -> Own:
    """A model of this name; raises `UsageError` if it is no classifier with probabilities."""
    for method in ("fit", "predict_proba", "get_params"):
        if not hasattr(estimator, method):
            raise UsageError(
                f"{name} has no {method}: want a scikit-learn classifier with predict_proba"
            )
    return Own(name, estimator)


def estimator_at(name: str) -> Own:
    """The estimator that `package.module:name` is, or makes when it is called without arguments.

    Modules are looked for on Python's path, then in the working folder. Importing runs the module,
    as the user asks for by naming it. Raises `UsageError` if there is nothing there.
    """
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(import_module(module), attribute)
        made = found() if isinstance(found, type) or not hasattr(found, "fit") else found
    except Exception as error:
        raise UsageError(
            f"{name}: {type(error).__name__}: {error}; want package.module:estimator, here or on "
            "Python's path, an instance or what makes one without arguments"
        ) from None
    return from_estimator(name, made)
