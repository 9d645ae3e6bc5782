"""FairPlaySampler: balancing for anyone with a plain matrix, in imbalanced-learn's manner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl
from imblearn.over_sampling.base import BaseOverSampler
from scipy import sparse
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval

from equipoise import schema
from equipoise.balance.plan import REAL, SMALL, SYNTHETIC, TARGET, BalancePlan, plan_cells
from equipoise.cohort import Cohort
from equipoise.generator.config import GeneratorConfig
from equipoise.ragged import offsets_of
from equipoise.vocabulary import Vocabulary

#: The group column that says the class where there are more than two.
_CLASS = "class"
Floats = npt.NDArray[np.float64]


class FairPlaySampler(BaseOverSampler):  # type: ignore[misc]
    """Fill up small (class x group) cells with rows from a conditional generator (FairPlay).

    Each row of X is a patient with one visit. Columns of 0 and 1 are codes. Of any other column the
    deciles of the values that are not 0 are generated, and a value is drawn among the real ones of
    the decile; 0 is "not there". CSR in, CSR out; also dense arrays, lists and DataFrames.

    Parameters
    ----------
    sampling_strategy : as of imbalanced-learn's over-samplers. With sensitive features only "auto":
        every cell of class and groups that occurs is filled up to the largest.
    ratio : the share of what is missing that is filled, from 0 to 1 (FairPlay's ablation).
    random_state : the same integer and input give the same rows.
    sensitive_features : places of the columns of X that are groups, for use within a pipeline; they
        are kept as they are. Else pass `sensitive_features` to `fit_resample`: n names, or a frame
        (or array) of several columns, whose crossed values are the groups.
    config : a `GeneratorConfig`, or None to choose by the size of the data.

    Attributes
    ----------
    synthetic_ : (rows,) bool, which of the resampled rows were generated; they come last.
    sensitive_features_ : (rows, attributes) the groups of the resampled rows, or None.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseOverSampler._parameter_constraints,
        "ratio": [Interval(Real, 0, 1, closed="both")],
        "sensitive_features": ["array-like", None],
        "config": [GeneratorConfig, None],
    }

    def __init__(
        self,
        *,
        sampling_strategy: Any = "auto",
        ratio: float = 1.0,
        random_state: Any = None,
        sensitive_features: Sequence[int] | None = None,
        config: GeneratorConfig | None = None,
    ) -> None:
        super().__init__(sampling_strategy=sampling_strategy)
        self.ratio = ratio
        self.random_state = random_state
        self.sensitive_features = sensitive_features
        self.config = config

    def _fit_resample(
        self, X: Any, y: npt.NDArray[Any], sensitive_features: Any = None
    ) -> tuple[Any, npt.NDArray[Any]]:
        rows = sparse.csr_array(X)
        groups = self._groups(rows, sensitive_features)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        people = _People.of(y, groups)
        plan = people.plan(self._missing(people))
        kept = [] if self.sensitive_features is None else [*self.sensitive_features]
        columns = _Columns.of(rows, kept)
        new, who = np.empty((0, rows.shape[1])), people.frame.clear()
        if plan.synthetic:
            new, who = _generate(columns, people, plan, seed, self.config)
        values = _group_values(who)
        for place, column in enumerate(kept):
            new[:, column] = values[:, place].astype(new.dtype)
        self.synthetic_ = np.repeat([False, True], [rows.shape[0], len(new)])
        self.sensitive_features_ = None
        if groups is not None:
            self.sensitive_features_ = np.concatenate([groups, values])
        made = people.classes[_class_places(who, people)] if len(who) else y[:0]
        return _stacked(X, new), np.concatenate([y, made.astype(y.dtype)])

    def _groups(self, rows: sparse.csr_array, given: Any) -> npt.NDArray[Any] | None:
        """(n, attributes) names of the groups, or None."""
        if self.sensitive_features is not None:
            if given is not None:
                raise ValueError("sensitive_features are given twice: as parameter and to fit")
            given = rows[:, [*self.sensitive_features]].toarray()
            return np.asarray(given.astype(str), dtype=object)
        if given is None:
            return None
        groups = np.asarray(given, dtype=object)
        groups = groups.reshape(len(groups), -1)
        if len(groups) != rows.shape[0]:
            raise ValueError(
                f"sensitive_features: want {rows.shape[0]} rows as in X, got {len(groups)}"
            )
        return np.asarray(groups.astype(str), dtype=object)

    def _missing(self, people: _People) -> npt.NDArray[np.int64]:
        """How many rows each cell gets."""
        if not people.by_groups:
            wanted = [self.sampling_strategy_.get(name, 0) for name in people.cell_classes()]
            return np.rint(np.array(wanted) * self.ratio).astype(np.int64)
        if self.sampling_strategy != "auto":
            raise ValueError(
                "sampling_strategy: with sensitive features want 'auto', got "
                f"{self.sampling_strategy!r}; use ratio to fill the cells in part"
            )
        counted = people.cells.select(schema.LABEL, *people.by, REAL)
        return plan_cells(counted, people.by, ratio=self.ratio).cells[SYNTHETIC].to_numpy()


