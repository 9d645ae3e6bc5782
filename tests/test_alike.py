"""What is in a cell means the same in text, in Parquet and in a stream."""

from __future__ import annotations

import ctypes
import re
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import equipoise as eq
from equipoise import _core
from equipoise.sources.declaration import times_of

VISITS = np.array([7, 3], np.int64)
NO_NAMES = ["a\x1fb", "\0"]


def as_csv(rows: pl.DataFrame, folder: Path) -> Any:
    rows.write_csv(folder / "t.csv")
    return [folder / "t.csv"]


def as_parquet(rows: pl.DataFrame, folder: Path) -> Any:
    rows.write_parquet(folder / "t.parquet")
    return [folder / "t.parquet"]


def as_stream(rows: pl.DataFrame, folder: Path) -> Any:
    return ("t", rows)


MAKERS = pytest.mark.parametrize("make", [as_csv, as_parquet, as_stream])


@MAKERS
@pytest.mark.parametrize("name", NO_NAMES)
def test_no_name_where_none_is_needed(tmp_path: Path, make: Any, name: str) -> None:
    """A row of no visit, or without a code, is counted whatever else it holds."""
    rows = pl.DataFrame({
        "visit": [7, 99, None, 3, 7],
        "code": ["I10", name, name, None, "I50"],
        "version": ["10", "10", name, name, "10"],
        "value": [1.0, 2.0, 3.0, 4.0, None],
    })  # fmt: skip
    *_, (names, ledger) = _core.read_codes(make(rows, tmp_path), rows.columns[:3], VISITS)
    assert names == ["I10\x1f10", "I50\x1f10"]
    want = {"used": 2, "unknown visit": 1, "no visit id": 1, "no code": 1}
    assert {outcome: rows for outcome, rows in ledger if rows} == want
    *_, (names, ledger) = _core.read_values(make(rows, tmp_path), rows.columns, VISITS)
    assert names == ["I10\x1f10"]
    assert {outcome: rows for outcome, rows in ledger if rows} == {
        **want,
        "used": 1,
        "no numeric value": 1,
    }


@MAKERS
@pytest.mark.parametrize("name", NO_NAMES)
@pytest.mark.parametrize("value", [1.0, None])
def test_no_name_where_one_is(tmp_path: Path, make: Any, name: str, value: float | None) -> None:
    rows = pl.DataFrame(
        {"visit": [7, 7], "code": ["I10", "I50"], "version": ["10", name], "value": [1.0, value]},
        schema_overrides={"value": pl.Float64},
    )
    for read, columns in [(_core.read_codes, 3), (_core.read_values, 4)]:
        with pytest.raises(eq.DataError) as caught:
            read(make(rows, tmp_path), rows.columns[:columns], VISITS)
        assert (caught.value.column, caught.value.row) == ("version", 3)


@MAKERS
@pytest.mark.parametrize("dtype", [pl.Int64, pl.Int32, pl.Float64])
def test_a_number_is_no_time(tmp_path: Path, make: Any, dtype: type[pl.DataType]) -> None:
    """Seconds, days or microseconds: who knows. In 1970 every event would lie before its limit."""
    rows = pl.DataFrame({"visit": [7], "code": ["I10"], "time": [1_600_000]})
    rows = rows.with_columns(pl.col("time").cast(dtype))
    ends, nothing = np.zeros(2, np.int64), np.zeros(2, np.int64)
    placing: Any = {"time": ("time", "time"), "stays": None, "window": (ends, nothing)}
    events = make(rows, tmp_path)
    if make is as_csv:
        *_, (_, ledger) = _core.read_codes(events, rows.columns[:2], VISITS, placing=placing)
        assert {outcome: rows for outcome, rows in ledger if rows} == {"no event time": 1}
        with pytest.raises(eq.DataError, match=r"t.csv, column time, row 2: want a time"):
            _core.read_table(events, [("time", "time")])
        return
    with pytest.raises(eq.DataError, match="column time: want times; got "):
        _core.read_codes(events, rows.columns[:2], VISITS, placing=placing)
    if make is as_parquet:
        with pytest.raises(eq.DataError, match="column time: want times; got "):
            _core.read_table(events, [("time", "time")])


