"""FairPlay for scikit-learn: a sampler of imbalanced-learn's kind over plain tables.

Each row of X is one subject with one visit. Letters: n rows of X, p columns, m new rows, V codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import polars as pl
from imblearn.over_sampling.base import BaseOverSampler
from imblearn.utils import check_sampling_strategy, check_target_type
from scipy import sparse
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_feature_names, _check_n_features, validate_data

from equipoise import schema
from equipoise.balance.features import Places, TableFeatures
from equipoise.balance.plan import (
    REAL,
    SMALL,
    SYNTHETIC,
    TARGET,
    BalancePlan,
    cells_of,
    plan_balance,
)
from equipoise.cohort import Cohort
from equipoise.errors import DataError, UsageError
from equipoise.vocabulary import Vocabulary

if TYPE_CHECKING:
    from equipoise.generator.config import GeneratorConfig

#: The group that holds the class: a label is true or false, classes may be more than two.
CLASS: Final = "class"


class FairPlaySampler(BaseOverSampler):  # type: ignore[misc]
    """Fill every observed (class x group) cell up to the largest, with generated rows.

    FairPlay, Theodorou et al. (npj Digital Medicine 8:100, 2025), with this project's generator.
    Columns of 0 and 1 are codes. Any other is cut at its nine inner deciles; its bin is generated,
    and the value drawn among the real ones in that bin. Rows with an unknown group stay, but are
    neither learned from nor balanced.

    sampling_strategy: "auto" or "all" fills the cells of every class; "minority", "not minority"
    and "not majority" those of such classes. A number, a mapping or a function sets the size of
    classes, as in imbalanced-learn, and goes without sensitive features only. ratio: the share of
    what is lacking that is generated. random_state: seeds training, sampling and values.
    config: a `GeneratorConfig`, by default one that suits the data; `max_visits` is always 1.
    leave_small: whether cells of fewer than `min_cell` rows are left alone.
    sensitive_features: names of columns of a DataFrame X, which may hold text: they are groups,
    and copied into the new rows of their cell; not seen as features by the generator.

    After `fit_resample`: `synthetic_`, which rows are generated; `sensitive_features_`, the groups
    of all rows, in the kind that was given, or None; `sampling_strategy_`, new rows by class.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseOverSampler._parameter_constraints,
        "ratio": [Interval(Real, 0, 1, closed="both")],
        "config": "no_validation",  # Its class would bring JAX.
        "leave_small": ["boolean"],
        "min_cell": [Interval(Integral, 0, None, closed="left")],
        "sensitive_features": [str, list, tuple, None],
    }

    def __init__(
        self,
        *,
        sampling_strategy: Any = "auto",
        ratio: float = 1.0,
        random_state: Any = None,
        config: GeneratorConfig | None = None,
        leave_small: bool = False,
        min_cell: int = 5,
        sensitive_features: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__(sampling_strategy=sampling_strategy)
        self.ratio = ratio
        self.random_state = random_state
        self.config = config
        self.leave_small = leave_small
        self.min_cell = min_cell
        self.sensitive_features = sensitive_features

    def fit_resample(self, X: Any, y: Any, sensitive_features: Any = None) -> tuple[Any, Any]:
        """X and y with generated rows after the real ones, in the kind and dtype that were given.

        X: (n, p) array, CSR or CSC, list, polars or pandas frame; y: (n,) two classes or more, or
        (n, classes) of one-vs-all. sensitive_features: (n,) or (n, attributes) groups, all
        attributes crossed; instead of the columns that the constructor names.

        Raises ValueError, and its kind `DataError`, for NaN or infinities, one class only, or
        groups of another length; `UsageError` for a request that makes no sense.
        """
        self._validate_params()
        self._check_config()
        check_classification_targets(y)
        values, classes, one_vs_all = self._check_X_y(X, y)
        groups = self._groups_of(X, sensitive_features)
        rows, donors = self._fit_resample(values, classes, groups)
        places = np.concatenate([np.arange(len(classes)), donors])
        self.synthetic_ = np.arange(len(places)) >= len(classes)
        self.sensitive_features_ = None if groups is None else _take(groups, places)
        labels, made = np.unique(classes[donors], return_counts=True)
        self.sampling_strategy_ = dict(zip(labels.tolist(), made.tolist(), strict=True))
        plain = isinstance(y, np.ndarray) and not one_vs_all
        return self._joined(X, values, rows, donors), _take(classes if plain else y, places)

    def _fit_resample(
        self, X: Any, y: npt.NDArray[Any], groups: Any = None
    ) -> tuple[sparse.csr_array, Places]:
        """(m, p) new rows, and for each a real row of its cell, whose class and groups it has."""
        wanted = check_sampling_strategy(self.sampling_strategy, y, self._sampling_type)
        cohort, features, by = _cohort_of(X, y, _levels_of(groups, len(y)))
        plan = self._plan(cohort, by, np.unique(y), wanted, groups is not None)
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        rng = np.random.default_rng(seed)
        donors = _donors(cohort, plan, rng)
        return features.decode(self._generate(cohort, plan, seed), donors, rng), donors

    def _more_tags(self) -> dict[str, Any]:
        return {"X_types": ["2darray", "sparse", "dataframe"]}

    def _check_config(self) -> None:
        # Imported here: it brings JAX.
        from equipoise.generator.config import GeneratorConfig

        if not isinstance(self.config, GeneratorConfig | None):
            raise UsageError(
                f"config: want a GeneratorConfig or None, got {type(self.config).__name__}"
            )

    def _named(self, X: Any) -> list[str]:
        """The sensitive columns of X; raises `DataError` if X has no such columns."""
        if self.sensitive_features is None:
            return []
        given = self.sensitive_features
        names = [given] if isinstance(given, str) else list(given)
        columns = list(X.columns) if _is_frame(X) else []
        lacking = next((name for name in names if name not in columns), None)
        if lacking is not None:
            raise DataError(
                table="X",
                column=str(lacking),
                want="a DataFrame with this column, which sensitive_features names",
                got="none" if columns else f"a {type(X).__name__}",
            )
        return names

    def _check_X_y(
        self, X: Any, y: Any, accept_sparse: Any = None
    ) -> tuple[Any, npt.NDArray[Any], bool]:
        names = self._named(X)
        y, one_vs_all = check_target_type(y, indicate_one_vs_all=True)
        accepted = accept_sparse or ["csr", "csc"]
        features = _without(X, names) if names else X
        values, y = validate_data(self, X=features, y=y, reset=True, accept_sparse=accepted)
        if names:
            _check_feature_names(self, X, reset=True)
            _check_n_features(self, X, reset=True)
        return values, y, one_vs_all

    def _groups_of(self, X: Any, given: Any) -> Any:
        names = self._named(X)
        if names and given is not None:
            raise UsageError(
                "sensitive_features were given twice: by name to the sampler and to fit_resample"
            )
        return X[names] if names else given

    def _plan(
        self,
        cohort: Cohort,
        by: list[str],
        classes: npt.NDArray[Any],
        wanted: dict[Any, int],
        grouped: bool,
    ) -> BalancePlan:
        plan = plan_balance(
            cohort, by, ratio=self.ratio, min_cell=self.min_cell, leave_small=self.leave_small
        )
        if self.sampling_strategy in ("auto", "all"):
            return plan
        of_cell = [classes[int(level)] for level in plan.cells[CLASS]]
        if isinstance(self.sampling_strategy, str):
            chosen = pl.Series([label in wanted for label in of_cell])
            lacking = plan.cells[SYNTHETIC] * chosen.cast(pl.Int64)
        elif grouped:
            raise UsageError(
                "sampling_strategy: sizes of classes say nothing of the groups within them; with "
                "sensitive_features want 'auto', 'all', 'minority', 'not minority' or "
                "'not majority'"
            )
        else:
            left = plan.cells[SMALL] & self.leave_small
            counts = np.array([wanted.get(label, 0) for label in of_cell])
            counts = np.rint(self.ratio * counts * ~left.to_numpy())
            lacking = pl.Series(counts.astype(np.int64))
        cells = plan.cells.with_columns(
            lacking.alias(SYNTHETIC), (plan.cells[REAL] + lacking).alias(TARGET)
        )
        return replace(plan, cells=cells)

    def _generate(self, cohort: Cohort, plan: BalancePlan, seed: int) -> sparse.csr_array:
        """(m, V) ones of the new rows, cell by cell."""
        if plan.synthetic == 0:
            return cohort.matrix()[:0]
        # Imported here: it brings JAX.
        from equipoise.generator import GeneratorConfig, sample, train_generator

        # A row is one visit, so none is generated with more.
        config = replace(self.config or GeneratorConfig.for_cohort(cohort), max_visits=1)
        generator = train_generator(cohort, plan.by, seed, config=config)
        made = sample(generator, plan, seed)
        return _first_visits(made)

    def _joined(self, X: Any, values: Any, rows: sparse.csr_array, donors: Places) -> Any:
        """X, then the new rows."""
        if sparse.issparse(X):
            real = X if X.format in ("csr", "csc") else values
            new = type(real)(rows.astype(real.dtype))
            # Trees of scikit-learn take int32 only, and one int64 block would widen all.
            new.indices = new.indices.astype(real.indices.dtype)
            new.indptr = new.indptr.astype(real.indptr.dtype)
            return type(real)(sparse.vstack([real, new], format=real.format))
        dense = rows.toarray()
        if isinstance(X, list):
            return X + dense.tolist()
        if not _is_frame(X):
            return np.concatenate([values, dense])
        names = self._named(X)
        features, lent = _without(X, names), _take(X, donors)
        if isinstance(X, pl.DataFrame):
            new = pl.DataFrame(dense, schema=features.columns).cast(dict(features.schema))
            return pl.concat([X, new.with_columns(lent.select(names)).select(X.columns)])
        pandas: Any = import_module("pandas")
        new = pandas.DataFrame(dense, columns=features.columns).astype(features.dtypes)
        new = pandas.concat([new, lent[names]], axis=1)[X.columns]
        return pandas.concat([X, new], ignore_index=True)


def _first_visits(made: Cohort) -> sparse.csr_array:
    """(m, V) ones of each subject's only visit; none for a record that ended before it."""
    visits = np.diff(made.visit_offsets)
    lengths = np.zeros(len(made), np.int64)
    lengths[visits > 0] = np.diff(made.code_offsets)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    shape = (len(made), len(made.vocabulary))
    return sparse.csr_array((np.ones(len(made.codes), np.float32), made.codes, offsets), shape)


def _cohort_of(
    values: Any, classes: npt.NDArray[Any], levels: dict[str, list[str | None]]
) -> tuple[Cohort, TableFeatures, list[str]]:
    """Rows as subjects of one visit; the label is whether the class is the rarest."""
    # A copy, for what was given may share its arrays.
    X = sparse.csc_array(values, copy=True)
    X.sum_duplicates()
    features = TableFeatures.of(X)
    ones = features.encode(X)
    _, number, sizes = np.unique(classes, return_inverse=True, return_counts=True)
    rows = np.arange(len(classes), dtype=np.int64)
    label = pl.Series(number == sizes.argmin())
    subjects = pl.DataFrame({schema.SUBJECT_ID: rows, schema.LABEL: label}).with_columns(
        pl.lit(schema.TRAIN).alias(schema.SPLIT),
        pl.lit(value=False).alias(schema.SYNTHETIC),
        pl.Series(CLASS, number.astype(str).tolist()),
        *(pl.Series(name, level, pl.String) for name, level in levels.items()),
    )
    cohort = Cohort(
        subjects=subjects,
        visits=pl.DataFrame({schema.VISIT_ID: rows, schema.LABEL: label}),
        visit_offsets=np.arange(len(rows) + 1, dtype=np.int64),
        code_offsets=ones.indptr.astype(np.int64),
        codes=ones.indices.astype(np.int32),
        vocabulary=Vocabulary.of_codes([str(code) for code in range(ones.shape[1])], "feature"),
    )
    return cohort, features, [CLASS, *levels]


def _levels_of(groups: Any, rows: int) -> dict[str, list[str | None]]:
    """Each attribute's levels by number, None for an unknown one; raises `DataError`."""
    if groups is None:
        return {}
    if isinstance(groups, pl.DataFrame | pl.Series):
        # Rows, for a matrix of several types would make text of numbers.
        groups = groups.rows() if isinstance(groups, pl.DataFrame) else groups.to_list()
    table = groups.to_numpy(dtype=object) if _is_pandas(groups) else np.array(groups, object)
    if table.ndim not in (1, 2) or len(table) != rows:
        raise DataError(
            table="sensitive_features",
            want=f"{rows} rows, one for each of X, with one or more columns",
            got=f"an array of shape {table.shape}",
        )
    table = table.reshape(rows, -1)
    return {f"attribute {place}": _numbered(column) for place, column in enumerate(table.T)}


def _numbered(column: npt.NDArray[Any]) -> list[str | None]:
    numbers: dict[Any, str] = {}
    return [
        None if _unknown(value) else numbers.setdefault(value, str(len(numbers)))
        for value in column.tolist()
    ]


def _unknown(value: Any) -> bool:
    return value is None or str(value) in ("<NA>", "NaT") or value != value


def _donors(cohort: Cohort, plan: BalancePlan, rng: np.random.Generator) -> Places:
    """(m,) for each new row a real one of its cell, which lends its class and groups."""
    _, place = cells_of(cohort, plan.by)
    drawn = [
        rng.choice(np.flatnonzero(place == cell), count)
        for cell, count in enumerate(plan.cells[SYNTHETIC])
    ]
    return np.concatenate(drawn).astype(np.int64)


def _take(given: Any, places: Places) -> Any:
    """These rows, in the kind of what was given."""
    if _is_pandas(given):
        return given.iloc[places].reset_index(drop=True)
    if isinstance(given, pl.DataFrame | pl.Series):
        return given[places]
    if isinstance(given, list | tuple):
        return [given[place] for place in places]
    return given[places] if sparse.issparse(given) else np.asarray(given)[places]


def _without(frame: Any, names: list[str]) -> Any:
    return frame.drop(names) if isinstance(frame, pl.DataFrame) else frame.drop(columns=names)


def _is_frame(given: Any) -> bool:
    return isinstance(given, pl.DataFrame) or _is_pandas(given)


def _is_pandas(given: Any) -> bool:
    return hasattr(given, "iloc")
