"""How many cores there are to work with."""

from __future__ import annotations

import os


def cores() -> int:
    """How many this process may use, which under Slurm or `taskset` are not all there are."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
