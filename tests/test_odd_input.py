"""Input that once was read as something else: refused by name, counted, or read as it is meant."""

from __future__ import annotations

import gzip
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import equipoise as eq
from equipoise import _core, schema, store
from equipoise.sources import mimic_iii, mimic_iv
from equipoise.sources.labels import join_labels
from equipoise.sources.meds import MedsSettings
from equipoise.tasks import PREDICTION_TIME, GroupSettings, label_visits, task_named

VISITS = np.array([7, 11], np.int64)
DAY = datetime(2150, 1, 1)


def outcomes(records: eq.VisitRecords, name: str) -> dict[str, int]:
    rows = records.ledger.filter(pl.col("table") == name)
    return dict(rows.select("outcome", "rows").iter_rows())


# Ids and values of types that are no such thing.


@pytest.mark.parametrize("make", ["parquet", "stream"])
@pytest.mark.parametrize(
    ("ids", "want"),
    [
        (
            pa.array([Decimal("11.5")], pa.decimal128(10, 1)),
            'row 2: want a whole number; got "11.5',
        ),
        (pa.array([date(1970, 1, 12)]), "column visit: want a whole number; got Date32"),
        (pa.array([DAY]), "column visit: want a whole number; got Timestamp"),
        (pa.array([True]), "column visit: want a whole number; got Boolean"),
        (pa.array([timedelta(days=1)]), "column visit: want a whole number; got Duration"),
    ],
)
def test_no_id_is_made_of_another_type(tmp_path: Path, make: str, ids: pa.Array, want: str) -> None:
    table = pa.table({"visit": ids, "code": ["I10"]})
    pq.write_table(table, tmp_path / "t.parquet")
    events: Any = [tmp_path / "t.parquet"] if make == "parquet" else ("t", table)
    with pytest.raises(eq.DataError) as caught:
        _core.read_codes(events, ["visit", "code"], VISITS)
    assert want in str(caught.value)


def test_ids_and_values_may_be_decimals_or_small() -> None:
    for kind in (pa.decimal128(10, 1), pa.int8(), pa.uint64(), pa.float32()):
        ids = pa.array([11, 7, None, 99], pa.int8()).cast(kind)
        values = pa.array([1.5, 2.0, 3.0, 4.0]).cast(pa.decimal128(10, 2))
        table = pa.table({"visit": ids, "lab": ["a"] * 4, "value": values})
        _, _, means, (_, ledger) = _core.read_values(("t", table), table.column_names, VISITS)
        assert means.tolist() == [2.0, 1.5]
        assert {w: n for w, n in ledger if n} == {"used": 2, "unknown visit": 1, "no visit id": 1}


@pytest.mark.parametrize("value", [timedelta(days=1), date(2150, 1, 1), True])
def test_a_value_is_a_number(value: object) -> None:
    table = pa.table({"visit": [7], "lab": ["a"], "value": [value]})
    with pytest.raises(eq.DataError, match="column value: want a number; got"):
        _core.read_values(("t", table), table.column_names, VISITS)


def test_a_list_is_no_code() -> None:
    table = pa.table({"visit": [7], "code": [["I10"]]})
    with pytest.raises(eq.DataError, match="column code: want text; got List"):
        _core.read_codes(("t", table), table.column_names, VISITS)


@pytest.mark.parametrize("names", [["visit", "visit", "code"], ["VISIT", "Visit", "code"]])
@pytest.mark.parametrize("make", ["csv", "parquet", "stream"])
def test_a_column_that_is_there_twice_is_refused(
    tmp_path: Path, make: str, names: list[str]
) -> None:
    table = pa.table([[7], [11], ["I10"]], names=names)
    (tmp_path / "t.csv").write_text(",".join(names) + "\n7,11,I10\n")
    pq.write_table(table, tmp_path / "t.parquet")
    events: Any = ("t", table) if make == "stream" else [tmp_path / f"t.{make}"]
    with pytest.raises(eq.DataError, match="column visit: want this column once; got it twice"):
        _core.read_codes(events, ["visit", "code"], VISITS)
    # What is spelt exactly so is the one that is meant.
    table = table.rename_columns(["VISIT", "visit", "code"])
    offsets, *_ = _core.read_codes(("t", table), ["visit", "code"], VISITS)
    assert offsets.tolist() == [0, 0, 1]


