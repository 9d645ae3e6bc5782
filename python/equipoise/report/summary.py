"""The numbers of the page: what the results hold, means over folds, cells, ledger. No markup."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from equipoise import schema
from equipoise.evaluate.benefit import FEWEST_POSITIVES
from equipoise.evaluate.fairness import BY_SELECTION
from equipoise.evaluate.over_models import MEAN_OF_MODELS, over_models
from equipoise.report.words import (
    CORRECTED,
    FAIRNESS,
    GROUP_TUNED,
    HALF,
    METRICS,
    ORACLE,
    ORIGINAL,
    OVERALL,
    RATES,
    TUNED,
)

if TYPE_CHECKING:
    from equipoise.evaluate.results import Results

#: From this many groups on, tables and figures by group are folded away.
MANY = 12


@dataclass(frozen=True)
class Value:
    """A mean over the folds where it could be estimated, or why there is none.

    spread: sd / sqrt(k) over those k = `folds` folds (descriptive), None for a single fold.
    of: all folds; points: the value in each estimable fold.
    """

    mean: float | None = None
    spread: float | None = None
    folds: int = 0
    of: int = 0
    points: tuple[float, ...] = ()
    reason: str | None = "missing"


@dataclass(frozen=True)
class Gain:
    """One part of a gain with its paired interval, or why there is none.

    p: two-sided, of no gain; corrected by Holm where there are several groups.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str | None = "missing"
    p: float | None = None

    @property
    def told(self) -> str:
        """Where the interval lies: "above", "below", "zero" (spans it), or "" without one."""
        if self.value is None or self.low is None or self.high is None:
            return ""
        return "above" if self.low > 0 else "below" if self.high < 0 else "zero"


@dataclass(frozen=True)
class Outline:
    """What there is to show, in the order in which the page shows it.

    focus: the balancing method the page is about, None if only the original was run.
    groups: for every `by`, overall first, its groups by size.
    sizes: (test rows, positives) of (by, group), summed over folds.
    series: methods at 0.5 and at the tuned threshold; further: under the two other controls.
    """

    methods: tuple[str, ...]
    models: tuple[str, ...]
    folds: int
    focus: str | None
    generates: bool
    groups: dict[str, tuple[str, ...]]
    sizes: dict[tuple[str, str], tuple[int, int]]
    series: tuple[tuple[str, str], ...]
    further: tuple[tuple[str, str], ...]
    metrics: tuple[str, ...]
    fairness: tuple[str, ...]

    @property
    def balancing(self) -> tuple[str, ...]:
        """The methods other than the original."""
        return tuple(method for method in self.methods if method != ORIGINAL)

    @property
    def shown(self) -> tuple[str, ...]:
        """The models, and before them their mean, if there are several."""
        return (MEAN_OF_MODELS, *self.models) if len(self.models) > 1 else self.models

    @property
    def sections(self) -> tuple[str, ...]:
        """Every `by` but overall, single features before their intersections."""
        names = [name for name in self.groups if name != OVERALL]
        return tuple(sorted(names, key=lambda name: name.count("×")))


@dataclass(frozen=True)
class Cell:
    """Training subjects of one cell, as a mean over folds; `before` is the original's count.

    copies: further rows of the same real subjects, as resampling makes them.
    """

    group: str
    label: bool | None
    real: float
    copies: float
    synthetic: float
    before: float


@dataclass(frozen=True)
class Totals:
    """One method's training set over all cells, as a mean over folds."""

    method: str
    real: float
    copies: float
    synthetic: float
    positive: float
    visits: float
    positive_visits: float


def outline_of(results: Results) -> Outline:
    """Read off what the results hold."""
    metrics, fairness = results.metrics, results.fairness
    methods = _ordered(results.methods)
    balancing = [method for method in methods if method != ORIGINAL]
    made = results.cells.filter(pl.col("synthetic") > 0)["method"].unique().to_list()
    focus = _focus(balancing, made)
    arms = set(metrics.select("method", "threshold").unique().iter_rows())
    series, further = (
        tuple((m, cut) for m in methods for cut in cuts if (m, cut) in arms)
        for cuts in ((HALF, TUNED), (GROUP_TUNED, CORRECTED))
    )
    sizes = _sizes(metrics)
    groups: dict[str, list[str]] = {OVERALL: []}
    for by, group in sorted(sizes, key=lambda key: (-sizes[key][0], key[1])):
        groups.setdefault(by, []).append(group)
    order = [OVERALL, *(by for by in _unique(metrics, "by") if by != OVERALL)]
    return Outline(
        methods=tuple(methods),
        models=tuple(results.models),
        folds=results.folds,
        focus=focus,
        generates=focus in made and focus != ORACLE,
        groups={by: tuple(groups[by]) for by in order},
        sizes=sizes,
        series=series,
        further=further,
        metrics=tuple(_known_first(METRICS, _unique(metrics, "metric"))),
        fairness=tuple(_known_first(FAIRNESS, _unique(fairness, "metric"))),
    )


