"""Matplotlib as it comes: the same figure has the same bytes, whatever its user has set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl


@contextmanager
def styled(style: Mapping[Any, Any]) -> Iterator[None]:
    """Draw with matplotlib's defaults and `style`; what was set before is set again afterwards."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(style)
        yield
