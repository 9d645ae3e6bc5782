"""The curves of a training: what was lost on training and tuning subjects, step by step."""

from __future__ import annotations

import io
from typing import Any, Final

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from equipoise.report.drawing import styled

_STYLE: Final[dict[Any, Any]] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_LINES: Final = (
    ("train_nll", "training subjects", "#8a8f98"),
    ("tuning_nll", "tuning subjects", "#1f5fbf"),
)


def training_curves(history: pl.DataFrame, best_step: int) -> bytes:
    """A PNG of a generator's history; the same history gives the same bytes.

    history: columns `step`, `train_nll`, `tuning_nll` (nats per visit) and `learning_rate`.
    """
    with styled(_STYLE):
        figure = Figure(figsize=(7, 4.2), dpi=120, layout="constrained")
        losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        _draw_losses(losses, history, best_step)
        rates.plot(history["step"], history["learning_rate"], color="#8a8f98")
        rates.set(ylabel="learning rate", xlabel="step", ylim=(0, None))
        rates.xaxis.set_major_locator(MaxNLocator(integer=True))
        png = io.BytesIO()
        figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()


def _draw_losses(axes: Axes, history: pl.DataFrame, best_step: int) -> None:
    for name, label, color in _LINES:
        axes.plot(history["step"], history[name], color=color, label=label)
    best = history.filter(pl.col("step") == best_step)
    axes.plot(best["step"], best["tuning_nll"], "o", color=_LINES[1][2], label="kept")
    axes.set(ylabel="nats per visit")
    axes.legend(frameon=False)
