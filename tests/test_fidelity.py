"""Fidelity, held against plain dictionaries."""

from __future__ import annotations

import time
from collections import Counter
from itertools import combinations, pairwise, product

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.cohort import Cohort, cohort_from_lists
from equipoise.errors import DataError
from equipoise.evaluate.fidelity import PROBABILITIES, fidelity, matched, r2, sizes
from equipoise.vocabulary import Vocabulary
from toys import toy_cohort

Records = list[list[set[int]]]
CODES = 5
RECORDS = st.lists(
    st.lists(st.sets(st.integers(0, CODES - 1), max_size=4), max_size=4), min_size=1, max_size=8
)


def cohort_of(records: Records, labels: str = "", sexes: str = "", codes: int = CODES) -> Cohort:
    labels, sexes = labels or "0" * len(records), sexes or "F" * len(records)
    known = {"0": False, "1": True}
    subjects = pl.DataFrame(
        {
            "label": pl.Series([known.get(label) for label in labels], dtype=pl.Boolean),
            "sex": pl.Series([None if sex == "-" else sex for sex in sexes], dtype=pl.String),
        }
    )
    vocabulary = Vocabulary.of_codes([f"C{i}" for i in range(codes)])
    return cohort_from_lists(
        [list(map(sorted, record)) for record in records], subjects, vocabulary
    )


def counted(records: Records, what: str) -> dict[tuple[int, ...], float]:
    """HALO's counting, one key at a time."""
    count: Counter[tuple[int, ...]] = Counter()
    total = 0
    for record in records:
        if what == "sequential_pairs":
            for one, two in pairwise(record):
                count.update(product(one, two))
            total += max(len(record) - 1, 0)
        else:
            for visit in record:
                count.update(combinations(sorted(visit), {"codes": 1, "pairs": 2}[what]))
            total += len(record)
    return {key: n / total for key, n in count.items()}


def oracle_r2(real: dict, synthetic: dict) -> float:
    keys = sorted(real.keys() | synthetic.keys())
    a, b = (np.array([part.get(key, 0.0) for key in keys]) for part in (real, synthetic))
    if len(set(a)) < 2:
        return float("nan")
    return 1 - ((a - b) ** 2).sum() / ((a - a.mean()) ** 2).sum()


@pytest.mark.parametrize("what", PROBABILITIES)
@given(one=RECORDS, two=RECORDS)
def test_probabilities_and_r2_are_those_of_plain_counting(what, one, two):
    frames = [PROBABILITIES[what](cohort_of(records)) for records in (one, two)]
    wanted = [counted(records, what) for records in (one, two)]
    for frame, want in zip(frames, wanted, strict=True):
        keys = [tuple(k for k in row if k is not None) for row in frame.rows()]
        got = {key[:-1]: key[-1] for key in keys}
        assert got == pytest.approx(want)
        assert [key[:-1] for key in keys] == sorted(want)
    assert r2(matched(*frames)) == pytest.approx(oracle_r2(*wanted), nan_ok=True)
    table = fidelity(cohort_of(one), cohort_of(two)).filter(what=what)
    assert table["r2"][0] == pytest.approx(oracle_r2(*wanted), nan_ok=True)
    assert table["keys"][0] == len(wanted[0].keys() | wanted[1].keys())
    assert (table["status"][0] == "ok") == np.isfinite(table["r2"][0])
    assert (table["status"][0] == "empty") == (not wanted[0] and not wanted[1])


def test_right_order_but_half_as_often_is_no_fidelity():
    """A squared correlation would call this perfect."""
    real = cohort_of([[{0, 1, 2}], [{0, 1}], [{0}], [{0}]])
    halved = cohort_of([[{0, 1, 2}], [{0, 1}], [{0}], [{0}], *[[set()]] * 4])
    both = matched(*(PROBABILITIES["codes"](part) for part in (real, halved)))
    assert both["synthetic"].to_list() == (both["real"] / 2).to_list()
    # Real 1, 1/2, 1/4: 1 - (1/4 + 1/16 + 1/64) / (7/24).
    assert r2(both) == pytest.approx(1 - (21 / 64) / (7 / 24))


