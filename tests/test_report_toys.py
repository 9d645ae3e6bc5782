"""Made-up results of any size for the tests of the report; holds no test itself."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from equipoise.evaluate.judging import CUTS
from equipoise.evaluate.over_models import MEAN_OF_MODELS
from equipoise.evaluate.results import FRAMES, Results

HOSTILE = "<script>alert(1)</script> & $x$"
RACES = ("White", "Black/African American", "Hispanic or Latino", "Asian - South East Asian",
         "Native Hawaiian or Other Pacific Islander", HOSTILE)  # fmt: skip
INSURANCES = ("Medicare", "Medicaid", "Private", "Self-pay", "No charge")
METRICS = ("f1", "auroc", "ap", "brier", "tpr", "fpr", "precision", "selection_rate", "gbe")
FAIRNESS = ("disparate_impact", "theil", "classic_disparate_impact", "performance_variance",
            "demographic_parity_difference", "equality_of_opportunity_difference",
            "equalized_odds_difference")  # fmt: skip
#: Enough to compare, and quick.
SMALL: dict[str, Any] = {"folds": 2, "models": ("xgboost",), "methods": ("original", "fairplay")}
MANIFEST = {
    "kind": "results",
    "equipoise": "0.1.0",
    "seed": 7,
    "config": {"task": "in_hospital_mortality", "by": ["sex", "race"], "folds": 5,
               "generator": {"epochs": 40, "width": 192}},
    "inputs": {"records": "sha256:" + "ab" * 32},
}  # fmt: skip
#: Methods that make new patients.
MAKERS = ("fairplay", "mcrage", "smote", "oracle")


def fake_results(
    subjects: int = 300,
    *,
    by: Sequence[str] = ("sex", "race"),
    folds: int = 5,
    methods: Sequence[str] = ("original", "upsample", "downsample", "fairplay"),
    models: Sequence[str] = ("logistic_regression", "xgboost"),
    estimable: bool = True,
    shift: float = 0.01,
    seed: int = 0,
) -> Results:
    """Results as an experiment leaves them.

    estimable: whether any single group has enough positives. shift: the information part.
    """
    rng = np.random.default_rng(seed)
    people = _people(subjects, rng)
    sections = {"overall": [], **{name: [name] for name in by}}
    if len(by) > 1:
        sections[" × ".join(by)] = list(by)
    predictions, metrics, fairness = [], [], []
    for fold, method, model in itertools.product(range(folds), methods, models):
        test = people.filter(pl.col("subject_id") % folds == fold)
        predictions.append(_predicted(test, fold, method, model, rng))
        for threshold in CUTS:
            arm = {"fold": fold, "method": method, "model": model, "threshold": threshold}
            for name, columns in sections.items():
                metrics += _metric_rows(test, arm, name, columns, estimable, rng)
                if columns:
                    fairness += _fairness_rows(arm, name, estimable, rng)
    gains = _gain_rows(people, methods, models, sections, estimable, shift, rng)
    cells = _cells(people, by, folds, methods)
    frames = {
        "predictions": pl.concat(predictions),
        "tuning": pl.concat(predictions).drop("tuned_threshold"),
        "metrics": pl.DataFrame(metrics, infer_schema_length=None),
        "fairness": pl.DataFrame(fairness, FRAMES["fairness"]),
        "gains": pl.DataFrame(gains, FRAMES["gains"], infer_schema_length=None),
        "cells": cells,
        "training": cells.filter(method=methods[0]).drop("method"),
        "ledger": _ledger(subjects),
    }
    return Results(
        **frames,
        by=tuple(by),
        methods=tuple(methods),
        models=tuple(models),
        folds=folds,
        seed=seed,
        notes=("The majority group of race is White.", f"Group {HOSTILE} is small."),
    )


def _people(subjects: int, rng: np.random.Generator) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "subject_id": np.arange(subjects) + 10000,
            "visit_id": np.arange(subjects) + 20000,
            "label": rng.random(subjects) < 0.1,
            "sex": rng.choice(["F", "M"], subjects),
            "race": rng.choice(RACES, subjects, p=[0.62, 0.18, 0.1, 0.05, 0.02, 0.03]),
            "insurance": rng.choice(INSURANCES, subjects, p=[0.45, 0.2, 0.25, 0.07, 0.03]),
        }
    )


def _predicted(
    test: pl.DataFrame, fold: int, method: str, model: str, rng: np.random.Generator
) -> pl.DataFrame:
    return test.with_columns(
        pl.lit(fold, pl.Int64).alias("fold"),
        pl.lit(method).alias("method"),
        pl.lit(model).alias("model"),
        pl.Series("score", rng.random(len(test))),
        pl.lit(0.22).alias("tuned_threshold"),
    )


def _metric_rows(
    test: pl.DataFrame, arm: dict[str, Any], name: str, columns: list[str], estimable: bool,
    rng: np.random.Generator,
) -> list[dict[str, Any]]:  # fmt: skip
    groups = test.group_by(columns).agg(pl.len(), pl.col("label").sum()).sort(columns).rows() if (
        columns) else [("overall", len(test), test["label"].sum())]  # fmt: skip
    level = 0.16 if arm["method"] == "original" and arm["threshold"] == "0.5" else 0.38
    rows = []
    for *names, n, positives in groups:
        status = "no_positives" if positives == 0 else "too_few" if positives < 3 else "ok"
        if name != "overall" and not estimable:
            status = "too_few"
        for metric in METRICS:
            value = float(np.clip(level + 0.3 * (metric == "auroc") + rng.normal(0, 0.05), 0, 1))
            rows.append(
                arm | {"by": name, "group": " × ".join(names), "metric": metric,
                       "value": value if status == "ok" else float("nan"), "status": status,
                       "n": n, "positives": positives}
            )  # fmt: skip
    return rows


def _fairness_rows(
    arm: dict[str, Any], name: str, estimable: bool, rng: np.random.Generator
) -> list[dict[str, Any]]:
    status = "ok" if estimable else "undefined"
    return [
        arm | {"by": name, "metric": metric, "status": status,
               "value": float(rng.uniform(0, 0.4)) + (metric == "disparate_impact") * 0.6
               if estimable else float("nan")}
        for metric in FAIRNESS
    ]  # fmt: skip


def _gain_rows(
    people: pl.DataFrame, methods: Sequence[str], models: Sequence[str],
    sections: dict[str, list[str]], estimable: bool, shift: float, rng: np.random.Generator,
) -> list[dict[str, Any]]:  # fmt: skip
    rows = []
    arms = [name for name in methods if name != "original"]
    models = [*models, MEAN_OF_MODELS] if len(models) > 1 else models
    for (by, columns), model, method in itertools.product(sections.items(), models, arms):
        groups = [
            (name, positives, ("f1", "auroc", "ap")) for name, positives in _groups(people, columns)
        ]
        if columns:
            groups.append(("overall", people["label"].sum(), FAIRNESS))
        for group, positives, metrics in groups:
            ok = positives >= 10 and (estimable or not columns)
            half = 0.35 / max(positives, 1) ** 0.5
            for metric, (part, middle) in itertools.product(
                metrics,
                (("total", 0.22), ("threshold", 0.21), ("information", shift),
                 ("group_threshold", 0.21), ("group_information", shift), ("corrected", 0.0)),
            ):  # fmt: skip
                if metric in ("auroc", "ap") and part != "information":
                    continue
                value = middle + rng.normal(0, half / 4) * bool(columns)
                rows.append(
                    {"model": model, "method": method, "by": by, "group": group,
                     "metric": metric, "part": part, "value": value if positives else float("nan"),
                     "low": value - half, "high": value + half, "p": 0.03, "p_holm": 0.06,
                     "status": "ok" if ok else "too_few" if positives else "no_positives"}
                )  # fmt: skip
    return rows


def _groups(people: pl.DataFrame, columns: list[str]) -> list[tuple[str, int]]:
    if not columns:
        return [("overall", people["label"].sum())]
    rows = people.group_by(columns).agg(pl.col("label").sum()).sort(columns).rows()
    return [(" × ".join(names), positives) for *names, positives in rows]


def _cells(
    people: pl.DataFrame, by: Sequence[str], folds: int, methods: Sequence[str]
) -> pl.DataFrame:
    frames = []
    for fold, method in itertools.product(range(folds), methods):
        train = people.filter((pl.col("subject_id") % folds != fold) | (folds == 1))
        cells = train.group_by("label", *by).agg(pl.len().cast(pl.Int64).alias("subjects"))
        cells = cells.sort("label", *by)
        real, nothing = pl.col("subjects"), pl.lit(0, pl.Int64)
        more = real.max() - real
        cells = cells.with_columns(
            (real.min() if method == "downsample" else real).alias("subjects"),
            (more if method == "upsample" else nothing).alias("copies"),
            (more if method.split("@")[0] in MAKERS else nothing).alias("synthetic"),
        )
        every = pl.col("subjects") + pl.col("copies") + pl.col("synthetic")
        frames.append(
            cells.select(
                pl.lit(fold, pl.Int64).alias("fold"), pl.lit(method).alias("method"), "label",
                "subjects", "copies", "synthetic", (every * 2).alias("visits"),
                (every * pl.col("label")).alias("positive_visits"),
                (every * 2).cast(pl.Float64).alias("weight"),
                (every * pl.col("label")).cast(pl.Float64).alias("positive_weight"),
                (every / every.sum()).alias("visit_share"), *by,
            )
        )  # fmt: skip
    return pl.concat(frames)


def _ledger(subjects: int) -> pl.DataFrame:
    return pl.DataFrame(
        [
            ("admissions", "used", subjects),
            ("diagnoses_icd", "used", subjects * 12),
            ("diagnoses_icd", "code is empty", 2),
            ("labevents", "used", subjects * 900),
            ("labevents", "no_hadm_id", subjects * 450),
            ("labevents", "value is not a number", subjects * 31),
        ],
        schema=["table", "outcome", "rows"],
        orient="row",
    )