# Dates within windows.


def day_events(kind: str) -> tuple[dict[str, Any], str]:
    """Events of one visit on the first day and the second, and the clock of their column."""
    days = [date(2150, 1, 1), date(2150, 1, 2)]
    midnights = [DAY, DAY + timedelta(days=1)]
    moments, clock = {
        "text": ([f"{day}" for day in days], "time"),
        "date": (days, "time"),
        "midnight": (midnights, "date"),
        "midnight text": ([f"{moment}" for moment in midnights], "date"),
    }[kind]
    return {"visit": [7, 7], "code": ["early", "late"], "at": moments}, clock


@pytest.mark.parametrize("kind", ["text", "date", "midnight", "midnight text"])
@pytest.mark.parametrize("make", ["csv", "parquet", "stream"])
def test_a_date_counts_as_the_end_of_its_day(tmp_path: Path, make: str, kind: str) -> None:
    """Admitted on the first at 10, a window of 24 hours ends within the second day."""
    events, clock = day_events(kind)
    frame = pl.DataFrame(events)
    frame.write_csv(tmp_path / "t.csv", datetime_format="%Y-%m-%d %H:%M:%S")
    frame.write_parquet(tmp_path / "t.parquet")
    where: Any = ("t", frame) if make == "stream" else [tmp_path / f"t.{make}"]
    ends = DAY + timedelta(hours=34) - datetime(1970, 1, 1)
    limit = np.array([ends // timedelta(microseconds=1)], np.int64)
    placing = {"time": ("at", clock), "stays": None, "window": (limit, limit)}
    *_, (names, ledger) = _core.read_codes(where, ["visit", "code"], VISITS[:1], placing=placing)
    assert {outcome: rows for outcome, rows in ledger if rows} == {"used": 1, "after the window": 1}
    assert names == ["early"]


def test_what_mimic_writes_as_dates() -> None:
    units = [
        {kind: events.when.unit for kind, events in source.CODES.items() if events.when}
        for source in (mimic_iii, mimic_iv)
    ]
    assert units == [{"medication": "date"}, {"procedure": "date", "medication": "time"}]


# Tables of labels.

STAYS = pl.DataFrame(
    {
        schema.SUBJECT_ID: [1, 1, 2],
        schema.VISIT_ID: [11, 12, 21],
        "start": [DAY] * 3,
        "end": [DAY + timedelta(days=3)] * 3,
    }
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("subject_id,visit_id,boolean_value\n1,11,true\n1,12\n", r"row 3: want 3 fields; got 2"),
        ("subject_id,visit_id,boolean_value\n1,11,true,\n", r"row 2: want 3 fields; got 4"),
        ("subject_id,boolean_value,visit_id,boolean_value\n1,1,11,0\n", "want this column once"),
        (
            "subject_id,visit_id,visit_id,prediction_time,boolean_value\n1,11,12,2150-01-02,1\n",
            "column visit_id: want this column once",
        ),
        ("subject_id,visit_id,boolean_value\n\n1,11,1\n\n1,x,1\n", "visit_id, row 5: want a whole"),
        ("subject_id,visit_id,boolean_value\n\n1,11,1\n1,11,1\n", "row 4: want one label"),
        ("subject_id,visit_id,boolean_value\n\n2,11,1\n", "row 3: want 1, the subject of visit 11"),
        ("subject_id,boolean_value\n1,1\n", "visit_id or prediction_time: want one of them"),
        ("visit_id,boolean_value\n1,1\n", "column subject_id: want this column; got visit_id"),
        ("", "want a header and rows; got an empty file"),
    ],
)
def test_rows_of_labels_are_whole(tmp_path: Path, text: str, message: str) -> None:
    for name, content in (("l.csv", text.encode()), ("l.csv.gz", gzip.compress(text.encode()))):
        (tmp_path / name).write_bytes(content)
        if text or name == "l.csv":
            with pytest.raises(eq.DataError, match=rf"{name}.*{message}"):
                join_labels(tmp_path / name, STAYS)


def test_labels_that_end_early(tmp_path: Path) -> None:
    text = "subject_id,visit_id,boolean_value\n" + "1,11,true\n" * 10_000
    (tmp_path / "l.csv.gz").write_bytes(gzip.compress(text.encode())[:-20])
    with pytest.raises(eq.DataError, match=r"l\.csv\.gz: want a whole file"):
        join_labels(tmp_path / "l.csv.gz", STAYS)


def test_blank_lines_are_no_labels(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("subject_id,visit_id,boolean_value\n\n1,11,1\n\n2,21,0\n\n")
    labelled, _ = join_labels(tmp_path / "l.csv", STAYS)
    assert labelled["boolean_value"].to_list() == [True, None, False]
    assert PREDICTION_TIME not in labelled.columns


# Splits, persons and ids of own tables and of streams.

SPEC = """
[visits]
table = "stays"
subject = "patient"
visit = "stay"
start = "from"
end = "to"
person = "person"
split = "part"
null = ["-"]
[tasks.dead]
column = "fate"
true = ["1"]
false = ["0"]
[[values]]
columns = ["sodium"]
"""
HEADER = "patient,stay,from,to,person,part,fate,sodium\n"


def own(root: Path, rows: str, *, strict: bool = False) -> eq.VisitRecords:
    (root / "stays.csv").write_text(HEADER + rows)
    (root / "own.toml").write_text(SPEC)
    return eq.read_tables(root, root / "own.toml", strict=strict)


def test_a_person_is_in_one_split(tmp_path: Path) -> None:
    rows = "1,1,2150-01-01,2150-01-02,a,train,1,140\n2,2,2150-01-01,2150-01-02,a,held_out,0,141\n"
    with pytest.raises(eq.DataError, match=r"person in one split; got train and held_out for 1, 2"):
        own(tmp_path, rows)
    worded = rows.replace("1,1,", "ann,1,").replace("2,2,", "ann's twin,2,")
    with pytest.raises(eq.DataError, match=r"train and held_out for ann, ann's twin"):
        own(tmp_path, worded)
    records = own(tmp_path, rows.replace("held_out", "-"))
    assert records.oddities["subjects without a split"] == 1
    people = pl.DataFrame({"subject_id": [1, 2], "person_id": [5, 5], "split": ["train", "tuning"]})
    visits = pl.DataFrame({"subject_id": [1, 2], "visit_id": [7, 11], "label": [0, 1]})
    codes = pl.DataFrame({"visit_id": [7, 11], "code": ["I10", "I50"]})
    with pytest.raises(eq.DataError, match="person in one split; got train and tuning for 1, 2"):
        eq.read_events(visits, subjects=people, codes=codes)
    odd = people.with_columns(person_id=pl.Series([5, None]), split=pl.lit("train"))
    with pytest.raises(eq.DataError, match="subjects, column person_id, row 3: want a person"):
        eq.read_events(visits, subjects=odd, codes=codes)


def test_a_subject_in_two_splits_is_counted(tmp_path: Path) -> None:
    rows = "1,1,2150-01-01,2150-01-02,a,train,1,140\n1,2,2150-02-01,2150-02-02,a,tuning,0,141\n"
    records = own(tmp_path, rows)
    assert records.oddities["subjects in two splits (the first visit's is used)"] == 1
    with pytest.raises(eq.DataError, match="in two splits"):
        own(tmp_path, rows, strict=True)


def test_ids_that_are_one_number(tmp_path: Path) -> None:
    rows = "".join(
        f"{subject},{number},2150-0{number}-01,2150-0{number}-02,a,-,{number % 2},140\n"
        for number, subject in enumerate(["007", "7", "7.0", "8"], 1)
    )
    records = own(tmp_path, rows)
    (ways,) = (n for name, n in records.oddities.items() if "written otherwise" in name)
    assert (len(records), ways) == (2, 1)
    with pytest.raises(eq.DataError, match="written otherwise"):
        own(tmp_path, rows, strict=True)
    own(tmp_path, rows.replace("007", "7"), strict=True)


def test_a_visit_that_ends_before_it_begins(tmp_path: Path) -> None:
    rows = "1,1,2150-03-01,2150-02-03,a,-,1,140\n2,2,2150-01-01,2150-01-02,b,-,0,141\n"
    assert outcomes(own(tmp_path, rows), "stays") == {"used": 1, "end before start": 1}
    with pytest.raises(eq.DataError, match=r"stays\.csv, row 2: 1 row is left out \(end before"):
        own(tmp_path, rows, strict=True)


def test_a_visit_that_ends_on_the_day_it_began(tmp_path: Path) -> None:
    """With a date alone for its end, nobody knows the hour."""
    rows = (
        "1,1,2150-03-01 10:00,2150-03-01,a,-,1,140\n"
        "2,2,2150-01-01 10:00,2150-01-01 09:00,b,-,0,141\n"
    )
    assert outcomes(own(tmp_path, rows), "stays") == {"used": 1, "end before start": 1}


def test_rows_are_numbered_as_in_an_editor(tmp_path: Path) -> None:
    good = "1,1,2150-01-01,2150-01-02,a,-,1,140\n"
    for rows, message in (
        (f"\n\n{good}\n2,2,2150-01-01,soon,a,-,0,141\n", "column to, row 6: want a time"),
        (f"\n\n{good}\n2,2,-,soon,a,-,0,141\n", "column to, row 6: want a time"),
        (f"\n{good}\n2,2,2150-03-01,2150-01-02,a,-,0,141\n", "stays.csv, row 5: 1 row is left out"),
    ):
        with pytest.raises(eq.DataError) as caught:
            own(tmp_path, rows, strict=True)
        assert message in str(caught.value)


def test_a_column_of_nulls_in_a_frame_is_no_obstacle() -> None:
    visits = pl.DataFrame({"subject_id": [1], "visit_id": [7], "label": [True]})
    values = pl.DataFrame(
        {"visit_id": [7], "code": ["Na"], "unit": [None], "numeric_value": [140.0]}
    )
    columns = eq.EventColumns(unit="unit")
    records = eq.read_events(visits, values=values, columns=columns)
    assert records.lab_table["lab"].to_list() == ["Na"]
    twice = pa.table([[1], [7], [7], [True]], names=["subject_id", "visit_id", "visit_id", "label"])
    with pytest.raises(eq.DataError, match="visits: want a table that can be read"):
        eq.read_events(twice, values=values)


# MEDS.


def meds(root: Path, *parts: dict[str, list[Any]]) -> Path:
    (root / "data").mkdir(parents=True)
    for number, part in enumerate(parts):
        frame = pl.DataFrame(part).with_columns(pl.col("numeric_value").cast(pl.Float32))
        frame.write_parquet(root / "data" / f"{number}.parquet")
    return root


def one_visit(subject: float, visit: int) -> dict[str, list[Any]]:
    codes = ["HOSPITAL_ADMISSION//ER", "LAB//1//mg", "LAB//2//mg", "ICD10CM//I10", "NOTE"]
    return {
        "subject_id": [subject] * 6,
        "time": [DAY + timedelta(hours=hour) for hour in range(6)],
        "code": [*codes, "HOSPITAL_DISCHARGE//DIED"],
        "numeric_value": [None, 1.5, float("inf"), None, float("nan"), None],
        "hadm_id": [visit] * 6,
    }


def test_infinite_values_of_meds_are_counted(tmp_path: Path) -> None:
    root = meds(tmp_path / "m", one_visit(1, 10))
    records = eq.read_meds(root)
    assert outcomes(records, "data (values)") == {"used": 1, "value is not finite": 1}
    # NaN is what pandas writes where there is no number.
    assert outcomes(records, "data (codes)") == {"used": 2, "opens or closes a visit": 2}
    with pytest.raises(eq.DataError, match="value is not finite"):
        eq.read_meds(root, strict=True)


def test_all_files_of_meds_say_how_visits_are_found(tmp_path: Path) -> None:
    bare = one_visit(2, 20)
    del bare["hadm_id"]
    for name, parts in (("a", (bare, one_visit(1, 10))), ("b", (one_visit(1, 10), bare))):
        with pytest.raises(eq.DataError, match="column hadm_id: want this column"):
            eq.read_meds(meds(tmp_path / name, *parts))
        settings = MedsSettings(visits="codes")
        assert len(eq.read_meds(tmp_path / name, settings=settings).visits) == 2


def test_subjects_of_meds_are_whole_numbers(tmp_path: Path) -> None:
    with pytest.raises(eq.DataError, match="column subject_id: want a whole number; got 1.5"):
        eq.read_meds(meds(tmp_path / "a", one_visit(1.5, 10)))
    records = eq.read_meds(meds(tmp_path / "b", one_visit(1.0, 10)))
    assert records.subjects[schema.SUBJECT_ID].to_list() == [1]


def test_a_date_finds_the_stay_of_its_day(tmp_path: Path) -> None:
    """Days within a stay of days are in it, to the last; a window takes the end of a day."""
    part = one_visit(1, 10)
    del part["hadm_id"]
    root = meds(tmp_path / "m", part)
    path = root / "data" / "0.parquet"
    days = [DAY + timedelta(days=day) for day in (0, 1, 2, 2, 2, 2)]
    for dated in (True, False):
        moments = pl.Series("time", days).cast(pl.Date if dated else pl.Datetime("us"))
        pl.DataFrame(part).with_columns(
            moments, pl.col("numeric_value").cast(pl.Float32)
        ).write_parquet(path)
        assert outcomes(eq.read_meds(root), "data (codes)")["used"] == 2
        until = eq.read_meds(root, until="admission+48h")
        late = {"after the window": 2} if dated else {"used": 2}
        assert outcomes(until, "data (codes)").items() >= late.items(), dated


# What is written.


def test_a_frame_has_the_same_bytes_however_it_lies_in_memory(tmp_path: Path) -> None:
    texts = [f"a text of more than twelve bytes, number {n % 7}" for n in range(300)]
    whole = pl.DataFrame({"text": texts, "number": range(300)})
    shuffled = whole.sample(fraction=1, shuffle=True, seed=1).sort("number")
    pieces = pl.concat([whole[:100], whole[100:]], rechunk=False)
    for number, frame in enumerate((whole, shuffled, pieces)):
        store.write_frame(frame, tmp_path / f"{number}.arrow")
    first, *others = ((tmp_path / f"{n}.arrow").read_bytes() for n in range(3))
    assert all(other == first for other in others)
    assert store.read_frame(tmp_path / "0.arrow").equals(whole)


def test_the_same_reading_has_the_same_bytes(tmp_path: Path, shared_data: Path) -> None:
    for number in range(3):
        records = eq.read_meds(shared_data / "mimic-iv-demo-meds", threads=number + 1)
        records.save(tmp_path / f"{number}")
    names = sorted(path.name for path in (tmp_path / "0").glob("*.arrow"))
    assert names
    for name in names:
        first, *others = ((tmp_path / f"{n}" / name).read_bytes() for n in range(3))
        assert all(other == first for other in others), name


def test_a_death_before_the_visit_says_nothing_of_it() -> None:
    visits = pl.DataFrame(
        {
            schema.SUBJECT_ID: [1, 2, 3, 4],
            schema.VISIT_ID: [1, 2, 3, 4],
            "start": [DAY + timedelta(hours=10)] * 4,
            "end": [DAY + timedelta(days=3)] * 4,
            "died": [False, True, False, False],
            "dod": [DAY - timedelta(days=1), DAY - timedelta(days=1), DAY, None],
        }
    )
    labelled, _ = label_visits(task_named("mortality_30d"), visits)
    assert labelled[schema.LABEL].to_list() == [None, True, True, False]
    ages = pl.DataFrame({"age": [-3, 0, 18, None]})
    bands = ages.select(GroupSettings().age_band(pl.col("age"))).to_series()
    assert bands.to_list() == ["Unknown", "<=18", "<=18", "Unknown"]
