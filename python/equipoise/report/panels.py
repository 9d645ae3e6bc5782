"""Which figures the page shows, made from the summary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from equipoise.report.figures import Bar, Mark, Row, Series, bars_figure, dots_figure
from equipoise.report.summary import MANY, Cell, Gain, Outline, Value
from equipoise.report.words import (
    HALF,
    ORIGINAL,
    OVERALL,
    PARTS,
    TUNED,
    plain,
    reason_text,
    series_title,
)

Means = Mapping[tuple[Any, ...], Value]
Gains = Mapping[tuple[str, ...], Gain]


@dataclass(frozen=True)
class Panel:
    """A figure with the heading it stands under, or a note in its place if it would be empty.

    folded: whether it waits behind a click.
    """

    title: str
    svg: str
    folded: bool = False
    note: str = ""


def looks_of(outline: Outline) -> dict[str, Series]:
    """Colour and marker of every method: the original grey, the method in focus blue."""
    others = [method for method in outline.balancing if method != outline.focus]
    looks = {ORIGINAL: Series(plain(ORIGINAL), "s0", "o")}
    if outline.focus:
        looks[outline.focus] = Series(plain(outline.focus), "s1", "D")
    for index, method in enumerate(others):
        marker = "s^vPXo"[index % 6]
        looks[method] = Series(plain(method), f"s{2 + index % 5}", marker)
    return {method: looks[method] for method in outline.methods}


def f1_series(outline: Outline) -> list[tuple[str, str, Series]]:
    """Every method at 0.5, and the original with a tuned threshold as the control."""
    looks = looks_of(outline)
    rows = []
    for method, look in looks.items():
        rows.append((method, HALF, Series(series_title(method, HALF), look.ink, look.marker)))
        if method == ORIGINAL and (ORIGINAL, TUNED) in outline.series:
            control = Series(series_title(method, TUNED), "s0", "o", filled=False)
            rows.append((method, TUNED, control))
    return rows


def part_series() -> list[Series]:
    """The three parts of a gain."""
    looks = (("ink", "o", True), ("s0", "o", False), ("s1", "D", True))
    return [
        Series(title, ink, marker, filled)
        for title, (ink, marker, filled) in zip(PARTS.values(), looks, strict=True)
    ]


def cell_panels(cells: Mapping[str, list[Cell]], outline: Outline) -> list[Panel]:
    """Real and synthetic training subjects of every cell, one panel per method."""
    every = [cell for row in cells.values() for cell in row]
    limit = max((max(c.real + c.copies + c.synthetic, c.before) for c in every), default=1.0)
    panels = []
    for index, (method, row) in enumerate(cells.items()):
        many = len({cell.group for cell in row}) > MANY
        bars = [
            Bar(
                cell.group,
                {True: "positive", False: "negative", None: "unknown"}[cell.label],
                cell.real,
                cell.copies,
                cell.synthetic,
                None if method == ORIGINAL else cell.before,
            )
            for cell in row
        ]
        title = f"Training subjects per cell, {plain(method)}"
        svg = bars_figure(
            bars, name=f"cells{index}", title=title, xlabel="training subjects", limit=limit
        )
        folded = many and method not in (ORIGINAL, outline.focus)
        panels.append(Panel(plain(method), svg, folded))
    return panels


def f1_panels(means: Means, outline: Outline) -> list[Panel]:
    """F1 of every group: one panel per model for single features, one for each intersection."""
    looks = f1_series(outline)
    keys = [key for key in means if key[5] == "f1"]
    top = max((point for key in keys for point in means[key].points), default=1.0)
    limits = (0.0, min(max(top * 1.06, 0.1), 1.02))
    panels = []
    for part, sections in enumerate(_bundles(outline)):
        for place, model in enumerate(outline.shown):
            rows = []
            for by in sections:
                rows += _heading(by, sections)
                for group in outline.groups[by]:
                    found = [
                        means.get((model, method, threshold, by, group, "f1"), Value())
                        for method, threshold, _ in looks
                    ]
                    marks = tuple(Mark(v.mean, *_whisker(v), v.points) for v in found)
                    rows.append(Row(_group(by, group), marks, _reason(found)))
            title = _title(plain(model), sections)
            draw = partial(
                dots_figure, series=[look for *_, look in looks], name=f"f1{part}{place}",
                title=f"F1 by group and method, {title}", xlabel="F1", limits=limits,
            )  # fmt: skip
            panels.append(_panel(title, rows, draw, _folded(outline, model, sections)))
    return panels


def gain_overall_panels(gains: Gains, outline: Outline) -> list[Panel]:
    """The parts of every method's gain for all patients together, one panel per model."""
    limits = _limits(gains, [OVERALL])
    panels = []
    for place, model in enumerate(outline.shown):
        found = {
            method: [
                gains.get((model, method, OVERALL, OVERALL, "f1", part), Gain()) for part in PARTS
            ]
            for method in outline.balancing
        }
        rows = [_gain_row(plain(method), parts) for method, parts in found.items()]
        draw = partial(
            dots_figure, series=part_series(), name=f"gain{place}", zero=True, limits=limits,
            title=f"What balancing bought overall, {plain(model)}", xlabel="difference in F1",
        )  # fmt: skip
        panels.append(_panel(plain(model), rows, draw, _folded(outline, model)))
    return panels