@dataclass(frozen=True, eq=False)
class _People:
    """The rows as subjects: label is "of the rarest class", groups are the class and the user's.

    frame: n rows of `label` and `by`. cells: those that occur, in the order of a plan.
    """

    frame: pl.DataFrame
    by: tuple[str, ...]
    classes: npt.NDArray[Any]
    rarest: int
    by_groups: bool

    @staticmethod
    def of(y: npt.NDArray[Any], groups: npt.NDArray[Any] | None) -> _People:
        classes, place, counts = np.unique(y, return_inverse=True, return_counts=True)
        rarest = int(np.argmin(counts))
        columns: dict[str, Any] = {schema.LABEL: place == rarest}
        if len(classes) > 2:
            columns[_CLASS] = place.astype(str)
        if groups is not None:
            columns |= {f"group{i}": groups[:, i].astype(str) for i in range(groups.shape[1])}
        frame = pl.DataFrame(columns)
        by = tuple(name for name in columns if name != schema.LABEL)
        return _People(frame, by, classes, rarest, groups is not None)

    @property
    def cells(self) -> pl.DataFrame:
        keys = [schema.LABEL, *self.by]
        return self.frame.group_by(keys).agg(pl.len().cast(pl.Int64).alias(REAL)).sort(keys)

    def cell_classes(self) -> list[Any]:
        return [self.classes[place] for place in _class_places(self.cells, self)]

    def plan(self, missing: npt.NDArray[np.int64]) -> BalancePlan:
        cells = self.cells.with_columns(
            pl.Series(SYNTHETIC, missing, pl.Int64), pl.lit(value=False).alias(SMALL)
        )
        target = (pl.col(REAL) + pl.col(SYNTHETIC)).alias(TARGET)
        order = (schema.LABEL, *self.by, REAL, TARGET, SYNTHETIC, SMALL)
        return BalancePlan(cells.with_columns(target).select(order), self.by)


