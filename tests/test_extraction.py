"""The compiled readers against a plain-Python oracle, on random tables in every format."""

from __future__ import annotations

import csv
import gzip
import io
import math
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise import _core
from equipoise.errors import DataError

VISITS = np.array([7, 3, 900, 12], np.int64)
LEFT_OUT = np.array([55], np.int64)
COLUMNS = ["hadm_id", "itemid", "valuenum"]
HEADER = ["note", "itemid", "valuenum", "hadm_id", "comments"]
LEDGER = (
    "used",
    "no visit id",
    "unknown visit",
    "visit left out by the task",
    "no event time",
    "outside every visit",
    "after the window",
    "no code",
    "no numeric value",
    "value is not a number",
    "value is not finite",
)

numbers = st.one_of(
    st.sampled_from(["", "0", "-0.0", ".5", "7.", "1e3", "0.1", "0.2", "0.3", "___", "< 5", "NaN"]),
    st.sampled_from(["inf", "1e400", "-1e-320", "123456789012.25", "0.30000000000000004", "1e22"]),
    st.integers(-5000, 5000).map(lambda n: f"{n / 100:.2f}"),
    st.floats(allow_nan=False, allow_infinity=False, width=32).map(repr),
)
rows = st.lists(
    st.tuples(
        st.sampled_from(["", "7", "3", "900", "12", "44", "55", "7.0"]),
        st.sampled_from(["", "50912", "50931", "1"]),
        numbers,
        st.sampled_from(["", "a,b", 'say "hi"', "two\nlines", "é"]),
    ),
    max_size=60,
)


def oracle(table: list[tuple[str, str, str, str]]) -> tuple[dict[Any, float], dict[str, int]]:
    """Exact means by (place of the visit, lab), and the ledger, one row at a time."""
    places = {int(visit): place for place, visit in enumerate(VISITS)}
    sums: dict[tuple[int, int], list[Fraction]] = {}
    ledger = dict.fromkeys(LEDGER, 0)
    for visit, lab, value, _ in table:
        number = None
        try:
            number = float(value)
        except ValueError:
            outcome = "value is not a number" if value.strip() else "no numeric value"
        if visit == "":
            outcome = "no visit id"
        elif int(float(visit)) in LEFT_OUT:
            outcome = "visit left out by the task"
        elif int(float(visit)) not in places:
            outcome = "unknown visit"
        elif lab == "":
            outcome = "no code"
        elif number is not None and not math.isfinite(number):
            outcome = "value is not finite"
        elif number is not None:
            outcome = "used"
            # The shortest decimal that names the double: what repr prints.
            pair = places[int(float(visit))], int(lab)
            sums.setdefault(pair, []).append(Fraction(repr(number)))
        ledger[outcome] += 1
    return {pair: float(sum(v) / len(v)) for pair, v in sums.items()}, ledger


def write(folder: Path, table: list[tuple[str, str, str, str]], kind: str) -> Path:
    text = io.StringIO()
    end = "\r\n" if kind == "crlf.csv" else "\n"
    writer = csv.writer(text, lineterminator=end)
    writer.writerow(HEADER)
    writer.writerows([("x", lab, value, visit, note) for visit, lab, value, note in table])
    path = folder / f"labevents.{kind}"
    body = text.getvalue()
    if kind == "csv.gz":
        # Two members, as `cat a.gz b.gz` leaves them, and no newline at the end.
        data, half = body.rstrip("\n").encode(), len(body) // 2
        path.write_bytes(gzip.compress(data[:half]) + gzip.compress(data[half:]))
    else:
        path.write_text(body, encoding="utf-8", newline="")
    return path


def read(path: Path, **options: Any) -> tuple[Any, ...]:
    known = np.array([1, 50912], np.int64)
    return _core.read_values([path], COLUMNS, VISITS, known=known, left_out=LEFT_OUT, **options)


def as_dict(offsets: Any, labs: Any, values: Any, named: Any) -> dict[tuple[int, int], float]:
    names = named[0]
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    triples = zip(owner, labs, values, strict=True)
    return {(int(v), int(names[lab])): float(x) for v, lab, x in triples}


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "crlf.csv"])
@given(table=rows, block=st.integers(64, 700), threads=st.integers(1, 3))
def test_values_equal_the_oracle(
    tmp_path_factory: pytest.TempPathFactory, kind: str, table: Any, block: int, threads: int
) -> None:
    path = write(tmp_path_factory.mktemp("t"), table, kind)
    got = read(path, threads=threads, block=block)
    means, ledger = oracle(table)
    assert as_dict(*got) == means
    assert dict(got[3][1]) == ledger
    assert sum(ledger.values()) == len(table)
    for start, end in zip(got[0], got[0][1:], strict=False):
        assert list(got[1][start:end]) == sorted(set(got[1][start:end]))


