"""Figures as SVG text for a page that may be light or dark.

Colours are written as sentinels and replaced by CSS variables, and fonts are left to the page, so
that one figure serves every theme. The same input gives the same bytes.
"""

from __future__ import annotations

import io
import math
import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import blended_transform_factory

from equipoise.report.drawing import styled
from equipoise.report.words import count

#: CSS variables of the page, by the sentinel colour that stands for them while drawing.
INKS: Final = ("ink", "muted", "grid", "card", *(f"s{i}" for i in range(7)))
_SENTINELS: Final = {f"#0101{i:02x}": f"var(--{name})" for i, name in enumerate(INKS)}
_WIDTH: Final = 460.0
_GUTTER: Final = 142.0
_FONT: Final = 11.5
_SMALL: Final = 10.0
_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "equipoise",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": _FONT,
    "path.simplify": False,
}


@dataclass(frozen=True)
class Series:
    """How one series looks: its CSS variable (of `INKS`), a marker, and whether it is filled."""

    title: str
    ink: str
    marker: str
    filled: bool = True


@dataclass(frozen=True)
class Mark:
    """One value with what surrounds it; no value means not estimable."""

    value: float | None
    low: float | None = None
    high: float | None = None
    points: tuple[float, ...] = ()


@dataclass(frozen=True)
class Row:
    """A line of a dot figure: one mark per series; without marks it is a heading.

    reason: said when no mark has a value.
    """

    label: str
    marks: tuple[Mark, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Bar:
    """A stacked bar with a tick where it stood before; `part` is its small name."""

    label: str
    part: str
    real: float
    copies: float
    synthetic: float
    before: float | None


def dots_figure(
    rows: Sequence[Row],
    series: Sequence[Series],
    *,
    name: str,
    title: str,
    xlabel: str,
    limits: tuple[float, float],
    zero: bool = False,
) -> str:
    """Dots with whiskers and fold points: one row per label, the series below each other in it."""
    step = 9.0 if len(series) > 1 else 14.0
    heights = [_row_height(row, step) for row in rows]
    with _drawing():
        figure, axes = _canvas(sum(heights))
        axes.set_xlim(*limits)
        _dress(axes, xlabel)
        if zero:
            axes.axvline(0.0, color=_ink("muted"), linewidth=1.0, zorder=1)
        top = 0.0
        places: list[tuple[float, Series, Mark]] = []
        for index, (row, height) in enumerate(zip(rows, heights, strict=True)):
            if row.marks:
                if index and rows[index - 1].marks:
                    axes.axhline(top, color=_ink("grid"), linewidth=0.7, zorder=0)
                _label(axes, row.label, top + height / 2, height)
                places += _place_marks(axes, row, series, top, height, step)
            else:
                _heading(axes, row.label, top + height / 2 + 2, "muted", _SMALL)
            top += height
        _draw_marks(axes, series, places)
        return _svg(figure, name, title)


def bars_figure(bars: Sequence[Bar], *, name: str, title: str, xlabel: str, limit: float) -> str:
    """Horizontal stacked bars of real and synthetic subjects; bars of one label stand together."""
    heads, places, top = {}, [], 0.0
    for bar in bars:
        if bar.label not in heads:
            heads[bar.label] = top + 13.0
            top += 22.0
        places.append(top + 7.0)
        top += 14.0
    with _drawing():
        figure, axes = _canvas(top + 4.0, gutter=58.0)
        # The counts at the ends of the bars need room that no bar may take.
        axes.set_xlim(0.0, max(limit, 1.0) * 1.28)
        _dress(axes, xlabel)
        _draw_bars(axes, bars, places)
        for label, y in heads.items():
            _heading(axes, label, y, "ink", _FONT)
        return _svg(figure, name, title)


def _row_height(row: Row, step: float) -> float:
    if not row.marks:
        return 24.0
    if all(mark.value is None for mark in row.marks):
        return 36.0
    return max(len(row.marks) * step + 11.0, 36.0)


def _draw_marks(
    axes: Axes, series: Sequence[Series], places: Sequence[tuple[float, Series, Mark]]
) -> None:
    """All marks at their heights, one artist per series: many small ones would take seconds."""
    for look in series:
        own = [(y, mark) for y, owner, mark in places if owner is look]
        color = _ink(look.ink)
        lines = [
            (y, mark.low, mark.high)
            for y, mark in own
            if mark.low is not None and mark.high is not None
        ]
        if lines:
            heights, lows, highs = (list(ends) for ends in zip(*lines, strict=True))
            axes.hlines(heights, lows, highs, colors=color, linewidth=1.5, zorder=2)
        ticks = [(point, y) for y, mark in own for point in mark.points]
        if ticks:
            axes.plot(
                *zip(*ticks, strict=True), linestyle="", marker="|", color=color, alpha=0.65,
                markersize=5.0, markeredgewidth=1.0, zorder=2,
            )  # fmt: skip
        values = [(mark.value, y) for y, mark in own if mark.value is not None]
        axes.plot(
            [x for x, _ in values], [y for _, y in values], linestyle="",
            marker=look.marker, color=color, markersize=6.0, markeredgewidth=1.4,
            markerfacecolor=color if look.filled else _ink("card"), zorder=3,
        )  # fmt: skip


def _place_marks(
    axes: Axes, row: Row, series: Sequence[Series], top: float, height: float, step: float
) -> list[tuple[float, Series, Mark]]:
    """The heights of a row's marks; writes "n/e" where there is no value."""
    if all(mark.value is None for mark in row.marks):
        _remark(axes, f"n/e: {row.reason}" if row.reason else "n/e", top + height / 2, 7.5)
        return []
    first = top + (height - step * (len(row.marks) - 1)) / 2
    places = []
    for place, (mark, look) in enumerate(zip(row.marks, series, strict=True)):
        if mark.value is None:
            _remark(axes, "n/e", first + place * step, 7.5)
        else:
            places.append((first + place * step, look, mark))
    return places


def _draw_bars(axes: Axes, bars: Sequence[Bar], places: Sequence[float]) -> None:
    left = [0.0] * len(bars)
    for part, ink, alpha in (("real", "s0", 1.0), ("copies", "s0", 0.45), ("synthetic", "s1", 1.0)):
        widths = [getattr(bar, part) for bar in bars]
        axes.barh(
            places, widths, 11.0, left=left, color=_ink(ink), alpha=alpha, linewidth=0, zorder=2
        )
        left = [start + width for start, width in zip(left, widths, strict=True)]
    ticks = [(bar.before, y) for bar, y in zip(bars, places, strict=True) if bar.before is not None]
    if ticks:
        before, lows, highs = zip(*((x, y - 6.5, y + 6.5) for x, y in ticks), strict=True)
        axes.vlines(
            list(before), list(lows), list(highs), colors=_ink("ink"), linewidth=1.4, zorder=3
        )
    side = blended_transform_factory(axes.transAxes, axes.transData)
    for bar, place in zip(bars, places, strict=True):
        more = "".join(f" + {count(n)}" for n in (bar.copies, bar.synthetic) if n)
        for text, end, shift in ((f"{count(bar.real)}{more}", 1, 0), (bar.part, 0, -5)):
            axes.annotate(
                text, (end, place), (shift, 0), xycoords=side, textcoords="offset points",
                va="center", ha="right", fontsize=_SMALL, color=_ink("muted"),
                annotation_clip=False,
            )  # fmt: skip


@contextmanager
def _drawing() -> Iterator[None]:
    with styled(_STYLE), warnings.catch_warnings():
        # The browser draws the text; what glyphs this machine's fonts lack does not matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        yield


def _canvas(body: float, gutter: float = _GUTTER) -> tuple[Figure, Axes]:
    bottom, right = 36.0, 14.0
    height = math.ceil(body + bottom)
    body = height - bottom
    # One unit of y is one pixel, so that rows keep their height however many there are.
    figure = Figure(figsize=(_WIDTH / 72, height / 72), dpi=72)
    box = (gutter / _WIDTH, bottom / height, (_WIDTH - gutter - right) / _WIDTH, body / height)
    axes = figure.add_axes(box)
    axes.set_ylim(body, 0.0)
    return figure, axes


def _dress(axes: Axes, xlabel: str) -> None:
    axes.patch.set_visible(False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_ink("grid"))
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(lambda x, _: _tick(x))
    axes.tick_params(
        axis="x", color=_ink("grid"), labelcolor=_ink("muted"), labelsize=_SMALL, length=3
    )
    axes.grid(axis="x", color=_ink("grid"), linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_xlabel(xlabel, color=_ink("muted"), fontsize=_SMALL, labelpad=4)


def _tick(x: float) -> str:
    if abs(x) >= 1 or x == 0:
        return count(abs(x)) if x >= 0 else f"−{count(-x)}"
    return f"{x:.2f}".rstrip("0").replace("-", "−")


def _label(axes: Axes, text: str, y: float, height: float) -> None:
    side = blended_transform_factory(axes.transAxes, axes.transData)
    axes.annotate(
        _wrapped(text, int((_GUTTER - 14) / 6.1), max(int(height / 14), 1)), (0, y), (-8, 0),
        xycoords=side, textcoords="offset points", va="center", ha="right", linespacing=1.15,
        fontsize=_FONT, color=_ink("ink"), annotation_clip=False,
    )  # fmt: skip


def _heading(axes: Axes, text: str, y: float, ink: str, size: float) -> None:
    axes.annotate(
        _wrapped(text, int(_WIDTH / 6.3), 1), (0, y),
        xycoords=(axes.figure.transFigure, axes.transData),
        va="center", fontsize=size, color=_ink(ink), annotation_clip=False,
    )  # fmt: skip


def _remark(axes: Axes, text: str, y: float, x: float) -> None:
    side = blended_transform_factory(axes.transAxes, axes.transData)
    axes.annotate(
        text, (0, y), (x, 0), xycoords=side, textcoords="offset points", va="center",
        fontsize=_SMALL, color=_ink("muted"), annotation_clip=False, zorder=4,
        bbox={"facecolor": _ink("card"), "edgecolor": "none", "pad": 1.5},
    )  # fmt: skip


def _wrapped(text: str, room: int, lines: int) -> str:
    """`text` in at most `lines` lines of `room` letters; wide (East Asian) letters count twice."""
    # Control characters are no XML, escaped or not.
    text = re.sub(r"[\x00-\x1f\x7f]", "\N{REPLACEMENT CHARACTER}", text)
    found = [""]
    for word in re.split(r"(?<=[\s/])", text):
        if _columns(found[-1] + word.rstrip()) > room and found[-1]:
            found.append("")
        found[-1] += word
    kept = [line.strip() for line in found[:lines]]
    if len(found) > lines:
        kept[-1] += " …"
    return "\n".join(_cut(line, room) for line in kept)


def _cut(line: str, room: int) -> str:
    if _columns(line) <= room:
        return line
    while line and _columns(line) >= room:
        line = line[:-1]
    return f"{line.rstrip(' …')}…"


def _columns(text: str) -> int:
    return sum(1 + (unicodedata.east_asian_width(letter) in "WF") for letter in text)


def _ink(name: str) -> str:
    return f"#0101{INKS.index(name):02x}"


def _svg(figure: Figure, name: str, title: str) -> str:
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    # Text from the data holds no bare "<": only real tags are rewritten.
    text = re.sub(r"<[a-z][^<>]*>", lambda tag: _themed(tag[0], name), text)
    width, height = (round(float(size * 72)) for size in figure.get_size_inches())
    head = (
        f'<svg role="img" aria-label="{escape(title)}" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" '
        'xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return re.sub(r"^<svg[^>]*>", lambda _: head, text).strip()


def _themed(tag: str, name: str) -> str:
    """A tag with CSS variables for colours, the page's font, and ids unique on the page."""
    tag = re.sub(r"#0101[0-9a-f]{2}", lambda color: _SENTINELS.get(color[0], color[0]), tag)
    tag = re.sub(r"\s*font-family:[^;\"]*;?", "", tag)
    tag = re.sub(r'\bid="', f'id="{name}-', tag)
    return re.sub(r'(href="|url\()#', rf"\g<1>#{name}-", tag)
