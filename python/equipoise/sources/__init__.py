"""Sources of event tables, as declarations."""

from equipoise.errors import UsageError
from equipoise.sources.declaration import Source


def source_named(name: str) -> Source:
    """The source of this name; raises `UsageError` that lists the names."""
    from equipoise.sources.mimic_iv import MIMIC_IV

    sources = {source.name: source for source in (MIMIC_IV,)}
    if name not in sources:
        raise UsageError(f"no source is called {name!r}; there are {', '.join(sources)}")
    return sources[name]
