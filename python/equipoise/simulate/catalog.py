"""The hospital's dictionaries as arrays: lab items and their values, diagnosis codes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from io import BytesIO
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from equipoise.simulate.conditions import CONDITIONS, SIGN_GROUPS, SIGN_OF

#: How often a specimen is sent for each panel of `labs.csv`; the rest is sent for one rare test.
PANEL_SHARES: Final = {
    "chemistry": 0.27,
    "blood count": 0.25,
    "liver": 0.07,
    "coagulation": 0.09,
    "differential": 0.05,
    "blood gas": 0.06,
    "urinalysis": 0.04,
    "smear": 0.025,
    "cardiac": 0.03,
    "index": 0.03,
    "ventilator": 0.01,
    "lipids": 0.008,
    "iron": 0.006,
    "urine chemistry": 0.006,
}
SINGLE: Final = "single"
#: Above every item id of MIMIC-IV, so that nobody takes a made-up test for a real one.
RARE_FIRST_ITEM: Final = 60001
RARE_ITEMS: Final = 690
RARE: Final = {"center": 20.0, "spread": 0.8, "low": 0.1, "high": 999.9, "decimals": 1}
#: An entry error that real tables hold too.
ODD_VALUE: Final = "999999"


@dataclass(frozen=True)
class Labs:
    """Lab items; `I` of them in file order, rare ones last.

    Every value an item can take is an entry of `texts` and `numbers` (NaN where it is words only):
    item i's entries start at `first[i]`: below range, low ... high, above range. Words are entries
    too, with `low` and `high` set as if the first and the last word were out of range.
    """

    frame: pl.DataFrame
    panels: tuple[NDArray[np.int64], ...]
    panel_shares: NDArray[np.float64]
    single_shares: NDArray[np.float64]
    texts: pl.Series
    numbers: NDArray[np.float64]
    first: NDArray[np.int64]
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    scale: NDArray[np.float64]
    center: NDArray[np.float64]
    spread: NDArray[np.float64]
    is_log: NDArray[np.bool_]
    is_text: NDArray[np.bool_]

    def index(self, label: str) -> int:
        """The number of the first item called `label`."""
        return int(self.frame["label"].to_list().index(label))


@dataclass(frozen=True)
class Diagnoses:
    """`J` slots, each a code of ICD-9 and one of ICD-10.

    `condition[j]` counts through CONDITIONS, then the signs of SIGN_GROUPS; -1 is anybody's code.
    """

    frame: pl.DataFrame
    condition: NDArray[np.int64]
    chance: NDArray[np.float32]


@cache
def load_diagnoses() -> Diagnoses:
    """Read `diagnoses.csv`."""
    frame = _read("diagnoses.csv")
    names = [condition.name for condition in CONDITIONS] + [SIGN_OF + g for g in SIGN_GROUPS]
    number = {name: position for position, name in enumerate(names)} | {"any": -1}
    condition = np.array([number[name] for name in frame["condition"]], np.int64)
    return Diagnoses(frame, condition, frame["chance"].cast(pl.Float32).to_numpy())


@cache
def load_labs() -> Labs:
    """Read `labs.csv`, add the rare tests, and spell out every value that can be reported."""
    frame = pl.concat([_read("labs.csv"), _rare()], how="diagonal_relaxed")
    frame = frame.with_columns(pl.col("unit").replace("", None))
    texts: list[str] = []
    first = np.zeros(frame.height, np.int64)
    limits = np.zeros((2, frame.height), np.int64)
    blocks: dict[tuple[int, int, int], int] = {}
    numbers: list[NDArray[np.float64]] = []
    for item, row in enumerate(frame.iter_rows(named=True)):
        if row["kind"] == "text":
            words = row["texts"].split(";")
            first[item], limits[:, item] = len(texts), (1, len(words) - 2)
            texts += words
            numbers.append(np.full(len(words), np.nan))
            continue
        decimals = int(row["decimals"])
        low, high = (round(row[end] * 10**decimals) for end in ("low", "high"))
        limits[:, item] = low, high
        # Items of one scale share their texts: the hundreds of rare tests need one block.
        if (low, high, decimals) not in blocks:
            blocks[low, high, decimals] = len(texts)
            values = np.arange(low, high + 1) / 10**decimals
            spelled = [f"{value:.{decimals}f}" for value in values]
            texts += [f"< {spelled[0]}", *spelled, f"> {spelled[-1]}"]
            numbers.append(np.concatenate([[np.nan], values, [np.nan]]))
        first[item] = blocks[low, high, decimals]
    texts += [ODD_VALUE, "___"]
    numbers.append(np.array([float(ODD_VALUE), np.nan]))
    panels, shares = _panels(frame)
    singles = frame["panel"] == SINGLE
    rank = np.cumsum(singles.to_numpy()) * singles.to_numpy()
    zipf = np.divide(1.0, rank, out=np.zeros(frame.height), where=rank > 0)
    return Labs(
        frame=frame,
        panels=panels,
        panel_shares=shares,
        single_shares=zipf / zipf.sum(),
        texts=pl.Series("value", texts),
        numbers=np.concatenate(numbers),
        first=first,
        low=limits[0],
        high=limits[1],
        scale=10.0 ** frame["decimals"].to_numpy(),
        center=frame["center"].to_numpy(),
        spread=frame["spread"].to_numpy(),
        is_log=(frame["kind"] == "lognormal").to_numpy(),
        is_text=(frame["kind"] == "text").to_numpy(),
    )


def _panels(frame: pl.DataFrame) -> tuple[tuple[NDArray[np.int64], ...], NDArray[np.float64]]:
    """Items of every panel, and its share; the last is the single test, whose item is drawn."""
    panel = frame["panel"].to_numpy()
    items = tuple(np.flatnonzero(panel == name) for name in PANEL_SHARES)
    shares = np.array([*PANEL_SHARES.values(), 0.0])
    shares[-1] = 1.0 - shares.sum()
    return (*items, np.array([-1])), shares


def _rare() -> pl.DataFrame:
    numbers = range(1, RARE_ITEMS + 1)
    return pl.DataFrame(
        {
            "itemid": [RARE_FIRST_ITEM + number - 1 for number in numbers],
            "label": [f"Simulated rare test {number}" for number in numbers],
        }
    ).with_columns(
        fluid=pl.lit("Blood"),
        category=pl.lit("Chemistry"),
        panel=pl.lit(SINGLE),
        unit=pl.lit("ng/mL"),
        kind=pl.lit("lognormal"),
        **{name: pl.lit(value) for name, value in RARE.items()},
    )


def _read(name: str) -> pl.DataFrame:
    data = resources.files("equipoise.simulate").joinpath(name).read_bytes()
    return pl.read_csv(BytesIO(data), infer_schema_length=None, schema_overrides=_TEXT)


_TEXT: Final = {"icd9_code": pl.String, "icd10_code": pl.String, "texts": pl.String}
