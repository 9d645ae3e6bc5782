"""What is in a folder that equipoise wrote, as one plain object."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl

from equipoise import schema, store
from equipoise.cohort import Cohort
from equipoise.errors import DataError
from equipoise.records import VisitRecords


def inspect(folder: Path) -> dict[str, Any]:
    """Counts of the records, cohort, model, results or run in `folder`; raises `DataError`."""
    manifest = store.read_manifest(folder)
    kind = str(manifest["kind"])
    if kind not in _VIEWS:
        raise DataError(table=str(folder), want=f"one of {', '.join(_VIEWS)}", got=kind)
    about = {name: manifest.get(name) for name in ("kind", "equipoise", "seed", "config")}
    return {**about, **_VIEWS[kind](folder)}


def _records(folder: Path) -> dict[str, Any]:
    records = VisitRecords.load(folder)
    labs = set(records.lab_table["lab"]) if len(records.lab_table) else set()
    kinds = records.code_table["kind"].unique(maintain_order=True).to_list()
    tables, named = _tables(records.ledger), records.config.get("tables", {})
    diagnoses, labs_of = (_together(tables, named.get(kind, [])) for kind in ("diagnosis", "lab"))
    return {
        **_people(records.subjects, records.visits),
        "codes": len(records.code_table),
        "code_kinds": kinds,
        "labs": len(labs),
        "diagnoses": diagnoses and diagnoses["used"],
        "lab_events": labs_of,
        "tables": tables,
        "oddities": dict(records.oddities),
        "groups": {
            name: dict(records.subjects[name].value_counts(sort=True).iter_rows())
            for name in schema.group_names(records.subjects)
        },
    }


def _cohort(folder: Path) -> dict[str, Any]:
    cohort = Cohort.load(folder)
    return {
        **_people(cohort.subjects, cohort.visits),
        "synthetic": int(cohort.subjects[schema.SYNTHETIC].sum()),
        "ones": len(cohort.codes),
        "columns": len(cohort.vocabulary),
        "kinds": dict(cohort.vocabulary.columns["kind"].value_counts(sort=True).iter_rows()),
        "cells": _cells(cohort.subjects, [*cohort.groups]),
    }


def _model(folder: Path) -> dict[str, Any]:
    # Imported here: it brings JAX, which nothing else that is inspected needs.
    from equipoise.generator import load_generator

    generator = load_generator(folder)
    return {
        "columns": len(generator.vocabulary),
        "by": generator.by,
        "cells": generator.conditions.cells.to_dicts(),
        "report": dict(generator.report),
        "training": generator.history.tail(1).to_dicts(),
    }


def _results(folder: Path) -> dict[str, Any]:
    from equipoise.evaluate.results import Results, summary

    results = Results.load(folder)
    visits = results.predictions.unique([schema.SUBJECT_ID, schema.VISIT_ID])
    return {
        "subjects": visits[schema.SUBJECT_ID].n_unique(),
        "visits": len(visits),
        "positives": int(visits[schema.LABEL].sum()),
        "by": list(results.by),
        "methods": list(results.methods),
        "models": list(results.models),
        "folds": results.folds,
        "summary": [
            {name: value for name, value in row.items() if value == value}
            for row in summary(results).iter_rows(named=True)
        ],
        "notes": list(results.notes),
    }


def _run(folder: Path) -> dict[str, Any]:
    parts = {"records": _records, "results": _results, "model": _model, "balanced": _cohort}
    return {name: view(folder / name) for name, view in parts.items()}


_VIEWS: Final[Mapping[str, Callable[[Path], dict[str, Any]]]] = {
    "records": _records,
    "cohort": _cohort,
    "model": _model,
    "results": _results,
    "run": _run,
}


def _people(subjects: pl.DataFrame, visits: pl.DataFrame) -> dict[str, Any]:
    label = visits[schema.LABEL]
    return {
        "subjects": len(subjects),
        "visits": len(visits),
        "positives": int(subjects[schema.LABEL].sum()),
        "positive_visits": int(label.sum()),
        "unknown_labels": int(subjects[schema.LABEL].is_null().sum()),
    }


def _tables(ledger: pl.DataFrame) -> dict[str, dict[str, Any]]:
    tables: dict[str, dict[str, Any]] = {}
    for table, outcome, rows in ledger.iter_rows():
        entry = tables.setdefault(table, {"read": 0, "used": 0, "dropped": {}})
        entry["read"] += rows
        if outcome == schema.USED:
            entry["used"] += rows
        else:
            entry["dropped"][outcome] = entry["dropped"].get(outcome, 0) + rows
    return tables


def _together(tables: Mapping[str, dict[str, Any]], named: Sequence[str]) -> dict[str, Any] | None:
    """The tables called so in one, or None where none is."""
    found = [tables[name] for name in named if name in tables]
    if not found:
        return None
    dropped: dict[str, int] = {}
    for entry in found:
        for reason, rows in entry["dropped"].items():
            dropped[reason] = dropped.get(reason, 0) + rows
    return {name: sum(e[name] for e in found) for name in ("read", "used")} | {"dropped": dropped}


def _cells(subjects: pl.DataFrame, by: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Subjects by label and each single group."""
    return {
        name: subjects.group_by(schema.LABEL, name).agg(
            pl.len().alias("subjects"), pl.col(schema.SYNTHETIC).sum().alias("synthetic")
        ).sort(schema.LABEL, name).to_dicts()
        for name in by
    }  # fmt: skip
