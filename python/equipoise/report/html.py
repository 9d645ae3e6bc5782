"""The report: one self-contained HTML file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from equipoise import schema
from equipoise.report import panels, words
from equipoise.report.summary import (
    MANY,
    Gain,
    Value,
    cells_of,
    fairness_means,
    gains_of,
    ledger_of,
    metric_means,
    outline_of,
    totals_of,
    with_mean,
)
from equipoise.report.verdict import judge

if TYPE_CHECKING:
    from equipoise.evaluate.results import Results


class Footnotes:
    """Letters for the reasons why values are not estimable, in the order in which they appear."""

    def __init__(self) -> None:
        self.letters: dict[str, str] = {}

    def letter(self, status: str) -> str:
        """The letter of a reason; a new reason gets the next one."""
        number = len(self.letters)
        return self.letters.setdefault(status, chr(97 + number) if number < 26 else str(number))


def write_report(results: Results, out: Path, *, manifest: Mapping[str, Any]) -> Path:
    """Render `results` to the single file `out` and return it; the same input gives the same bytes.

    manifest: what made the results (see `store.writing`): version, seed, config, digests of inputs.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.unfinished")
    try:
        draft.write_text(render(results, manifest), encoding="utf-8")
        draft.replace(out)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return out


def render(results: Results, manifest: Mapping[str, Any]) -> str:
    """The page as text."""
    outline = outline_of(results)
    means = metric_means(with_mean(results.metrics), outline)
    fairness = fairness_means(with_mean(results.fairness), outline)
    gains = gains_of(results.gains)
    config = manifest.get("config") or {}
    return _environment().get_template("report.html.j2").render(
        task=words.plain(str(config["task"])) if config.get("task") else "",
        verdict=judge(gains, outline),
        outline=outline,
        tiles=_tiles(results.predictions),
        looks=panels.looks_of(outline),
        f1_looks=[look for *_, look in panels.f1_series(outline)],
        part_looks=panels.part_series(),
        cell_panels=panels.cell_panels(cells_of(results), outline),
        f1_panels=panels.f1_panels(means, outline),
        gain_panels=panels.gain_overall_panels(gains, outline),
        gain_group_panels=panels.gain_group_panels(gains, outline) if outline.focus else [],
        totals=totals_of(results),
        gain_metrics=[name for name in words.METRICS if name in {key[4] for key in gains}],
        gain=lambda *key: gains.get(key, Gain()),
        mean=lambda *key: means.get(key, Value()),
        fair=lambda *key: fairness.get(key, Value()),
        ledger=ledger_of(results.ledger),
        notes=list(results.notes),
        version=manifest.get("equipoise", ""),
        seed=manifest.get("seed"),
        inputs=sorted((manifest.get("inputs") or {}).items()),
        config=_flat(config),
        footnotes=Footnotes(),
    )  # fmt: skip


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("equipoise.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.globals.update(
        words=words, marker_path=panels.marker_path, overall=words.OVERALL, MANY=MANY
    )
    environment.filters.update(
        plain=words.plain,
        number=words.number,
        signed=words.signed,
        count=words.count,
        reason=words.reason_text,
        # Only for figures: matplotlib has escaped the text in them.
        drawn=Markup,
    )
    return environment


def _tiles(predictions: pl.DataFrame) -> dict[str, int]:
    """Test subjects and visits, each counted once whatever the folds, methods and models."""
    visits = predictions.unique(
        [schema.SUBJECT_ID, schema.VISIT_ID], keep="first", maintain_order=True
    )
    positive = visits.filter(pl.col(schema.LABEL))
    return {
        "subjects": visits[schema.SUBJECT_ID].n_unique(),
        "positive_subjects": positive[schema.SUBJECT_ID].n_unique(),
        "visits": len(visits),
        "positive_visits": len(positive),
    }


def _flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as sorted (dotted name, JSON) pairs."""
    rows = []
    for name, value in sorted(config.items()):
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            rows.append((f"{prefix}{name}", text))
    return rows