def gain_group_panels(gains: Gains, outline: Outline) -> list[Panel]:
    """The parts of the gain of the method in focus, group by group."""
    panels = []
    method = outline.focus or ""
    for part, sections in enumerate(_bundles(outline)):
        groups = [by for by in sections if by != OVERALL]
        limits = _limits(gains, groups)
        for place, model in enumerate(outline.shown if groups else ()):
            rows = []
            for by in groups:
                rows += _heading(by, sections)
                rows += [
                    _gain_row(
                        group,
                        [gains.get((model, method, by, group, "f1", p), Gain()) for p in PARTS],
                    )
                    for group in outline.groups[by]
                ]
            title = _title(plain(model), sections)
            draw = partial(
                dots_figure, series=part_series(), name=f"gaingroup{part}{place}", zero=True,
                title=f"What {plain(method)} bought by group, {title}", limits=limits,
                xlabel="difference in F1",
            )  # fmt: skip
            panels.append(_panel(title, rows, draw, _folded(outline, model, sections)))
    return panels


def marker_path(marker: str) -> str:
    """The SVG path of a marker within -5..5, for the legend."""
    return {
        "o": "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0Z",
        "s": "M-3.5,-3.5H3.5V3.5H-3.5Z",
        "D": "M0,-4.8L4.8,0L0,4.8L-4.8,0Z",
        "^": "M0,-4.5L4.5,3.5H-4.5Z",
        "v": "M0,4.5L4.5,-3.5H-4.5Z",
        "P": "M-1.5,-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3Z",
        "X": "M-4.5,-2.5l2,-2L0,-2L2.5,-4.5l2,2L2,0L4.5,2.5l-2,2L0,2L-2.5,4.5l-2,-2L-2,0Z",
    }[marker]


def _bundles(outline: Outline) -> list[list[str]]:
    """Overall and short single features share a panel; anything long stands alone."""
    short = [by for by in outline.sections if "×" not in by and len(outline.groups[by]) <= MANY]
    rest = [[by] for by in outline.sections if by not in short]
    return [[OVERALL, *short], *rest]


def _panel(
    title: str, rows: list[Row], draw: Callable[[list[Row]], str], folded: bool = False
) -> Panel:
    """Draw the rows, unless none holds a value: then a sentence says more than empty axes."""
    if any(mark.value is not None for row in rows for mark in row.marks):
        return Panel(title, draw(rows), folded)
    reasons = list(dict.fromkeys(row.reason for row in rows if row.marks and row.reason))
    groups = sum(bool(row.marks) for row in rows)
    which = "Nothing here" if groups < 2 else f"None of the {groups} rows"
    return Panel(title, "", note=f"{which} is estimable: {'; '.join(reasons)}.")


def _folded(outline: Outline, model: str, sections: Sequence[str] = ()) -> bool:
    """Whether there are many groups, or it is one of several models behind their mean."""
    return model != outline.shown[0] or any(len(outline.groups[by]) > MANY for by in sections)


def _heading(by: str, sections: Sequence[str]) -> list[Row]:
    return [Row(f"by {by}")] if by != OVERALL and len(sections) > 1 else []


def _title(model: str, sections: Sequence[str]) -> str:
    return model if OVERALL in sections else f"{model}, by {' and '.join(sections)}"


def _group(by: str, group: str) -> str:
    return "all patients" if by == OVERALL else group


def _gain_row(label: str, parts: list[Gain]) -> Row:
    marks = tuple(Mark(gain.value, gain.low, gain.high) for gain in parts)
    reasons = [gain.reason for gain in parts if gain.reason]
    return Row(label, marks, reason_text(reasons[0]) if reasons else "")


def _reason(values: Iterable[Value]) -> str:
    reasons = [value.reason for value in values if value.reason]
    return reason_text(max(reasons, key=reasons.count)) if reasons else ""


def _whisker(value: Value) -> tuple[float | None, float | None]:
    if value.mean is None or not value.points or len(value.points) < 2:
        return None, None
    return min(value.points), max(value.points)


def _limits(gains: Gains, sections: Sequence[str]) -> tuple[float, float]:
    """From the lowest to the highest end of these sections, always with zero inside."""
    ends = [0.0]
    for key, gain in gains.items():
        if key[2] in sections and key[4] == "f1":
            ends += [end for end in (gain.value, gain.low, gain.high) if end is not None]
    room = max(0.08 * (max(ends) - min(ends)), 0.01)
    return min(ends) - room, max(ends) + room