def test_cells_are_judged_apart_and_small_ones_not_at_all():
    visits = [{0}, {0, 1}, {0, 1, 2}, {0, 3}]
    real = cohort_of([[v] for v in visits * 3], "0" * 4 + "1" * 4 + "0" * 3 + "?", "F" * 8 + "MMM-")
    made = cohort_of([[v] for v in [*visits, *visits]], "00001111", "F" * 8)
    train = cohort_of([[v] for v in [*visits, *visits[::-1]]], "00001111", "F" * 8)
    table = fidelity(real, made, train=train, by=["sex"], fewest=4)
    cells = table.filter(what="codes").select("label", "sex", "real_visits", "synthetic_visits")
    assert cells.rows() == [(False, "F", 4, 4), (False, "M", 3, 0), (True, "F", 4, 4)]
    of_women = table.filter(pl.col("sex") == "F", pl.col("what") != "sequential_pairs")
    assert of_women["r2"].to_list() == [1.0] * 4 == of_women["ceiling"].to_list()
    of_men = table.filter(sex="M")
    assert of_men["status"].unique().to_list() == ["too_few"]
    assert of_men["r2"].is_nan().all()
    few_made = fidelity(real, made.take(np.arange(7)), by=["sex"], fewest=4).filter(label=True)
    assert few_made["status"].unique().to_list() == ["too_few"]
    by_label = fidelity(real, made, by=[], fewest=1)
    assert by_label.columns[0] == "label"
    assert by_label["ceiling"].is_nan().all()
    assert by_label.filter(what="codes")["real_visits"].to_list() == [7, 4]


def test_the_ceiling_is_real_against_real():
    real, made, train = (toy_cohort(300, 12, seed=seed) for seed in (1, 2, 3))
    table = fidelity(real, made, train=train)
    assert table["ceiling"].to_list() == fidelity(real, train)["r2"].to_list()
    assert table["r2"].to_list() == fidelity(real, made)["r2"].to_list()
    assert table["r2"].to_list() != table["ceiling"].to_list()
    assert 0.5 < table["ceiling"].min() < table["ceiling"].max() < 1


def test_sizes_by_hand():
    real = cohort_of([[{0}, {0, 1, 2}], [{1, 2}, {3, 4}], [{0, 1}], []], "0011", "FFMM")
    made = cohort_of([[{0}], [{0, 1}, {1, 2, 3}]], "00", "FF")
    table = sizes(real, made)
    assert table["real"].to_list() == pytest.approx([1.25, np.sqrt(11 / 16), 2.0, np.sqrt(0.4)])
    assert table["synthetic"].to_list() == pytest.approx([1.5, 0.5, 2.0, np.sqrt(2 / 3)])
    assert table["relative_error"][0] == pytest.approx(0.2)
    assert table["chance"].is_nan().all()
    swapped = sizes(real, real, train=made)
    assert swapped["chance"].to_list() == table["relative_error"].to_list()
    assert swapped["relative_error"].to_list() == [0.0] * 4
    women, men = (sizes(real, made, by=["sex"]).filter(sex=sex) for sex in "FM")
    assert women["real"].to_list() == pytest.approx([2, 0, 2, np.sqrt(0.5)])
    # Of two women with two visits each the spread is 0, and nothing is a share of it.
    assert np.isnan(women["relative_error"][1])
    assert men["synthetic"].is_nan().all()
    assert men["relative_error"].is_nan().all()


def test_refusals():
    with pytest.raises(DataError, match="synthetic: want the vocabulary"):
        fidelity(toy_cohort(10, 12), toy_cohort(10, 13))
    with pytest.raises(DataError, match="train: want the vocabulary"):
        fidelity(toy_cohort(10, 12), toy_cohort(10, 12), train=toy_cohort(10, 13))
    with pytest.raises(DataError, match="column age"):
        fidelity(toy_cohort(10, 12), toy_cohort(10, 12), by=["age"])
    with pytest.raises(DataError, match="synthetic: want the vocabulary"):
        sizes(toy_cohort(10, 12), toy_cohort(10, 13))
    with pytest.raises(DataError, match="train: want the vocabulary"):
        sizes(toy_cohort(10, 12), toy_cohort(10, 12), train=toy_cohort(10, 13))
    with pytest.raises(DataError, match="column age"):
        sizes(toy_cohort(10, 12), toy_cohort(10, 12), by=["age"])


def large_cohort(visits: int, columns: int, mean: int, seed: int) -> Cohort:
    """Two visits to a subject, as rare and as many codes as a hospital's."""
    rng = np.random.default_rng(seed)
    rate = np.minimum(1 / np.arange(1, columns + 1) ** 0.8, 0.9)
    drawn = rng.random((mean * visits, 1))[:, 0] * rate.sum()
    codes = np.minimum(np.searchsorted(np.cumsum(rate), drawn), columns - 1)
    key = np.unique(np.repeat(np.arange(visits), mean) * columns + codes)
    small = cohort_of([[set(), set()]] * (visits // 2), codes=columns)
    offsets = np.searchsorted(key // columns, np.arange(visits + 1))
    return Cohort(
        small.subjects, small.visits, small.visit_offsets, offsets,
        (key % columns).astype(np.int32), small.vocabulary,
    )  # fmt: skip


@pytest.mark.slow
def test_a_hospital_takes_seconds():
    real, made = (large_cohort(100_000, 1300, 30, seed) for seed in (1, 2))
    start = time.process_time()
    table = fidelity(real, made)
    assert time.process_time() - start < 20
    assert table["keys"].to_list()[0] == 1300
    assert table["r2"].min() > 0.99
