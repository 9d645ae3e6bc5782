"""Fidelity: whether synthetic visits hold what real ones hold, as often and in as many visits.

The probabilities of codes, of pairs within a visit and of sequential pairs are those of HALO
(Theodorou et al., Nat. Commun. 14:5305, 2023), counted per visit, and so is R2: sklearn's
`r2_score(real, synthetic)`, which an offset or a slope lowers, not a squared correlation. Even a
perfect generator stays below 1, for a real sample differs from another one by chance: hence the
ceiling, which is the same number for real subjects in place of synthetic ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import polars as pl
from sklearn.metrics import r2_score

from equipoise import schema
from equipoise.cohort import Cohort, check_groups
from equipoise.errors import DataError
from equipoise.evaluate.counts import EMPTY, OK, TOO_FEW, UNDEFINED

if TYPE_CHECKING:
    from scipy import sparse

#: In a cell with fewer visits, real or synthetic, chance outweighs what is measured.
FEWEST_VISITS: Final = 500
REAL: Final = "real"
MADE: Final = "synthetic"
_KEY: Final = ("first", "second")

#: What `fidelity` returns, after the columns of the cell.
FIDELITY: Final[Mapping[str, type[pl.DataType]]] = {
    "what": pl.String,
    "keys": pl.Int64,
    "real_visits": pl.Int64,
    "synthetic_visits": pl.Int64,
    "r2": pl.Float64,
    "ceiling": pl.Float64,
    "status": pl.String,
}
#: What `sizes` returns, after the columns of the cell.
SIZES: Final[Mapping[str, type[pl.DataType]]] = {
    "what": pl.String,
    "statistic": pl.String,
    "real": pl.Float64,
    "synthetic": pl.Float64,
    "relative_error": pl.Float64,
    "chance": pl.Float64,
}


def code_probabilities(cohort: Cohort) -> pl.DataFrame:
    """P(j in a visit) = visits with j / N, of every column j that occurs: `first`, `probability`.

    `second` is null: all three functions return the same columns, sorted.
    """
    count = np.bincount(cohort.codes, minlength=len(cohort.vocabulary))
    first = np.flatnonzero(count)
    return _frame(first, None, count[first] / max(len(cohort.visits), 1))


def pair_probabilities(cohort: Cohort) -> pl.DataFrame:
    """P(j and k in a visit) = visits with both / N, of pairs first = j < k = second that occur."""
    x_NV = _counting(cohort)
    return _per_visit(x_NV, x_NV, upper=True)


def sequential_pair_probabilities(cohort: Cohort) -> pl.DataFrame:
    """P(j in a visit, k in the subject's next) of pairs first = j, second = k that occur.

    The share of all pairs of adjacent visits (visits that follow another of the same subject).
    """
    owner = cohort.subject_of_visit()
    later = 1 + np.flatnonzero(owner[1:] == owner[:-1])
    x_NV = _counting(cohort)
    return _per_visit(x_NV[later - 1], x_NV[later], upper=False)


#: What is compared, by name: probabilities as a frame of `first`, `second`, `probability`.
PROBABILITIES: Final[Mapping[str, Callable[[Cohort], pl.DataFrame]]] = MappingProxyType(
    {
        "codes": code_probabilities,
        "pairs": pair_probabilities,
        "sequential_pairs": sequential_pair_probabilities,
    }
)


def matched(real: pl.DataFrame, synthetic: pl.DataFrame) -> pl.DataFrame:
    """Two frames of probabilities as one: `first`, `second`, `real`, `synthetic`.

    A key that occurs in one of them only has probability 0 in the other; one of neither is absent.
    """
    both = real.join(
        synthetic, on=_KEY, how="full", coalesce=True, nulls_equal=True, suffix=f"_{MADE}"
    )
    named = both.rename({"probability": REAL, f"probability_{MADE}": MADE})
    return named.with_columns(pl.col(REAL, MADE).fill_null(0.0)).sort(_KEY)


def r2(both: pl.DataFrame) -> float:
    """R2 = 1 - sum (real - synthetic)^2 / sum (real - mean real)^2 over the rows of `matched`.

    NaN if no two real probabilities differ.
    """
    if both[REAL].n_unique() < 2:
        return float("nan")
    return float(r2_score(both[REAL].to_numpy(), both[MADE].to_numpy()))


def fidelity(
    real: Cohort,
    synthetic: Cohort,
    *,
    train: Cohort | None = None,
    by: Sequence[str] | None = None,
    fewest: int = FEWEST_VISITS,
) -> pl.DataFrame:
    """R2 of all `PROBABILITIES`: a frame of `FIDELITY`.

    `real` are held-out subjects. `ceiling` is the R2 of the real `train` against them, NaN without
    it. With `by` (it may be empty) the rows are of (label x groups) cells, whose columns come
    first, and a cell with fewer than `fewest` visits on either side is "too_few", its values NaN;
    without `by` all visits are one. Raises `DataError` for another vocabulary or an unknown group.
    """
    _check(real, synthetic, train)
    rows = []
    for cell, parts in _cells([real, synthetic, *([train] if train else [])], by):
        enough = by is None or min(len(part.visits) for part in parts[:2]) >= fewest
        rows += [(*cell, *row) for row in _judge(parts, enough=enough)]
    return _table(rows, by, FIDELITY)


def sizes(
    real: Cohort, synthetic: Cohort, *, train: Cohort | None = None, by: Sequence[str] | None = None
) -> pl.DataFrame:
    """Mean and standard deviation of visits per subject and codes per visit: a frame of `SIZES`.

    `relative_error` is synthetic / real - 1, and `chance` the same of the real `train`. Cells and
    errors raised are those of `fidelity`; what has no subject (or no visit) is NaN, and so is an
    error relative to 0.
    """
    _check(real, synthetic, train)
    rows = []
    for cell, parts in _cells([real, synthetic, *([train] if train else [])], by):
        for what, of in (("visits per subject", _visits), ("codes per visit", _codes)):
            for name, statistic in (("mean", np.mean), ("sd", np.std)):
                a, b, *c = (float(statistic(x)) if x.size else np.nan for x in map(of, parts))
                errors = [x / a - 1 if a else np.nan for x in (b, *c)]
                rows.append((*cell, what, name, a, b, *[*errors, np.nan][:2]))
    return _table(rows, by, SIZES)


def _judge(parts: list[Cohort], *, enough: bool) -> Iterator[tuple[object, ...]]:
    visits = [len(part.visits) for part in parts[:2]]
    for what, probabilities in PROBABILITIES.items():
        if not enough:
            yield (what, None, *visits, np.nan, np.nan, TOO_FEW)
            continue
        real, *others = map(probabilities, parts)
        both = [matched(real, other) for other in others]
        values = [*map(r2, both), np.nan][:2]
        status = OK if np.isfinite(values[0]) else UNDEFINED if len(both[0]) else EMPTY
        yield (what, len(both[0]), *visits, *values, status)


def _cells(
    cohorts: list[Cohort], by: Sequence[str] | None
) -> Iterator[tuple[tuple[object, ...], list[Cohort]]]:
    """Each cell's label and groups, and those subjects of each cohort; cells of the first only."""
    if by is None:
        yield (), cohorts
        return
    keys = [schema.LABEL, *by]
    for cohort in cohorts:
        check_groups(cohort.subjects, by)
    for cell in cohorts[0].subjects.select(keys).drop_nulls().unique().sort(keys).iter_rows():
        alike = pl.all_horizontal(
            pl.col(key) == value for key, value in zip(keys, cell, strict=True)
        )
        chosen = [c.subjects.select(alike.fill_null(value=False)).to_series() for c in cohorts]
        yield cell, [cohort.filter(keep) for cohort, keep in zip(cohorts, chosen, strict=True)]


def _check(real: Cohort, synthetic: Cohort, train: Cohort | None) -> None:
    for name, other in (("synthetic", synthetic), ("train", train)):
        if other is not None and not real.vocabulary.equals(other.vocabulary):
            raise DataError(table=name, want="the vocabulary of the real cohort", got="another")


def _table(
    rows: list[tuple[object, ...]],
    by: Sequence[str] | None,
    columns: Mapping[str, type[pl.DataType]],
) -> pl.DataFrame:
    cell = {} if by is None else {schema.LABEL: pl.Boolean, **dict.fromkeys(by, pl.String)}
    return pl.DataFrame(rows, schema={**cell, **columns}, orient="row")


def _counting(cohort: Cohort) -> sparse.csr_array:
    """The visits (N, V) with ones that can be summed: float32 is exact only up to 2^24."""
    return cohort.matrix().astype(np.int32)


def _per_visit(x_NV: sparse.csr_array, y_NV: sparse.csr_array, *, upper: bool) -> pl.DataFrame:
    """The share of rows with column j in x and k in y; only j < k if `upper`."""
    from scipy import sparse

    count_VV = x_NV.T @ y_NV
    found = sparse.triu(count_VV, 1, "coo") if upper else count_VV.tocoo()
    return _frame(found.row, found.col, found.data / max(x_NV.shape[0], 1))


def _frame(
    first: npt.NDArray[np.integer],
    second: npt.NDArray[np.integer] | None,
    probability: npt.NDArray[np.float64],
) -> pl.DataFrame:
    none = pl.repeat(None, len(first), dtype=pl.Int32, eager=True)
    columns = {"first": first, "second": none if second is None else second}
    types = {"first": pl.Int32, "second": pl.Int32}
    keys = pl.DataFrame(columns, schema=types)
    return keys.with_columns(pl.Series("probability", probability, pl.Float64)).sort(_KEY)


def _visits(cohort: Cohort) -> npt.NDArray[np.int64]:
    return np.diff(cohort.visit_offsets)


def _codes(cohort: Cohort) -> npt.NDArray[np.int64]:
    return np.diff(cohort.code_offsets)