@pytest.mark.parametrize("make", [as_csv, as_parquet])
def test_blanks_of_every_kind_are_no_part_of_a_cell(tmp_path: Path, make: Any) -> None:
    rows = pl.DataFrame({
        "text": ["\xa0WHITE\u3000", "\u2003", " a\xa0b "],
        "number": ["\xa01.5\xa0", "2", " 3"],
        "id": ["7\xa0", "\u30008", "9"],
    })  # fmt: skip
    kinds = [("text", "text"), ("number", "float"), ("id", "id")]
    table = pl.DataFrame(_core.read_table(make(rows, tmp_path), kinds))
    assert table.to_dict(as_series=False) == {
        "text": ["WHITE", None, "a\xa0b"],
        "number": [1.5, 2.0, 3.0],
        "id": [7, 8, 9],
    }


@pytest.mark.parametrize("make", [as_csv, as_parquet])
def test_text_has_no_nul(tmp_path: Path, make: Any) -> None:
    rows = pl.DataFrame({"text": ["a", "b\0"]})
    with pytest.raises(eq.DataError, match="column text, row 3"):
        _core.read_table(make(rows, tmp_path), [("text", "text")])


@given(
    st.builds(
        "".join,
        st.tuples(
            st.sampled_from(["2180-05-06", "1999-12-31", "2023-02-29", "2180-5-06", ""]),
            st.sampled_from([" 22:23", "T00:00", " 24:00", "T23:59", " 1:00", ""]),
            st.sampled_from(["", ":59", ":59.5", ":60", ":00.123456", ":", ":1", ":01."]),
            st.sampled_from(
                ["", "Z", " UTC", "+01:30", "-0700", "+00", "+24", "-01:60", "+1", "z"]
            ),
        ),
    )
)
def test_a_time_is_the_same_to_the_core_to_polars_and_to_python(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "t.csv"
        file.write_text(f"id,time\n1,{text}\n")
        try:
            batch = _core.read_table([file], [("id", "id"), ("time", "time")], threads=1)
            found = pl.DataFrame(batch)["time"].item()
        except eq.DataError:
            found = None
    assert times_of(pl.Series([text])).item() == found
    # Python reads what is written in full, and more.
    plain = (
        re.fullmatch(r".{16}(:..(\.5|\..{6})?)?(Z| UTC|[+-]..(:?..)?)?", text) or len(text) == 10
    )
    try:
        want = datetime.fromisoformat(text.replace(" UTC", "Z")) if plain else None
    except ValueError:
        want = None
    if want is not None and want.tzinfo:
        want = want.astimezone(UTC).replace(tzinfo=None)
    assert found == want


def test_a_stream_that_fails_without_a_word() -> None:
    """The C interface lets a maker fail and say nothing of why."""
    rows = pl.DataFrame({"visit": [7], "code": ["I10"]})

    class Silent:
        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            capsule = rows.__arrow_c_stream__(requested_schema)
            pointer = ctypes.pythonapi.PyCapsule_GetPointer
            pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
            fields = ctypes.cast(
                pointer(capsule, b"arrow_array_stream"), ctypes.POINTER(ctypes.c_void_p)
            )
            # get_schema, get_next, get_last_error, release, private data.
            fields[1] = ctypes.cast(FAILS, ctypes.c_void_p).value
            fields[2] = ctypes.cast(SAYS_NOTHING, ctypes.c_void_p).value
            return capsule

    for threads in (1, 2):
        with pytest.raises(eq.DataError, match=r"^t: want a stream that can be read; got "):
            _core.read_codes(("t", Silent()), rows.columns, VISITS, threads=threads)


FAILS = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(lambda *_: 5)
SAYS_NOTHING = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(lambda _: None)