@given(table=rows, seed=st.integers(0, 9))
def test_order_threads_and_blocks_do_not_change_a_byte(
    tmp_path_factory: pytest.TempPathFactory, table: Any, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("t")
    path = write(folder, table, "csv")
    first = read(path, threads=1)
    shuffled = [table[i] for i in np.random.default_rng(seed).permutation(len(table))]
    others = [
        read(path, threads=2, block=64),
        read(write(folder, shuffled, "csv.gz"), threads=2, block=100),
    ]
    for other in others:
        for a, b in zip(first[:3], other[:3], strict=True):
            assert a.tobytes() == b.tobytes()
        assert first[3] == other[3]


@given(table=rows)
def test_parquet_equals_csv(tmp_path_factory: pytest.TempPathFactory, table: Any) -> None:
    folder = tmp_path_factory.mktemp("t")

    def number(text: str) -> float | None:
        try:
            return float(text)
        except ValueError:
            return None

    frame = pl.DataFrame(
        {
            "hadm_id": [int(float(visit)) if visit else None for visit, *_ in table],
            "valuenum": [number(value) for _, _, value, _ in table],
            "itemid": [int(lab) if lab else None for _, lab, *_ in table],
        },
        schema={"hadm_id": pl.Int64, "valuenum": pl.Float64, "itemid": pl.Int32},
    )
    path = folder / "labevents.parquet"
    frame.write_parquet(path, row_group_size=7)
    plain = read(write(folder, table, "csv"))
    for threads in (1, 2):
        got = read(path, threads=threads)
        assert as_dict(*got) == as_dict(*plain)
        # Parquet has no text in the value column: it is null there.
        merged = dict(plain[3][1])
        merged["no numeric value"] += merged.pop("value is not a number")
        assert {k: v for k, v in got[3][1] if k != "value is not a number"} == merged


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "7", "3", "44"]),
            st.sampled_from(["", "I10", "4019", "I50 "]),
            st.sampled_from(["9", "10"]),
        ),
        max_size=50,
    ),
    st.integers(1, 3),
)
def test_codes_equal_the_oracle(
    tmp_path_factory: pytest.TempPathFactory, table: Any, threads: int
) -> None:
    path = tmp_path_factory.mktemp("t") / "diagnoses_icd.csv"
    lines = ["icd_version,hadm_id,icd_code", *(f"{v},{h},{c}" for h, c, v in table)]
    path.write_text("\n".join(lines) + "\n")
    offsets, codes, (names, ledger) = _core.read_codes(
        [path], ["hadm_id", "icd_code", "icd_version"], VISITS, threads=threads, block=64
    )
    wanted: dict[int, set[str]] = {}
    for visit, code, version in table:
        if visit in ("7", "3") and code:
            wanted.setdefault(int(visit), set()).add(f"{code.strip()}\x1f{version}")
    got = {
        int(VISITS[v]): {names[c] for c in codes[offsets[v] : offsets[v + 1]]}
        for v in range(len(VISITS))
        if offsets[v] < offsets[v + 1]
    }
    assert got == wanted
    assert names == sorted(names)
    assert sum(rows for _, rows in ledger) == len(table)


def test_deciles_equal_numpy() -> None:
    rng = np.random.default_rng(0)
    labs = rng.integers(0, 5, 4000).astype(np.int32)
    values = np.round(rng.lognormal(2, 1, 4000), 2)
    values[labs == 3] = np.round(values[labs == 3] / 8)
    slots = np.array([2, -1, 0, 1, -1], np.int32)
    sizes = np.array([(slots[labs] == slot).sum() for slot in range(4)], np.uint64)
    cuts, filled = _core.deciles(labs, values, slots, sizes, threads=2)
    for lab, slot in enumerate(slots):
        if slot >= 0:
            wanted = np.quantile(values[labs == lab], np.arange(1, 10) / 10)
            assert np.array_equal(cuts[slot], wanted)
            bins = (values[labs == lab, None] >= wanted).sum(1)
            assert np.array_equal(filled[slot], np.bincount(bins, minlength=10) > 0)
    assert np.isnan(cuts[3]).all()
    assert not filled[3].any()
    assert not filled.all(1).all(), "empty bins were wanted too"