def _focus(balancing: list[str], made: list[str]) -> str | None:
    """The method that the verdict is about; the oracle, a ceiling, only where it is alone."""
    own = [method for method in balancing if method.split("@")[0] == "fairplay"]
    rivals = [method for method in balancing if method != ORACLE]
    makers = [method for method in rivals if method in made]
    return next(iter(own or makers or rivals[::-1] or balancing), None)


def with_mean(frame: pl.DataFrame) -> pl.DataFrame:
    """`metrics` or `fairness`, and the rows of the mean of models if there are several models."""
    if frame["model"].n_unique() < 2:
        return frame
    return pl.concat([over_models(frame), frame])


def means_of(frame: pl.DataFrame, keys: Sequence[str]) -> dict[tuple[Any, ...], Value]:
    """`Value` of every combination of `keys`, from a frame with one row per fold of them."""
    usable = (pl.col("status") == "ok") & pl.col("value").is_finite().fill_null(value=False)
    rows = (
        frame.sort("fold", maintain_order=True)
        .with_columns(usable.fill_null(value=False).alias("usable"))
        .group_by(*keys, maintain_order=True)
        .agg(
            pl.col("value").filter("usable").alias("points"),
            pl.col("fold").n_unique().alias("of"),
            pl.col("status").filter(~pl.col("usable")).alias("reasons"),
        )
    )
    return {
        tuple(row[key] for key in keys): _value(row["points"], row["of"], row["reasons"])
        for row in rows.iter_rows(named=True)
    }


def metric_means(metrics: pl.DataFrame, outline: Outline) -> dict[tuple[Any, ...], Value]:
    """Means of all metrics by (model, method, threshold, by, group, metric).

    A fold knows only its own visits. What rests on fewer than 10 positive visits in all folds
    together is not estimable here either, as it is in the gains.
    """
    keys = ["model", "method", "threshold", "by", "group", "metric"]
    means = means_of(metrics, keys)
    for key, value in means.items():
        few = outline.sizes[key[3], key[4]][1] < FEWEST_POSITIVES
        if few and value.mean is not None and key[5] not in RATES:
            means[key] = Value(of=value.of, reason="too_few")
    return means


def fairness_means(fairness: pl.DataFrame, outline: Outline) -> dict[tuple[Any, ...], Value]:
    """Means by (model, method, threshold, by, metric); not estimable as in `metric_means`.

    A comparison of groups takes two with 10 positive visits.
    """
    means = means_of(fairness, ["model", "method", "threshold", "by", "metric"])
    positives: dict[str, list[int]] = {}
    for (by, _), (_, of_group) in outline.sizes.items():
        positives.setdefault(by, []).append(of_group)
    few = {by for by, of in positives.items() if sorted(of)[-2:][0] < FEWEST_POSITIVES}
    for key, value in means.items():
        if key[3] in few and value.mean is not None and key[4] not in BY_SELECTION:
            means[key] = Value(of=value.of, reason="too_few")
    return means


def gains_of(frame: pl.DataFrame) -> dict[tuple[str, ...], Gain]:
    """`Gain` by (model, method, by, group, metric, part); overall has the group "overall"."""
    gains: dict[tuple[str, ...], Gain] = {}
    for row in frame.iter_rows(named=True):
        group = OVERALL if row["by"] == OVERALL else row["group"]
        key = (row["model"], row["method"], row["by"], group, row["metric"], row["part"])
        value, low, high = (_finite(row[name]) for name in ("value", "low", "high"))
        if row["status"] != "ok" or value is None:
            gains[key] = Gain(reason="undefined" if row["status"] == "ok" else row["status"])
        else:
            gains[key] = Gain(value, low, high, None, _finite(row["p_holm"]))
    return gains


