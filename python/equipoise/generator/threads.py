"""As many threads of XLA's on every machine, so that sums are the same to the last bit.

On a CPU, XLA cuts a matrix product by how many threads it has, which is one for each core unless
the environment's NPROC says otherwise; where a product is cut decides in which order it is summed.
"""

from __future__ import annotations

import os
from typing import Final

NPROC: Final = "NPROC"
#: The presets hardly gain from more, and lose little where these share a core (benches/RESULTS.md).
_THREADS: Final = 4


def settle() -> None:
    """Give XLA so many threads, unless NPROC says how many; comes before JAX's first array."""
    os.environ.setdefault(NPROC, str(_THREADS))


def settled() -> str:
    """What NPROC is."""
    return os.environ.get(NPROC, "")
