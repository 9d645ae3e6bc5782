"""Tables of labels: how their cells are read, which visit they belong to, what is refused."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import equipoise as eq
from equipoise import schema
from equipoise.sources.labels import VALUE, join_labels
from equipoise.tasks import PREDICTION_TIME

SUBJECT, VISIT = schema.SUBJECT_ID, schema.VISIT_ID


def day(number: float) -> datetime:
    return datetime(2180, 1, 1) + timedelta(days=number)


#: Visits 11 and 12 lie within 10; 12 and 13 begin at one moment; nobody knows when 21 ends.
VISITS = pl.DataFrame(
    [
        (1, 10, day(0), day(30)),
        (1, 11, day(5), day(10)),
        (1, 12, day(20), day(29)),
        (1, 13, day(20), day(25)),
        (2, 20, day(0), day(9)),
        (2, 21, day(20), None),
    ],
    schema={SUBJECT: pl.Int64, VISIT: pl.Int64, "start": pl.Datetime("us"), "end": pl.Datetime},
    orient="row",
)


def joined(path: Path, table: str | dict[str, Any] | pl.DataFrame) -> dict[int, bool]:
    """The labels that visits get from a table, as CSV text or a frame in Parquet."""
    if isinstance(table, str):
        path = path / "labels.csv"
        path.write_text(table)
    else:
        path = path / "labels.parquet"
        pl.DataFrame(table, strict=False).write_parquet(path)
    labelled, _ = join_labels(path, VISITS)
    assert labelled[VISIT].equals(VISITS[VISIT])
    return dict(labelled.select(VISIT, VALUE).drop_nulls().iter_rows())


@pytest.mark.parametrize("word", ["10", "10.0", " 10 ", "10."])
def test_ids_are_read_as_the_core_reads_them(tmp_path: Path, word: str) -> None:
    text = f"subject_id,visit_id,boolean_value\n1,{word},1\n"
    assert joined(tmp_path, text) == {10: True}
    assert joined(tmp_path, text.replace("1,", "1.0,", 1)) == {10: True}


def test_ids_and_labels_of_any_type(tmp_path: Path) -> None:
    table = {SUBJECT: [1.0, 1.0], VISIT: [10.0, 11.0], VALUE: [1.0, 0.0]}
    assert joined(tmp_path, table) == {10: True, 11: False}
    words = pl.DataFrame({SUBJECT: ["1"] * 3, VISIT: ["10", "11", "12"], VALUE: ["True", "0", ""]})
    assert joined(tmp_path, words.cast(pl.Categorical)) == {10: True, 11: False}
    numbers = {SUBJECT: [1] * 3, VISIT: [10, 11, 12], VALUE: [1.0, float("nan"), None]}
    assert joined(tmp_path, numbers) == {10: True}
    csv = "boolean_value,visit_id,subject_id\n,10,1\nNaN,11,1\nfalse,12,1\n"
    assert joined(tmp_path, csv) == {12: False}


@pytest.mark.parametrize(
    "moment",
    [
        "2180-01-07",
        "2180-01-07 09:30",
        "2180-01-07T09:30Z",
        "2180-01-07 09:30:01",
        "2180-01-07T09:30:01.5Z",
        " 2180-01-07T09:30:01Z ",
        "2180-01-11 23:30:01.5+23:59",
        "2180-01-11T01:29:01+0130",
        "2180-01-05 23:30-01",
        "2180-01-07 09:30 UTC",
    ],
)
def test_times_as_people_write_them(tmp_path: Path, moment: str) -> None:
    text = f"subject_id,prediction_time,boolean_value\n1,{moment},1\n"
    assert joined(tmp_path, text) == {11: True}
    table = {SUBJECT: [1], PREDICTION_TIME: [moment], VALUE: [True]}
    assert joined(tmp_path, table) == {11: True}


def test_a_time_belongs_to_the_visit_that_began_last_of_those_that_enclose_it(
    tmp_path: Path,
) -> None:
    for moment, visit in [(0, 10), (4, 10), (5, 11), (10, 11), (11, 10), (21, 13), (27, 12)]:
        table = {SUBJECT: [1], PREDICTION_TIME: [day(moment)], VALUE: [True]}
        assert joined(tmp_path, table) == {visit: True}, moment
    table = {SUBJECT: [1, 1], PREDICTION_TIME: [date(2180, 1, 12), date(2180, 1, 7)]}
    assert joined(tmp_path, {**table, VALUE: [True, False]}) == {10: True, 11: False}


def test_labels_of_no_visit_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(
        "row,start,subject_id,prediction_time,boolean_value,label\n"
        "7,x,1,2180-01-02,1,x\n7,x,2,2180-01-22,1,x\n7,x,3,2180-01-02,1,x\n7,x,1,2179-12-31,1,x\n"
    )
    labelled, oddities = join_labels(path, VISITS)
    assert labelled.columns == [*VISITS.columns, VALUE, PREDICTION_TIME]
    assert labelled[VALUE].to_list() == [True, None, None, None, None, None]
    assert oddities == {"labels of no visit in the records": 3}


BY_ID = "subject_id,visit_id,boolean_value\n"
BY_TIME = "subject_id,prediction_time,boolean_value\n"
BAD_CSV = [
    (f"{BY_ID}1,10,1\n2,11,0\n", "subject_id, row 3: want 1, the subject of visit 11; got 2"),
    (f"{BY_ID}1,10,1\n1,11.7,0\n", "column visit_id, row 3: want a whole number; got 11.7"),
    (f"{BY_ID}1,10,1\n1,,0\n", "column visit_id, row 3: want a whole number; got an empty cell"),
    (f"{BY_ID}x,10,1\n", "column subject_id, row 2: want a whole number; got x"),
    (f"{BY_ID}1,10,1\n2,20,0\n1,11,1\n1,10,0\n", "row 5: want one label a visit; got visit 10"),
    (f"{BY_TIME}1,2180-01-02,1\n1,2180-01-06,1\n1,2180-01-04,0\n", "row 4: want one label"),
    (f"{BY_TIME}1,2180-01-02,1\n1,,0\n", "prediction_time, row 3: want a time such as"),
    (f"{BY_TIME}1,2180-01-02T09:30+25:00,1\n", "prediction_time, row 2: want a time such as"),
    (f"{BY_ID}1,99,1\n", "labels.csv: want true or false for some visit in the records; got 1"),
    (f"{BY_ID}1,10,\n", "labels.csv: want true or false for some visit in the records; got 1"),
    (f"{BY_TIME}2,2180-01-22,1\n", "want true or false for some visit in the records; got 1 rows"),
    (BY_ID, "labels.csv: want true or false for some visit in the records; got 0 rows"),
    (f"{BY_ID}1,10,yes\n", "column boolean_value, row 2: want true or false; got yes"),
]


@pytest.mark.parametrize(("text", "message"), BAD_CSV)
def test_rows_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(eq.DataError) as caught:
        joined(tmp_path, text)
    assert message in str(caught.value)


def test_rows_of_parquet_are_counted_as_elsewhere(tmp_path: Path) -> None:
    good = {SUBJECT: [1, 1], VISIT: [10, 11], VALUE: [True, False]}
    for name, cells, message in (
        (VISIT, [10.0, 11.7], "column visit_id, row 3: want a whole number; got 11.7"),
        (VISIT, [10.0, float("nan")], "column visit_id, row 3: want a whole number; got nan"),
        (VISIT, [10, None], "column visit_id, row 3: want a whole number; got an empty cell"),
        (SUBJECT, [1, 2], "column subject_id, row 3: want 1, the subject of visit 11; got 2"),
        (VALUE, [1, 2], "column boolean_value, row 3: want true or false; got 2"),
    ):
        with pytest.raises(eq.DataError) as caught:
            joined(tmp_path, {**good, name: cells})
        assert f"labels.parquet, {message}" in str(caught.value)


ODD_TYPES = [
    pl.Series([[1]]),
    pl.Series([{"a": 1}]),
    pl.Series([b"\xff"]),
    pl.Series([timedelta(days=1)]),
    pl.Series([time(9, 30)]),
    pl.Series([[1]], dtype=pl.Array(pl.Int64, 1)),
    pl.Series(["x"], dtype=pl.Categorical),
]


@pytest.mark.parametrize("odd", ODD_TYPES, ids=lambda odd: str(odd.dtype))
@pytest.mark.parametrize("name", [SUBJECT, VISIT, PREDICTION_TIME, VALUE])
def test_odd_types_are_refused(tmp_path: Path, odd: pl.Series, name: str) -> None:
    table = {SUBJECT: [1], VISIT: [10], PREDICTION_TIME: [day(1)], VALUE: [True]}
    with pytest.raises(eq.DataError, match=f"labels.parquet, column {name}.*: want"):
        joined(tmp_path, {**table, name: odd})


SPEC = """
[visits]
table = "stays"
subject = "patient"
visit = "stay"
order = "stay"
start = "from"
end = "to"
[tasks.dead]
column = "fate"
true = ["1"]
false = ["0"]
[[values]]
columns = ["sodium"]
"""
STAYS = """patient,stay,from,to,fate,sodium
P7,3,2180-01-01,2180-01-09,1,140
P7,4,2180-02-01,2180-02-09,0,141
Q,5,2180-01-01,2180-01-09,0,142
"""


@pytest.mark.parametrize("spec", [SPEC, SPEC.replace('subject = "patient"\n', "")])
@pytest.mark.parametrize(
    ("way", "places"),
    [("visit_id", ("3", "5")), ("prediction_time", ("2180-01-05", "2180-01-05"))],
)
def test_subjects_are_called_as_the_table_calls_them(
    tmp_path: Path, spec: str, way: str, places: tuple[str, str]
) -> None:
    (tmp_path / "stays.csv").write_text(STAYS)
    (tmp_path / "own.toml").write_text(spec)
    labels = tmp_path / "labels.csv"
    text = f"subject_id,{way},boolean_value\nP7,{places[0]},0\n Q ,{places[1]},1\n"
    labels.write_text(text)
    by_time = way == PREDICTION_TIME
    if by_time and "patient" not in spec:
        # Whose visits they are is not known, and nothing else says which one.
        with pytest.raises(eq.DataError, match="want true or false for some visit"):
            eq.read_tables(tmp_path, tmp_path / "own.toml", labels=labels)
        return
    records = eq.read_tables(tmp_path, tmp_path / "own.toml", labels=labels)
    known = records.visits.drop_nulls(schema.LABEL)
    assert known[schema.LABEL].to_list() == [False, True]
    if "patient" in spec and not by_time:
        labels.write_text(text.replace("P7,3", "Q,3"))
        with pytest.raises(eq.DataError, match="row 2: want P7, the subject of visit 3; got Q"):
            eq.read_tables(tmp_path, tmp_path / "own.toml", labels=labels)


def test_what_comes_after_a_prediction_is_left_out_of_earlier_visits_too(tmp_path: Path) -> None:
    """The first visit goes on beyond the second's prediction; the third has one of its own."""
    visits = pl.DataFrame(
        {
            "subject_id": [1, 1, 2],
            "visit_id": [10, 11, 20],
            "from": [day(1), day(5), day(1)],
            "to": [day(31), day(10), day(31)],
        }
    )
    values = pl.DataFrame(
        {
            "visit": [10, 10, 11, 11, 20],
            "at": [day(2), day(20), day(5.5), day(8), day(20)],
            "lab": "a",
            "value": [1.0, 3.0, 7.0, 9.0, 5.0],
        }
    )
    codes = pl.DataFrame({"visit": [10, 11, 20], "code": ["a", "b", "c"]})
    for name, frame in {"visits": visits, "values": values, "codes": codes}.items():
        frame.write_parquet(tmp_path / f"{name}.parquet")
    labels = pl.DataFrame(
        {
            "subject_id": [1, 2],
            "visit_id": [11, 20],
            "prediction_time": [day(6), day(25)],
            "boolean_value": [True, False],
        }
    )
    labels.write_parquet(tmp_path / "labels.parquet")
    (tmp_path / "own.toml").write_text(OVERLAPPING)
    records = eq.read_tables(
        tmp_path,
        tmp_path / "own.toml",
        labels=tmp_path / "labels.parquet",
        until="prediction",
    )
    assert records.visits["visit_id"].to_list() == [10, 11, 20]
    assert records.lab_values.tolist() == [1.0, 7.0, 5.0]
    assert len(records.codes) == 0


OVERLAPPING = """
[visits]
table = "visits"
subject = "subject_id"
visit = "visit_id"
start = "from"
end = "to"
[tasks.none]
column = "visit_id"
true = ["10"]
false = ["11"]
[[codes]]
table = "codes"
visit = "visit"
code = "code"
[[values]]
table = "values"
visit = "visit"
time = "at"
code = "lab"
value = "value"
"""
