"""Inputs that both sides of benches/generator.py make alike, from a seed, with NumPy alone."""

from __future__ import annotations

import numpy as np

#: Columns beside the codes: label bits, start, end and pad.
BITS = 5
SPECIALS = BITS + 3


def head_state(columns: int, width: int) -> dict[str, np.ndarray]:
    """HALO's two square layers: codes as rare as in a visit of about 31, clearly dependent."""
    rng = np.random.default_rng(1)
    size = width + columns
    state = {}
    for name in ("auto1", "auto2"):
        weight = rng.standard_normal((size, size), np.float32)
        state[f"ehr_head.{name}.weight"] = weight * np.float32(size**-0.5)
        state[f"ehr_head.{name}.bias"] = np.zeros(size, np.float32)
    codes = columns - SPECIALS
    share = rng.permutation(1 / np.arange(1.0, codes + 1))
    share = np.minimum(share * 31 / share.sum(), 0.9)
    bias = np.full(columns, -40.0)
    bias[:codes] = np.log(share) - np.log1p(-share)
    bias[-2] = -1.0
    state["ehr_head.auto2.bias"][width - 1 : -1] = bias
    return state


def history(visits: int, width: int) -> np.ndarray:
    return np.random.default_rng(2).standard_normal((visits, width), np.float32)


def thresholds(visits: int, columns: int) -> np.ndarray:
    """logit(u): a code is on iff its logit is above."""
    uniform = np.random.default_rng(3).uniform(2.0**-33, 1, (visits, columns))
    return (np.log(uniform) - np.log1p(-uniform)).astype(np.float32)


def records(subjects: int, visits: int, codes: int, most: int = 40) -> list[list[list[int]]]:
    """Subjects of so many visits, of about 31 codes each."""
    rng = np.random.default_rng(4)
    return [
        [sorted({int(c) for c in rng.integers(0, codes, 31)})[:most] for _ in range(visits)]
        for _ in range(subjects)
    ]
