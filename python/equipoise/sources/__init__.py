"""Sources of event tables, as declarations."""

from __future__ import annotations

from typing import Any, Final

from equipoise.errors import UsageError
from equipoise.sources.declaration import Source

NAMES: Final = ("mimic-iv", "eicu")


def source_named(name: str, **options: Any) -> Source:
    """The source of this name; raises `UsageError` that lists the names.

    options: `codes` (kinds) for eicu.
    """
    from equipoise.sources.eicu import eicu_source
    from equipoise.sources.mimic_iv import MIMIC_IV

    makers = {"mimic-iv": lambda: MIMIC_IV, "eicu": eicu_source}
    if name not in makers:
        raise UsageError(f"no source is called {name!r}; there are {', '.join(makers)}")
    try:
        return makers[name](**options)
    except TypeError:
        wrong = ", ".join(options)
        raise UsageError(f"the source {name} does not take {wrong}") from None
