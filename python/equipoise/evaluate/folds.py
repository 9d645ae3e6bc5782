"""Folds over subjects: who is learned from, who tunes, and who is held out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

from equipoise import schema
from equipoise.errors import UsageError
from equipoise.evaluate.counts import crossed

Ints = npt.NDArray[np.int64]
#: One in so many of a fold's training subjects chooses thresholds and stops training early.
TUNING_PARTS: Final = 8


@dataclass(frozen=True, eq=False)
class Fold:
    """Places of subjects, ascending, each in exactly one part. `number` counts from 0."""

    number: int
    train: Ints
    tuning: Ints
    held_out: Ints


def strata_of(subjects: pl.DataFrame, by: Sequence[str]) -> Ints:
    """(S,) the number of each subject's stratum, its label and groups; unknown is one of them.

    Numbered label first, so that strata too small to reach every fold still share the positives out
    evenly.
    """
    keys = subjects.select(pl.col(schema.LABEL, *by).cast(pl.String).fill_null(""))
    return crossed(keys).rank("dense").cast(pl.Int64).to_numpy() - 1


def make_folds(
    strata: npt.NDArray[np.integer] | npt.NDArray[np.bool_],
    folds: int = 5,
    seed: int = 0,
    *,
    keep_together: npt.NDArray[np.generic] | None = None,
) -> list[Fold]:
    """Folds over the (S,) subjects, stratified as far as the strata reach (see `strata_of`).

    Every subject is held out once. One in eight of the others is the fold's tuning part.
    `keep_together` (S,) holds ids of persons (or hospitals) whose subjects stay in one part.

    Raises `UsageError` for fewer than two folds or fewer subjects (or ids) than folds.
    """
    everyone = np.arange(len(strata), dtype=np.int64)
    units = everyone if keep_together is None else keep_together
    if folds < 2:
        raise UsageError(f"folds: want 2 or more, got {folds}")
    if len(np.unique(units)) < folds:
        raise UsageError(f"folds: want at most {len(np.unique(units))}, one a subject, got {folds}")
    made = []
    for number, held_out in enumerate(_parts(strata, units, folds, seed)):
        rest = np.setdiff1d(everyone, held_out)
        own_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        parts = min(TUNING_PARTS, len(np.unique(units[rest])))
        tuning = rest[:0]
        if parts > 1:
            tuning = rest[_parts(strata[rest], units[rest], parts, own_seed)[0]]
        made.append(Fold(number, np.setdiff1d(rest, tuning), tuning, held_out))
    return made


def _parts(
    strata: npt.NDArray[np.integer] | npt.NDArray[np.bool_],
    units: npt.NDArray[np.generic],
    parts: int,
    seed: int,
) -> list[Ints]:
    """The places of each of `parts` parts: no unit in two of them."""
    together = len(np.unique(units)) < len(units)
    # scikit-learn refuses to stratify where no stratum reaches every part.
    stratified = np.bincount(strata.astype(np.int64)).max() >= parts
    if together:
        kind = StratifiedGroupKFold if stratified else GroupKFold
    else:
        kind = StratifiedKFold if stratified else KFold
    splitter = kind(parts, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # It warns where the rarest does not reach every part: known, and reported as a status.
        warnings.simplefilter("ignore", UserWarning)
        split = list(splitter.split(np.empty((len(strata), 0)), strata, units))
    return [np.sort(part).astype(np.int64) for _, part in split]
