"""Errors that a person can act on: where it is, what was wanted, what was found, what to do."""

from __future__ import annotations


class EquipoiseError(Exception):
    """Base of every error that this package raises on purpose."""


class DataError(EquipoiseError, ValueError):
    """The data are not what they have to be. The command line ends with exit code 1.

    Every part is optional; `row` is 1-based and counts the header, as an editor shows it.
    """

    def __init__(
        self,
        message: str = "",
        *,
        table: str | None = None,
        column: str | None = None,
        row: int | None = None,
        want: str | None = None,
        got: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.table, self.column, self.row = table, column, row
        self.want, self.got, self.hint = want, got, hint
        self.message = message
        super().__init__(str(self))

    def __str__(self) -> str:
        place = ", ".join(
            part
            for part in (
                self.table,
                self.column and f"column {self.column}",
                self.row is not None and f"row {self.row}",
            )
            if part
        )
        what = "; ".join(
            part
            for part in (
                self.message,
                self.want and f"want {self.want}",
                self.got and f"got {self.got}",
            )
            if part
        )
        text = f"{place}: {what}" if place and what else place or what
        return f"{text}. {self.hint}" if self.hint else text


class LeakageError(EquipoiseError):
    """Something was fitted on a subject that it is about to be judged on."""


class UsageError(EquipoiseError):
    """The request itself makes no sense. The command line ends with exit code 2."""


class StoppedError(EquipoiseError):
    """Stopped by Ctrl-C, with part of the work kept. The command line ends with exit code 130."""


def first_line(error: Exception) -> str:
    """What a library's error says first, or its class where it says nothing."""
    return (str(error) or type(error).__name__).splitlines()[0]
