"""How things look on a terminal: bars of progress, tables, and what is said of a stop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import polars as pl
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from equipoise.errors import StoppedError

NOTHING_LEFT: Final = "nothing was left behind"
out_console = Console(soft_wrap=True)
err_console = Console(stderr=True, soft_wrap=True)

#: Headings that leave the methods' names room on 80 columns.
SHORT: Final = {
    "f1": "F1",
    "f1_tuned": "tuned",
    "auroc": "AUROC",
    "ap": "AP",
    "worst_group_f1": "worst",
    "disparate_impact": "DI",
    "theil": "Theil",
}


class Bars:
    """Bars on the terminal, one for each stage, each with a note; it is a `schema.Progress`."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(escape(stage), total=total, note="")
        # An experiment has hundreds of pieces: only those at work are shown.
        self._bars.update(self._tasks[stage], completed=done, total=total, visible=done < total)

    def watch_training(self, look: Mapping[str, float]) -> None:
        """Show how training goes (`generator.fitting.Watch`)."""
        if "train" in self._tasks:
            note = (
                f"loss {look['tuning_nll']:.3f} (train {look['train_nll']:.3f}), "
                f"{look['subjects_per_second']:,.0f} subjects/s"
            )
            self._bars.update(self._tasks["train"], note=note)


@contextmanager
def progress_bars() -> Iterator[Bars]:
    """Bars on the terminal; silence where there is no terminal."""
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=err_console,
        transient=True,
        disable=not err_console.is_terminal,
    )
    with bars:
        yield Bars(bars)


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Say where the work of a job stays that is stopped, if there is any."""
    kept = f"what is done stays in {folder}; the same command with --resume goes on"
    try:
        yield
    except KeyboardInterrupt:
        raise StoppedError(f"stopped; {kept if folder.exists() else NOTHING_LEFT}") from None
    except OSError as error:
        if not folder.exists():
            raise
        raise OSError(f"{error}; {kept}") from error


def means_of(short: pl.DataFrame) -> pl.DataFrame:
    """The means of a summary as text; what cannot be estimated is n/e."""
    values = [name for name in short.columns if f"{name}_sd" in short.columns]

    def cell(value: float | None) -> str:
        return "n/e" if value is None or value != value else f"{value:.3f}"

    cells = {
        SHORT.get(name, name): pl.Series([cell(value) for value in short[name]]) for name in values
    }
    return short.select("method", "model").with_columns(**cells)


def table_of(title: str, frame: pl.DataFrame) -> Table:
    """A frame as a table."""
    table = Table(title=title)
    for name in frame.columns:
        table.add_column(name.replace("_", " "))
    for row in frame.iter_rows():
        table.add_row(*(escape(str(value)) for value in row))
    return table


def flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested values as (name, text), lists of objects as one line each."""
    for name, entry in value.items():
        if isinstance(entry, Mapping):
            yield from flat(entry, f"{prefix}{name}: ")
        elif isinstance(entry, list) and entry and isinstance(entry[0], Mapping):
            for row in entry:
                yield (
                    f"{prefix}{name}",
                    ", ".join(f"{k} {_number(v)}" for k, v in row.items() if v is not None),
                )
        else:
            text = ", ".join(map(_number, entry)) if isinstance(entry, list) else _number(entry)
            yield f"{prefix}{name}", text


def _number(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
