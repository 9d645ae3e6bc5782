"""TrainingSet: what a classifier learns from, and how much each visit counts.

Most balancing methods change the data and return a Cohort. Two leave the data alone and change how
they are learned from: they return this instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from equipoise import store
from equipoise.cohort import Cohort
from equipoise.errors import DataError


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """A cohort and how classifiers learn from it.

    weights: (N,) how much each visit counts, finite and not negative; None: all alike.
    apart: group columns; each of their (crossed) groups gets a classifier of its own. Empty: one
    for all.
    """

    cohort: Cohort
    weights: npt.NDArray[np.float64] | None = None
    apart: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.cohort.check_groups(self.apart)
        if self.weights is None:
            return
        visits = len(self.cohort.visits)
        if len(self.weights) != visits:
            raise DataError(
                table="training set",
                column="weights",
                want=f"{visits}, one a visit",
                got=f"{len(self.weights)}",
            )
        if not (np.isfinite(self.weights).all() and (self.weights >= 0).all()):
            raise DataError(
                table="training set", column="weights", want="finite numbers from 0", got="others"
            )

    @staticmethod
    def of(balanced: Cohort | TrainingSet) -> TrainingSet:
        """`balanced` itself, or the cohort with all visits counting alike in one classifier."""
        return balanced if isinstance(balanced, TrainingSet) else TrainingSet(balanced)

    def save(self, out: Path) -> None:
        """Write the cohort and how it is learned from as a folder."""
        with store.writing(out, "training-set", config={"apart": list(self.apart)}) as folder:
            self.cohort.save(folder / "cohort")
            if self.weights is not None:
                np.save(folder / _WEIGHTS, self.weights, allow_pickle=False)

    @staticmethod
    def load(folder: Path) -> TrainingSet:
        """Read what `save` wrote; raises `DataError` if it is not whole."""
        manifest = store.read_manifest(folder, "training-set")
        weights = folder / _WEIGHTS
        return TrainingSet(
            Cohort.load(folder / "cohort"),
            store.read_array(weights) if weights.exists() else None,
            tuple(manifest["config"]["apart"]),
        )


_WEIGHTS: Final = "weights.npy"