@pytest.mark.parametrize("column", ["hadm_id", "itemid"])
def test_a_row_of_parquet_is_named_though_rows_before_it_were_passed_over(
    tmp_path: Path, column: str
) -> None:
    """Ids as pandas leaves them, in floating point, between rows without a visit id."""
    rows = 20_000
    ids: dict[str, list[float | None]] = {
        "itemid": [7.0] * rows,
        "hadm_id": [None if row % 3 else 10.0 for row in range(rows)],
    }
    ids[column][15_000] = 1.5
    path = tmp_path / "labevents.parquet"
    pl.DataFrame({**ids, "valuenum": [1.0] * rows}).write_parquet(path, row_group_size=12_000)
    columns = ["hadm_id", "itemid", "valuenum"]
    with pytest.raises(DataError) as error:
        _core.read_values([path], columns, np.array([10]), known=np.array([7]))
    assert f"column {column}, row 15002: want a whole number; got" in str(error.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hadm_id,valuenum\n1,2\n", {"column": "itemid", "got": "hadm_id, valuenum"}),
        ("hadm_id,itemid,valuenum\n7,1,2\nabc,1,2\n", {"column": "hadm_id", "row": 3}),
        ("hadm_id,itemid,valuenum\n7,1,2\n7,1\n", {"row": 3, "want": "3 fields", "got": "2"}),
        ("hadm_id,itemid,valuenum\n7,x,2\n", {"column": "itemid", "row": 2}),
        ('hadm_id,itemid,valuenum\n7,1,"2\n', {"got": "a quote that is never closed"}),
        ("", {"want": "a header and rows"}),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "csv.gz"])
def test_bad_text_is_named(tmp_path: Path, text: str, parts: dict[str, Any], kind: str) -> None:
    path = tmp_path / f"labevents.{kind}"
    path.write_bytes(gzip.compress(text.encode()) if kind == "csv.gz" else text.encode())
    with pytest.raises(DataError) as caught:
        read(path, threads=2)
    assert caught.value.table == path.name
    for name, wanted in parts.items():
        assert getattr(caught.value, name) == wanted


def test_the_earliest_bad_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "labevents.csv"
    good = "7,1,2.5\n" * 1000
    path.write_text(f"hadm_id,itemid,valuenum\n{good}bad,1,2\n{good}worse,1,2\n{good}")
    for threads in (1, 2, 3):
        with pytest.raises(DataError) as caught:
            read(path, threads=threads, block=256)
        assert (caught.value.row, caught.value.got) == (1002, '"bad"')


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_truncated_gzip_file_is_an_error(tmp_path: Path, share: float) -> None:
    rng = np.random.default_rng(0)
    body = "hadm_id,itemid,valuenum\n" + "".join(f"7,1,{x:.3f}\n" for x in rng.random(20000))
    whole = gzip.compress(body.encode())
    path = tmp_path / "labevents.csv.gz"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match="whole file"):
        read(path)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    path.write_bytes(flipped)
    with pytest.raises(DataError, match="labevents.csv.gz"):
        read(path)


def test_the_gil_is_released_and_progress_is_told(tmp_path: Path) -> None:
    path = tmp_path / "labevents.csv"
    path.write_text("hadm_id,itemid,valuenum\n" + "7,1,2.5\n" * 3_000_000)
    told: list[tuple[int, int]] = []
    counted, done_reading = [0], threading.Event()

    def count() -> None:
        while not done_reading.is_set():
            counted[0] += 1

    def counted_in(work: Callable[[], object]) -> float:
        """How often a second it counts meanwhile."""
        before, start = counted[0], time.perf_counter()
        work()
        return (counted[0] - before) / (time.perf_counter() - start)

    counting = threading.Thread(target=count)
    counting.start()
    alone = counted_in(lambda: time.sleep(0.3))
    beside = counted_in(lambda: read(path, progress=lambda done, total: told.append((done, total))))
    done_reading.set()
    counting.join()
    # With the GIL kept, the thread would stand still but for a moment at each call of `progress`.
    assert beside > 0.2 * alone
    assert told
    assert all(total == path.stat().st_size for _, total in told)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read(path, progress=stop)
