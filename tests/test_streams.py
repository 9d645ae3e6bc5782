"""Arrow streams from Python: the same records as from files, whoever made the stream."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

import equipoise as eq
from equipoise import schema

ARRAYS = ("visit_offsets", "code_offsets", "codes", "lab_offsets", "labs", "lab_values")
VISITS = pl.DataFrame(
    {
        "subject_id": [2, 1, 1, 3],
        "visit_id": [20, 10, 11, 30],
        "label": [True, False, None, False],
        "start": pl.Series(
            ["2150-01-01", "2150-03-01", "2150-02-01", "2150-01-01"]
        ).str.to_datetime(),
        "end": pl.Series(
            ["2150-01-09", "2150-03-09", "2150-02-09", "2150-01-09"]
        ).str.to_datetime(),
    }
)
SUBJECTS = pl.DataFrame(
    {"subject_id": [1, 2, 3, 4], "sex": ["F", None, "M", "F"], "ward": [7, 8, 7, 7]}
)
SPEC = """
name = "own"
[visits]
table = "visits"
subject = "subject_id"
visit = "visit_id"
start = "start"
end = "end"
[tasks.given]
column = "label"
true = ["true"]
false = ["false"]
[[codes]]
table = "codes"
kind = "diagnosis"
visit = "visit_id"
code = "code"
[[values]]
table = "values"
visit = "visit_id"
code = "code"
unit = "unit"
value = "numeric_value"
"""


def values(rows: int = 3000) -> pl.DataFrame:
    """Lab events with every oddity that a column can hold."""
    rng = np.random.default_rng(0)
    number = pl.Series(np.round(rng.lognormal(2, 1, rows), 2))
    number[5], number[6], number[7] = None, float("nan"), float("inf")
    return pl.DataFrame(
        {
            "note": ["not asked for"] * rows,
            "numeric_value": number,
            "code": rng.choice(["Na", "K", "", " Glucose ", None], rows).tolist(),
            "unit": rng.choice(["mmol/L", "mg/dL", None], rows).tolist(),
            "visit_id": rng.choice([10, 11, 20, 30, 99, None], rows).tolist(),
        }
    )


def codes() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "code": ["I10", " I50 ", "E11", "", None, "I10", "I10"],
            "visit_id": [10, 10, 11, 11, 20, None, 99],
        }
    )


def read(make: Callable[[pl.DataFrame], Any], threads: int = 2) -> eq.VisitRecords:
    return eq.read_events(
        VISITS,
        subjects=SUBJECTS,
        codes=make(codes()),
        values=make(values()),
        columns=eq.EventColumns(unit="unit"),
        threads=threads,
    )


def chunked(frame: pl.DataFrame) -> pa.Table:
    parts = [frame[:1], frame[1:1], frame[1:4], frame[4:]]
    return pa.concat_tables([part.to_arrow() for part in parts])


def dictionaries(frame: pl.DataFrame) -> pa.RecordBatchReader:
    table = chunked(frame)
    for place, field in enumerate(table.schema):
        if pa.types.is_large_string(field.type) or pa.types.is_integer(field.type):
            table = table.set_column(place, field.name, table.column(place).dictionary_encode())
    return table.to_reader(max_chunksize=7)


def categoricals(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.col(pl.String).cast(pl.Categorical))


def floating(frame: pl.DataFrame) -> pl.DataFrame:
    """As pandas leaves ids that are sometimes missing."""
    return frame.with_columns(pl.col("visit_id").cast(pl.Float64).fill_null(float("nan")))


def duck(frame: pl.DataFrame) -> Any:
    import duckdb

    table = frame.to_arrow()
    return duckdb.from_arrow(table).filter("true")


MAKERS = {
    "polars": lambda frame: frame,
    "polars chunks": lambda frame: pl.concat([frame[:9], frame[9:]], rechunk=False),
    "categoricals": categoricals,
    "pyarrow": chunked,
    "dictionaries": dictionaries,
    "one batch": lambda frame: pa.RecordBatch.from_struct_array(
        pa.concat_arrays(frame.to_arrow().to_struct_array().chunks)
    ),
    "pandas": lambda frame: frame.to_arrow().to_pandas(),
    "floating ids": floating,
    "duckdb": duck,
}


@pytest.fixture(scope="module")
def from_parquet(tmp_path_factory: pytest.TempPathFactory) -> eq.VisitRecords:
    root = tmp_path_factory.mktemp("own")
    (root / "own.toml").write_text(SPEC)
    for name, frame in (("visits", VISITS), ("codes", codes()), ("values", values())):
        frame = frame.with_columns(pl.col(pl.Boolean).cast(pl.String))
        frame.write_parquet(root / f"{name}.parquet", row_group_size=500)
    return eq.read_tables(root, root / "own.toml", threads=1)


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_stream_gives_the_bytes_of_a_parquet_file(
    from_parquet: eq.VisitRecords, maker: str, threads: int
) -> None:
    records = read(MAKERS[maker], threads)
    for name in ARRAYS:
        assert getattr(records, name).tobytes() == getattr(from_parquet, name).tobytes(), name
    assert records.visits.equals(from_parquet.visits)
    assert records.lab_table.equals(from_parquet.lab_table)
    assert records.code_table.equals(from_parquet.code_table)
    events = pl.col("table").is_in(["codes", "values"])
    # pandas knows no difference between NaN and null.
    if maker == "pandas":
        return
    assert records.ledger.filter(events).equals(from_parquet.ledger.filter(events))


def test_what_becomes_of_every_row() -> None:
    records = read(lambda frame: frame)
    ledger = {(t, o): n for t, o, n in records.ledger.iter_rows()}
    assert ledger["codes", "used"] == 3
    assert ledger["codes", "no code"] == 2
    assert ledger["codes", "no visit id"] == ledger["codes", "unknown visit"] == 1
    assert sum(n for (t, _), n in ledger.items() if t == "values") == 3000
    assert ledger["subjects", "no visit used"] == 1
    assert records.visits[schema.VISIT_ID].to_list() == [11, 10, 20, 30]
    assert records.visits[schema.LABEL].to_list() == [None, False, True, False]
    assert records.subjects["sex"].to_list() == ["F", "Unknown", "M"]
    assert records.subjects["ward"].to_list() == ["7", "8", "7"]
    assert records.lab_table["lab"].to_list() == sorted(records.lab_table["lab"])
    assert "Glucose, mg/dL" in records.lab_table["lab"].to_list()
    cohort = records.encode(records.fit_vocabulary())
    assert len(cohort.visits) == 4


def test_means_equal_polars() -> None:
    frame = values().with_columns(pl.col("code").str.strip_chars())
    used = frame.filter(
        pl.col("visit_id").is_in(VISITS["visit_id"].implode())
        & (pl.col("code").fill_null("") != "")
        & pl.col("numeric_value").is_finite()
    )
    cents = (used["numeric_value"] * 100).round().cast(pl.Int64)
    sums = used.with_columns(cents=cents).group_by("visit_id", "code", "unit")
    wanted = {
        (visit, f"{code}, {unit}" if unit else code): total / (100 * count)
        for visit, code, unit, total, count in sums.agg(
            pl.col("cents").sum(), pl.len().alias("rows")
        ).iter_rows()
    }
    records = read(lambda frame: frame)
    owner = np.repeat(records.visits["visit_id"].to_numpy(), np.diff(records.lab_offsets))
    labs = records.lab_table["lab"].to_list()
    got = {
        (int(visit), labs[lab]): value
        for visit, lab, value in zip(owner, records.labs, records.lab_values, strict=True)
    }
    assert got == wanted


def peak_of(batches: int, rows: int = 100_000) -> int:
    """Most bytes that Python and NumPy hold while so many batches are read."""

    def made() -> Iterator[pa.RecordBatch]:
        for _ in range(batches):
            columns = {"visit_id": np.full(rows, 10), "numeric_value": np.full(rows, 1.5)}
            yield pa.record_batch({**columns, "code": pa.repeat("Na", rows)})

    fields = {"visit_id": pa.int64(), "numeric_value": pa.float64(), "code": pa.string()}
    reader = pa.RecordBatchReader.from_batches(pa.schema(fields), made())
    tracemalloc.start()
    records = eq.read_events(VISITS, values=reader, threads=2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert records.lab_values.tolist() == [1.5]
    assert records.ledger["rows"].sum() == rows * batches + len(VISITS)
    return peak


def test_a_stream_is_read_in_bounded_memory() -> None:
    whole = 160 * 100_000 * 16
    assert peak_of(160) < whole / 4
    assert peak_of(160) < 2 * peak_of(20)


def broken(frame: pl.DataFrame) -> pa.RecordBatchReader:
    table = frame.to_arrow()

    def batches() -> Iterator[pa.RecordBatch]:
        yield from table.to_batches()
        raise RuntimeError("the wire was cut")

    return pa.RecordBatchReader.from_batches(table.schema, batches())


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a missing column": (
        {"values": values().drop("numeric_value")},
        "values, column numeric_value: want this column; got note, code",
    ),
    "text as an id": (
        {"codes": codes().with_columns(visit_id=pl.Series(["10", "ten", *["11"] * 5]))},
        'codes, column visit_id, row 3: want a whole number; got "ten"',
    ),
    "half an id": (
        {"codes": codes().with_columns(visit_id=pl.Series([10.0, 10.5, *[11.0] * 5]))},
        'codes, column visit_id, row 3: want a whole number; got "10.5"',
    ),
    "lists as values": (
        {"values": values().with_columns(numeric_value=pl.concat_list("numeric_value"))},
        "values, column numeric_value: want a number; got",
    ),
    "no rows": ({"values": values()[:0]}, "values: want at least one row; got an empty stream"),
    "a stream that breaks": (
        {"values": broken(values())},
        "values: want a stream that can be read; got .*the wire was cut",
    ),
    "no label": (
        {"visits": VISITS.drop("label"), "codes": codes()},
        "visits, column label: want this column",
    ),
    "a label that is none": (
        {"visits": VISITS.with_columns(label=pl.lit(2)), "codes": codes()},
        "visits, column label, row 2: want true, false, 0, 1 or null; got 2",
    ),
    "a fraction as a visit": (
        {"visits": VISITS.with_columns(pl.col("visit_id") + 0.5), "codes": codes()},
        "visits, column visit_id, row 2: want whole numbers; got 20.5",
    ),
    "lists as subjects, and words": (
        {
            "visits": VISITS.with_columns(pl.col("subject_id").cast(pl.String)),
            "subjects": SUBJECTS.with_columns(pl.concat_list("subject_id")),
            "codes": codes(),
        },
        "subjects, column subject_id: want text or whole numbers; got List",
    ),
    "text as a time": (
        {"visits": VISITS.with_columns(start=pl.lit("2150-01-01")), "codes": codes()},
        "visits, column start: want times; got String",
    ),
    "lists as subjects": (
        {"subjects": SUBJECTS.with_columns(pl.concat_list("subject_id")), "codes": codes()},
        "subjects, column subject_id: want whole numbers; got List",
    ),
    "a group called label": (
        {"subjects": SUBJECTS.rename({"sex": "label"}), "codes": codes()},
        "subjects, column label: want another name for a group",
    ),
    "a group called subject_id": (
        {
            "visits": VISITS.rename({"subject_id": "mrn"}),
            "subjects": SUBJECTS.rename({"subject_id": "mrn", "sex": "subject_id"}),
            "columns": eq.EventColumns(subject="mrn"),
            "codes": codes(),
        },
        "subjects, column subject_id: want another name for a group",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_errors_name_the_stream_and_its_column(what: str) -> None:
    given, message = BAD[what]
    with pytest.raises(eq.DataError, match=message):
        eq.read_events(**{"visits": VISITS, "subjects": SUBJECTS, **given})


@pytest.mark.parametrize("threads", [1, 2])
def test_rows_are_counted_over_batches(threads: int) -> None:
    ids = ["10"] * 150_000
    ids[100_000] = ids[100_001] = "ten"
    frame = pl.DataFrame({"visit_id": ids, "code": "Na", "numeric_value": 1.0})
    parts = [frame[:40_000], frame[40_000:]]
    stream = pa.concat_tables([part.to_arrow() for part in parts])
    with pytest.raises(eq.DataError) as caught:
        eq.read_events(VISITS, values=stream, threads=threads)
    error = caught.value
    assert (error.table, error.column, error.row) == ("values", "visit_id", 100_002)


@pytest.mark.parametrize("name", ["outcome", "len", "row", "start", "died"])
def test_groups_may_be_called_as_ours_are(name: str) -> None:
    wanted = eq.read_events(VISITS, subjects=SUBJECTS, values=values())
    got = eq.read_events(VISITS, subjects=SUBJECTS.rename({"ward": name}), values=values())
    assert got.subjects.rename({name: "ward"}).equals(wanted.subjects)
    assert got.ledger.equals(wanted.ledger)


def test_labels_as_pandas_writes_those_with_nulls() -> None:
    floats = pl.Series([1.0, 0.0, float("nan"), 0.0])
    got = eq.read_events(VISITS.with_columns(label=floats), values=values())
    assert got.visits.equals(eq.read_events(VISITS, values=values()).visits)
    with pytest.raises(eq.DataError, match="row 2: want true, false, 0, 1 or null; got 0.5"):
        eq.read_events(VISITS.with_columns(label=floats / 2), values=values())


def test_what_is_no_stream_is_bad_usage() -> None:
    with pytest.raises(eq.UsageError, match="values: want an Arrow stream .* got list"):
        eq.read_events(VISITS, values=[1, 2])  # type: ignore[arg-type]
    with pytest.raises(eq.UsageError, match="visits: want an Arrow stream .* got dict"):
        eq.read_events({}, codes=codes())  # type: ignore[arg-type]
    with pytest.raises(eq.UsageError, match="want codes, values or both"):
        eq.read_events(VISITS)


def test_a_window_cuts_a_stream() -> None:
    times = ["2150-03-01 10:00", "2150-03-03 10:00", None]
    events = pl.DataFrame(
        {
            "visit_id": [10, 10, 10],
            "code": ["Na"] * 3,
            "numeric_value": [1.0, 3.0, 5.0],
            "at": pl.Series(times).str.to_datetime("%Y-%m-%d %H:%M"),
        }
    )
    columns = eq.EventColumns(time="at")
    records = eq.read_events(VISITS, values=events, columns=columns, until="admission+24h")
    assert records.lab_values.tolist() == [1.0]
    ledger = dict(records.ledger.filter(pl.col("table") == "values")["outcome", "rows"].iter_rows())
    assert ledger == {"used": 1, "no event time": 1, "after the window": 1}
    assert records.config["until"] == "admission+24h"


def test_records_of_streams_are_saved_and_loaded(tmp_path: Path) -> None:
    records = read(lambda frame: frame)
    records.save(tmp_path / "records")
    again = eq.VisitRecords.load(tmp_path / "records")
    assert again.ledger.equals(records.ledger)
    assert again.lab_values.tobytes() == records.lab_values.tobytes()


def test_singles_are_read_by_their_own_decimal() -> None:
    single = pl.DataFrame(
        {"visit_id": [10, 11], "code": ["Na", "Na"], "numeric_value": [0.1, 138.7]},
        schema_overrides={"numeric_value": pl.Float32},
    )
    records = eq.read_events(VISITS, values=single)
    assert sorted(records.lab_values.tolist()) == [0.1, 138.7]