@dataclass(frozen=True, eq=False)
class _Columns:
    """What the columns of a matrix become for the generator, and back.

    X: (n, V) CSR of ones. column, bin (V,): where each comes from; bin -1 is a code of 0 and 1.
    values: for each column that is binned its values that are not 0, ascending, and where each bin
    of them begins and ends.
    """

    X: sparse.csr_array
    width: int
    column: npt.NDArray[np.int64]
    values: dict[int, tuple[Floats, npt.NDArray[np.int64]]]

    @staticmethod
    def of(rows: sparse.csr_array, kept: Sequence[int]) -> _Columns:
        """Codes as they are, others cut at the deciles of their values; `kept` ones left out."""
        whole = rows.tocsc()
        parts, column, values = [], [], {}
        for j in range(whole.shape[1]):
            data = whole[:, [j]].toarray().ravel().astype(np.float64)
            if j in kept:
                continue
            if np.isin(data, (0, 1)).all():
                parts.append(data[:, None] != 0)
                column.append([j])
                continue
            there = np.sort(data[data != 0])
            cuts = np.unique(np.quantile(there, np.arange(1, 10) / 10))
            values[j] = there, np.r_[0, np.searchsorted(there, cuts), len(there)]
            bins = np.searchsorted(cuts, data, side="right")
            parts.append((bins[:, None] == np.arange(len(cuts) + 1)) & (data != 0)[:, None])
            column.append([j] * (len(cuts) + 1))
        blocks = [sparse.csr_array(part.astype(np.float32)) for part in parts]
        X = sparse.csr_array(sparse.hstack(blocks, format="csr"))
        X.sort_indices()
        return _Columns(X, whole.shape[1], np.concatenate(column).astype(np.int64), values)

    def decode(self, X: sparse.csr_array, rng: np.random.Generator) -> Floats:
        """(m, width) values of generated rows of ones; of two bins of a column the lower counts."""
        out = np.zeros((X.shape[0], self.width))
        whole = X.toarray() != 0
        for j in range(self.width):
            mine = np.flatnonzero(self.column == j)
            if not len(mine):
                continue
            if j not in self.values:
                out[:, j] = whole[:, mine[0]]
                continue
            there, ends = self.values[j]
            found, bin_ = whole[:, mine].any(axis=1), whole[:, mine].argmax(axis=1)
            low, high = ends[bin_], ends[bin_ + 1]
            if len(there) == self.X.shape[0]:
                # Never 0 in the data: a row that has no bin gets any of the values.
                low, high = np.where(found, low, 0), np.where(found, high, len(there))
                found = np.ones_like(found)
            place = low + np.floor(rng.random(len(low)) * np.maximum(high - low, 1)).astype(int)
            out[:, j] = np.where(found, there[np.minimum(place, len(there) - 1)], 0)
        return out


def _generate(
    columns: _Columns,
    people: _People,
    plan: BalancePlan,
    seed: int,
    config: GeneratorConfig | None,
) -> tuple[Floats, pl.DataFrame]:
    """The rows that the plan asks for, and who they are."""
    # Imported here: it brings JAX.
    from equipoise.generator import sample, train_generator

    train = _cohort(columns.X, people.frame)
    config = replace(config or GeneratorConfig.for_cohort(train), max_visits=1)
    generator = train_generator(train, people.by, seed, config=config)
    made = sample(generator, plan, seed)
    X = made.matrix()[made.visit_offsets[:-1]]
    new = columns.decode(X, np.random.default_rng(seed))
    return new, made.subjects.select(people.frame.columns)


def _cohort(X: sparse.csr_array, frame: pl.DataFrame) -> Cohort:
    """Each row a subject with one visit."""
    number = pl.int_range(pl.len(), dtype=pl.Int64)
    ids = np.arange(X.shape[0], dtype=np.int64)
    codes = [f"c{j}" for j in range(X.shape[1])]
    return Cohort(
        subjects=frame.with_columns(
            number.alias(schema.SUBJECT_ID),
            pl.lit(schema.TRAIN).alias(schema.SPLIT),
            pl.lit(value=False).alias(schema.SYNTHETIC),
        ),
        visits=frame.select(number.alias(schema.VISIT_ID), schema.LABEL),
        visit_offsets=offsets_of(np.ones(len(ids), np.int64)),
        code_offsets=X.indptr.astype(np.int64),
        codes=X.indices.astype(np.int32),
        vocabulary=Vocabulary.of_codes(codes),
    )


def _class_places(frame: pl.DataFrame, people: _People) -> npt.NDArray[np.int64]:
    """The place of each row's class among all."""
    if _CLASS in frame.columns:
        return frame[_CLASS].cast(pl.Int64).to_numpy()
    others = 1 - people.rarest
    return np.where(frame[schema.LABEL].to_numpy(), people.rarest, others)


def _group_values(who: pl.DataFrame) -> npt.NDArray[Any]:
    groups = [name for name in who.columns if name.startswith("group")]
    return who.select(groups).to_numpy().astype(object).reshape(len(who), len(groups))


def _stacked(X: Any, new: Floats) -> Any:
    """X and the new rows below it, in X's own format and type."""
    if not sparse.issparse(X):
        return np.concatenate([X, new.astype(X.dtype)])
    return sparse.vstack([X, sparse.csr_array(new.astype(X.dtype))], format=X.format)