def cells_of(results: Results) -> dict[str, list[Cell]]:
    """Per method its cells, groups by their number of real subjects in the original data."""
    folds = max(results.folds, 1)
    names = [pl.col(name).fill_null("unknown") for name in results.by]
    group = pl.concat_str(names, separator=" × ") if names else pl.lit("all")
    rows = (
        results.cells.with_columns(group.alias("group"))
        .group_by("method", "group", "label", maintain_order=True)
        .agg(pl.col("subjects", "copies", "synthetic").sum() / folds)
    )
    before = {
        (row["group"], row["label"]): row["subjects"]
        for row in rows.filter(method=ORIGINAL).iter_rows(named=True)
    }
    size: dict[str, float] = {}
    for (name, _), subjects in before.items():
        size[name] = size.get(name, 0.0) + subjects
    found: dict[str, list[Cell]] = {method: [] for method in _ordered(results.methods)}
    for row in rows.iter_rows(named=True):
        key = (row["group"], row["label"])
        counts = row["subjects"], row["copies"], row["synthetic"]
        found[row["method"]].append(Cell(*key, *counts, before.get(key, 0.0)))
    for cells in found.values():
        cells.sort(key=lambda cell: (-size.get(cell.group, 0), cell.group, cell.label is not True))
    return found


def totals_of(results: Results) -> list[Totals]:
    """Each method's training set over all cells, as a mean over folds."""
    rows = pl.col("subjects") + pl.col("copies") + pl.col("synthetic")
    columns = (
        *(pl.col(name) for name in ("subjects", "copies", "synthetic")),
        rows.filter("label"),
        *(pl.col(name) for name in ("visits", "positive_visits")),
    )
    found = []
    for method in _ordered(results.methods):
        sums = results.cells.filter(method=method).select(
            (column.sum() / max(results.folds, 1)).alias(str(place))
            for place, column in enumerate(columns)
        )
        found.append(Totals(method, *sums.row(0)))
    return found


@dataclass(frozen=True)
class Outcome:
    """What became of some rows of a table."""

    name: str
    rows: int


@dataclass(frozen=True)
class LedgerTable:
    """A table's rows: read, used, and dropped for each reason."""

    name: str
    read: int
    used: int
    dropped: tuple[Outcome, ...]


def ledger_of(ledger: pl.DataFrame) -> list[LedgerTable]:
    """The ledger table by table, the commonest reason first."""
    tables = []
    for name in _unique(ledger, "table"):
        rows = (
            ledger.filter(table=name)
            .group_by("outcome", maintain_order=True)
            .agg(pl.col("rows").sum())
        )
        outcomes = [Outcome(*row) for row in rows.select("outcome", "rows").iter_rows()]
        dropped = sorted(
            (outcome for outcome in outcomes if outcome.name != schema.USED),
            key=lambda outcome: (-outcome.rows, outcome.name),
        )
        read = sum(outcome.rows for outcome in outcomes)
        used = read - sum(outcome.rows for outcome in dropped)
        tables.append(LedgerTable(name, read, used, tuple(dropped)))
    return tables


def _value(points: list[float], of: int, reasons: list[str | None]) -> Value:
    k = len(points)
    # The commonest reason speaks for all; ties go to the alphabet, so that the page is stable.
    names = sorted(name if name and name != "ok" else "undefined" for name in reasons)
    reason = max(names, key=names.count) if names else None
    if not k:
        return Value(of=of, reason=reason)
    mean = math.fsum(points) / k
    spread = None
    if k > 1:
        spread = math.sqrt(math.fsum((p - mean) ** 2 for p in points) / (k - 1) / k)
    return Value(mean, spread, k, of, tuple(points), reason)


def _sizes(metrics: pl.DataFrame) -> dict[tuple[str, str], tuple[int, int]]:
    # Every method, model, threshold and metric repeats the same rows: take one of each fold.
    once = metrics.unique(["fold", "by", "group"], keep="first", maintain_order=True)
    sums = once.group_by("by", "group", maintain_order=True).agg(pl.col("n", "positives").sum())
    return {(row[0], row[1]): (row[2], row[3]) for row in sums.iter_rows()}


def _unique(frame: pl.DataFrame, column: str) -> list[str]:
    return frame[column].drop_nulls().unique(maintain_order=True).to_list()


def _ordered(methods: Iterable[str]) -> list[str]:
    return sorted(dict.fromkeys(methods), key=lambda method: method != ORIGINAL)


def _known_first(known: Iterable[str], names: Iterable[str]) -> list[str]:
    order = {name: place for place, name in enumerate(known)}
    return sorted(names, key=lambda name: (order.get(name, len(order)), name))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
