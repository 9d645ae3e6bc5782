"""Sources of event tables, as declarations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from equipoise.errors import UsageError
from equipoise.sources.declaration import Source


def source_named(name: str, **options: Any) -> Source:
    """The source of this name; raises `UsageError` that lists the names.

    options: `codes` (kinds) for mimic-iv, mimic-iii and eicu, `lab_key` for both MIMICs, `settings`
    (`MedsSettings`) for meds, `spec` (a path, or the name of a shipped one) for tables.
    """
    from equipoise.sources.eicu import eicu_source
    from equipoise.sources.meds import meds_source
    from equipoise.sources.mimic_iii import mimic_iii_source
    from equipoise.sources.mimic_iv import mimic_iv_source
    from equipoise.sources.tables import tables_source

    makers: dict[str, Callable[..., Source]] = {
        "mimic-iv": mimic_iv_source,
        "mimic-iii": mimic_iii_source,
        "eicu": eicu_source,
        "meds": meds_source,
        "tables": tables_source,
    }
    if name not in makers:
        raise UsageError(f"no source is called {name!r}; there are {', '.join(makers)}")
    if name == "tables" and "spec" not in options:
        raise UsageError("the source tables wants a spec: a TOML file that says what they mean")
    try:
        return makers[name](**options)
    except TypeError:
        raise UsageError(f"the source {name} does not take {', '.join(options)}") from None
