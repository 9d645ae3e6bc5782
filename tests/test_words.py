"""Ids that are words, and events that name no visit: placed by their subject and time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import equipoise as eq
from equipoise import schema
from equipoise.sources.declaration import ID_WORDS, SUBJECT_WORD, VISIT_WORD

ARRAYS = ("visit_offsets", "code_offsets", "codes", "lab_offsets", "labs", "lab_values")
SPEC = """
[visits]
table = "visits"
subject = "patient"
visit = "encounter"
start = "from"
end = "to"
[tasks.dead]
column = "fate"
true = ["1"]
false = ["0"]
record = "RECORD"
[[codes]]
table = "codes"
CODED
code = "code"
[[values]]
table = "values"
KEYS
code = "code"
value = "value"
"""
BY_ID = 'visit = "encounter"'
BY_EITHER = f'{BY_ID}\nsubject = "patient"'
BY_TIME = 'subject = "patient"'
AT = 'time = "at"'
DAY = datetime(2150, 1, 1)
#: From a number to an id in whose order words stand as numbers do: short, and longer than a word.
WORDS: dict[str, Callable[[int], str]] = {
    "short": lambda number: f"{number:02d}x",
    "long": lambda number: f"{number:08d}-0000-4000-8000-é,00000000",
}
Frames = dict[str, pl.DataFrame]


def spec_of(root: Path, keys: str, coded: str = BY_ID, record: str = "whole") -> Path:
    file = root / "own.toml"
    text = SPEC.replace("KEYS", f"{keys}\n{AT}").replace("CODED", coded)
    file.write_text(text.replace("RECORD", record))
    return file


def write(root: Path, frames: Frames, kind: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, frame in frames.items():
        if kind == "parquet":
            frame.write_parquet(root / f"{name}.parquet", row_group_size=3)
        else:
            frame.write_csv(root / f"{name}.csv", datetime_format="%Y-%m-%d %H:%M:%S")
    return root


def read(root: Path, frames: Frames, kind: str, keys: str, **options: Any) -> eq.VisitRecords:
    write(root, frames, kind)
    return eq.read_tables(root, spec_of(root, keys, f"{keys}\n{AT}"), **options)


def stream(frames: Frames, **options: Any) -> eq.VisitRecords:
    names = ("patient", "encounter", "fate", "from", "to")
    columns = eq.EventColumns(*names, value="value", time="at", kind="code")
    # Of visits that begin together the frame's first is the first; of a file that of the lower id.
    visits = frames["visits"].sort("encounter").with_columns(pl.col("fate").cast(pl.Int64))
    return eq.read_events(
        visits, codes=frames["codes"], values=frames["values"], columns=columns, **options
    )


def alike(one: eq.VisitRecords, other: eq.VisitRecords) -> bool:
    arrays = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ARRAYS)
    tables = all(
        getattr(one, name).equals(getattr(other, name)) for name in ("code_table", "lab_table")
    )
    return arrays and tables and one.ledger.drop("table").equals(other.ledger.drop("table"))


def names_of(records: eq.VisitRecords) -> dict[str, list[str] | None]:
    """What the tables called visits, and subjects by their last visit; None for numbers."""
    names = {schema.VISIT_ID: VISIT_WORD, schema.SUBJECT_ID: SUBJECT_WORD}
    last = records.visit_offsets[1:] - 1
    return {
        column: (
            (records.visits[word] if word == VISIT_WORD else records.visits[last, word]).to_list()
            if word in records.visits.columns
            else None
        )
        for column, word in names.items()
    }


def named(numbers: pl.Series, length: str, words: bool) -> list[str] | None:
    return [WORDS[length](number) for number in numbers] if words else None


@st.composite
def hospitals(draw: st.DrawFn) -> Frames:
    """Visits of three subjects, and events of known, unknown and no visits and subjects."""
    count = draw(st.integers(1, 6))
    numbers = draw(st.permutations(range(10)))[:count]
    subject = st.integers(0, 3)
    hour = st.integers(0, 200).map(lambda hours: DAY + timedelta(hours=hours))
    rows = [
        (draw(subject), n, draw(hour), timedelta(hours=draw(st.integers(0, 60)))) for n in numbers
    ]
    visits = pl.DataFrame(
        [(who, n, start, start + stay, str(n % 2)) for who, n, start, stay in rows],
        schema={
            "patient": pl.Int64,
            "encounter": pl.Int64,
            "from": pl.Datetime("us"),
            "to": pl.Datetime("us"),
            "fate": pl.String,
        },
        orient="row",
    )
    event = st.tuples(
        st.one_of(st.none(), st.integers(0, 4)),
        st.one_of(st.none(), st.integers(0, 11)),
        st.one_of(st.none(), hour),
        st.sampled_from(["a", "b", "c"]),
        st.one_of(st.none(), st.sampled_from([1.0, 2.5, 3.0])),
    )
    names = {"patient": pl.Int64, "encounter": pl.Int64, "at": pl.Datetime("us")}
    types = {**names, "code": pl.String, "value": pl.Float64}
    events = pl.DataFrame(draw(st.lists(event, min_size=1, max_size=12)), types, orient="row")
    return {"visits": visits, "codes": events.drop("value"), "values": events}


def worded(frames: Frames, word: Callable[[int], str], *columns: str) -> Frames:
    def texts(frame: pl.DataFrame, name: str) -> pl.Series:
        words = [None if number is None else word(number) for number in frame[name]]
        return pl.Series(name, words, pl.String)

    return {
        name: frame.with_columns(texts(frame, column) for column in columns)
        for name, frame in frames.items()
    }


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@given(
    frames=hospitals(),
    keys=st.sampled_from([BY_ID, BY_EITHER, BY_TIME]),
    length=st.sampled_from(sorted(WORDS)),
    columns=st.sampled_from([["encounter"], ["patient"], ["patient", "encounter"]]),
    threads=st.sampled_from([1, 2]),
    until=st.sampled_from([None, "admission+30h"]),
)
def test_words_are_read_as_numbers_are(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    frames: Frames,
    keys: str,
    length: str,
    columns: list[str],
    threads: int,
    until: str | None,
) -> None:
    root = tmp_path_factory.mktemp("words")
    options = {"threads": threads, "attach_by_time": keys != BY_ID, "until": until}
    wanted = read(root / "numbers", frames, kind, keys, **options)
    words = worded(frames, WORDS[length], *columns)
    got = read(root / "words", words, kind, keys, **options)
    assert alike(got, wanted)
    assert names_of(got) == {
        schema.VISIT_ID: named(wanted.visits[schema.VISIT_ID], length, "encounter" in columns),
        schema.SUBJECT_ID: named(wanted.subjects[schema.SUBJECT_ID], length, "patient" in columns),
    }


@given(frames=hospitals(), length=st.sampled_from(sorted(WORDS)), by_time=st.booleans())
def test_streams_take_words_too(
    tmp_path_factory: pytest.TempPathFactory, frames: Frames, length: str, by_time: bool
) -> None:
    wanted = stream(frames, attach_by_time=by_time)
    got = stream(worded(frames, WORDS[length], "patient", "encounter"), attach_by_time=by_time)
    assert alike(got, wanted)
    keys = BY_EITHER if by_time else BY_ID
    root = tmp_path_factory.mktemp("streams")
    file = read(root, frames, "parquet", keys, attach_by_time=by_time)
    assert alike(got, file)


def enclosing(visits: pl.DataFrame, who: int | None, at: datetime | date) -> int | None:
    """The visit that began last of those that a time, or a day, touches."""
    earliest = at if isinstance(at, datetime) else datetime.combine(at, time())
    latest = at if isinstance(at, datetime) else earliest + timedelta(days=1, microseconds=-1)
    touched = [
        (start, number)
        for owner, number, start, end, _ in visits.iter_rows()
        if owner == who and start <= latest and earliest <= end
    ]
    return max(touched, default=(None, None))[1]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("dated", [False, True])
@given(frames=hospitals())
def test_events_go_to_the_visit_that_their_time_or_day_touches(
    tmp_path_factory: pytest.TempPathFactory, kind: str, dated: bool, frames: Frames
) -> None:
    values = frames["values"].with_columns(code=pl.lit("x"), value=1.0)
    if dated:
        values = values.with_columns(pl.col("at").dt.date())
    root = tmp_path_factory.mktemp("touch")
    got = read(root, {**frames, "values": values}, kind, BY_TIME)
    visits = frames["visits"]
    rows = list(values.select("patient", "at").iter_rows())
    found = {enclosing(visits, who, at) for who, at in rows if at is not None} - {None}
    with_labs = np.diff(got.lab_offsets) > 0
    assert set(got.visits[schema.VISIT_ID].filter(pl.Series(with_labs))) == found
    fates = dict(got.ledger.filter(table="values").select("outcome", "rows").iter_rows())
    outside = sum(at is not None and enclosing(visits, who, at) is None for who, at in rows)
    untimed = sum(at is None for _, at in rows)
    assert (fates.get("outside every visit", 0), fates.get("no event time", 0)) == (
        outside,
        untimed,
    )


TABLES = {
    "visits": "patient,encounter,from,to,fate\n"
    "ann,e-1,2150-01-01,2150-01-03,0\nann,e-2,2150-02-01,2150-02-03,1\nbob,e-3,2150-01-01,2150-01-02,0\n",
    "codes": 'encounter,code\ne-1,I50\n e-2 ,I51\n"e-3",I52\n  ,I53\nE-1,I54\n',
    "values": "patient,at,code,value\nann,2150-01-03 23:59:59,hb,10\nann,2150-01-04,hb,11\n"
    "bob,2150-01-02 08:00,hb,12\ncid,2150-01-02,hb,13\n,2150-01-02,hb,14\n",
}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    for name, text in TABLES.items():
        (tmp_path / f"{name}.csv").write_text(text)
    return tmp_path


def test_records_keep_the_words_and_cohorts_do_not(own: Path, tmp_path: Path) -> None:
    records = eq.read_tables(own, spec_of(own, BY_TIME))
    records.save(tmp_path / "records")
    saved = eq.VisitRecords.load(tmp_path / "records")
    second = saved.take(np.array([1]))
    assert second.visits.select(ID_WORDS).rows() == [("bob", "e-3")]
    cohort = saved.encode(saved.fit_vocabulary())
    assert not set(ID_WORDS) & {*cohort.visits.columns, *cohort.subjects.columns}


def outcomes(records: eq.VisitRecords, table: str) -> dict[str, int]:
    rows = records.ledger.filter(pl.col("table") == table, pl.col("rows") > 0)
    return dict(rows.select("outcome", "rows").iter_rows())


def test_cells_with_blanks_and_quotes_and_stays_that_have_their_last_day(own: Path) -> None:
    records = eq.read_tables(own, spec_of(own, BY_TIME))
    assert outcomes(records, "codes") == {"used": 3, "no visit id": 1, "unknown visit": 1}
    assert outcomes(records, "values") == {"used": 2, "outside every visit": 3}
    assert records.lab_values.tolist() == [10.0, 12.0]
    assert np.diff(records.lab_offsets).tolist() == [1, 0, 1]


def test_events_of_visits_that_are_left_out_are_counted_as_such(own: Path) -> None:
    values = TABLES["values"] + "ann,2150-02-02,hb,15\n"
    (own / "values.csv").write_text(values)
    deaths = TABLES["visits"].replace(",2150-01-03,0", ",2150-01-03,1")
    (own / "visits.csv").write_text(deaths)
    records = eq.read_tables(own, spec_of(own, BY_TIME, record="first_event"))
    assert outcomes(records, "values") == {
        "used": 2,
        "visit left out by the task": 1,
        "outside every visit": 3,
    }
    assert outcomes(records, "codes")["visit left out by the task"] == 1


def test_strict_names_the_row_of_an_unknown_word(own: Path) -> None:
    with pytest.raises(eq.DataError, match="codes.csv, column encounter, row 6: .*got .E-1"):
        eq.read_tables(own, spec_of(own, BY_TIME), strict=True)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_labels_name_visits_by_words(own: Path, kind: str) -> None:
    rows = pl.DataFrame({"subject_id": ["ann", "bob"], "visit_id": ["e-1", "e-3"]})
    rows = rows.with_columns(boolean_value=pl.Series([True, False]))
    labels = own / f"labels.{kind}"
    rows.write_csv(labels) if kind == "csv" else rows.write_parquet(labels)
    records = eq.read_tables(own, spec_of(own, BY_TIME), labels=labels)
    assert dict(records.subjects.select(schema.SUBJECT_ID, schema.LABEL).iter_rows()) == {
        0: True,
        1: False,
    }
    wrong = rows.with_columns(subject_id=pl.Series(["ann", "ann"]))
    wrong.write_csv(labels) if kind == "csv" else wrong.write_parquet(labels)
    with pytest.raises(eq.DataError, match="want bob, the subject of visit e-3; got ann"):
        eq.read_tables(own, spec_of(own, BY_TIME), labels=labels)


def test_one_odd_id_makes_words_of_all_and_no_event_goes_elsewhere(own: Path) -> None:
    for name in ("visits", "codes"):
        text = TABLES[name].replace("e-1", "10").replace("e-2", "9").replace("e-3", "10a")
        (own / f"{name}.csv").write_text(text)
    labels = own / "labels.csv"
    labels.write_text("subject_id,visit_id,boolean_value\nann,10.0,1\nann,9,1\nbob,10a,0\n")
    records = eq.read_tables(own, spec_of(own, BY_TIME), labels=labels)
    assert records.oddities["labels of no visit in the records"] == 0
    codes = records.code_table["code"].gather(records.codes).to_list()
    assert codes == ["I50", "I51", "I52"]
    assert records.visits[schema.VISIT_ID].to_list() == [0, 2, 1]


@pytest.mark.parametrize("kind", ["csv", "parquet", "stream"])
def test_an_odd_id_among_numbers_is_told_and_pandas_floats_are_still_found(
    tmp_path: Path, kind: str
) -> None:
    starts = [DAY + timedelta(days=day) for day in range(4)]
    visits = pl.DataFrame({"patient": ["1", "2.0", "NaN", "3"]})
    visits = visits.with_columns(
        pl.Series("encounter", ["101", "102.0", "103", "unknown"]),
        pl.Series("from", starts),
        pl.Series("to", [start + timedelta(hours=1) for start in starts]),
        fate=pl.lit("0"),
    )
    nan = float("nan")
    events = pl.DataFrame({"encounter": [101.0, 102.0, 103.0, nan, None]})
    events = events.with_columns(
        pl.Series("patient", [nan, nan, 1.0, 2.0, None]),
        pl.Series("at", [*starts[:2], starts[0], starts[1], starts[0]]),
        code=pl.lit("x"),
        value=1.0,
    )
    frames = {"visits": visits, "codes": events.drop("value"), "values": events}
    if kind == "stream":
        records = stream(frames, attach_by_time=True)
    else:
        records = read(tmp_path, frames, kind, BY_EITHER, attach_by_time=True)
        what = "ids of visits that are words, where others are whole numbers"
        assert records.oddities[what] == 1
    assert records.ledger.rows()[:2] == [("visits", "no subject", 1), ("visits", "used", 3)]
    for table in ("codes", "values"):
        fates = {"used": 3, "unknown visit": 1, "outside every visit": 1}
        assert outcomes(records, table) == fates
    assert np.diff(records.lab_offsets).tolist() == [1, 1, 0]


def test_an_end_without_a_time_of_day_has_its_day_whatever_other_ends_have(own: Path) -> None:
    text = TABLES["visits"].replace(",2150-01-02,0", ",2150-01-02 00:00,0")
    (own / "visits.csv").write_text(text.replace(",2150-02-03,", ",2150-02-03 10:00,"))
    labels = own / "labels.csv"
    labels.write_text(
        "subject_id,prediction_time,boolean_value\nann,2150-01-03 09:00:00,true\n"
        "bob,2150-01-02 09:00:00,true\n"
    )
    records = eq.read_tables(own, spec_of(own, BY_TIME), labels=labels)
    assert np.diff(records.lab_offsets).tolist() == [1]
    assert records.oddities["labels of no visit in the records"] == 1
    records = eq.read_tables(own, spec_of(own, BY_TIME))
    assert np.diff(records.lab_offsets).tolist() == [1, 0, 0]


def test_a_time_that_nothing_asks_for_is_not_read(own: Path) -> None:
    (own / "values.csv").write_text("encounter,code,value\ne-1,hb,1\n")
    assert eq.read_tables(own, spec_of(own, BY_ID)).lab_values.tolist() == [1.0]


def test_strict_finds_the_row_in_a_table_that_is_read_twice(own: Path) -> None:
    (own / "values.csv").write_text(
        "encounter,patient,at,code,value\ne-1,ann,2150-01-01,hb,1\nE-1,ann,2150-01-01,hb,1\n"
    )
    file = spec_of(own, BY_ID, f"{BY_TIME}\n{AT}")
    file.write_text(file.read_text().replace('table = "codes"', 'table = "values"'))
    with pytest.raises(eq.DataError, match="values.csv, column encounter, row 3: .*got .E-1"):
        eq.read_tables(own, file, strict=True)


def test_visits_that_do_not_say_when_they_were_place_nothing(own: Path) -> None:
    text = TABLES["visits"].replace(",2150-01-03,", ",,").replace(",2150-02-03,", ",,")
    (own / "visits.csv").write_text(text.replace(",2150-01-02,", ",,"))
    with pytest.raises(eq.DataError, match="want when visits start and end"):
        eq.read_tables(own, spec_of(own, BY_TIME))


def test_ids_as_bytes_are_refused(own: Path) -> None:
    visits = pl.DataFrame({"subject_id": ["a"], "visit_id": [b"x"], "label": [True]})
    codes = pl.DataFrame({"visit_id": ["x"], "code": ["y"]})
    with pytest.raises(eq.DataError, match="visits, column visit_id: want whole numbers; got Bin"):
        eq.read_events(visits, codes=codes)


@pytest.mark.parametrize(
    ("keys", "visits", "message"),
    [
        ("", "", "values[0].visit: want the column of visits, or subject and time; got 'neither'"),
        (BY_TIME, "to", "visits.end: want this key, for events are placed by subject and time"),
        (f'{BY_TIME}\nnull = ["x"]', "", "null: want only keys that mean something for values"),
    ],
)
def test_specs_that_cannot_place_are_refused(
    own: Path, keys: str, visits: str, message: str
) -> None:
    file = spec_of(own, keys)
    if visits:
        file.write_text(file.read_text().replace(f'end = "{visits}"\n', ""))
    with pytest.raises(eq.DataError) as caught:
        eq.read_tables(own, file)
    assert message in str(caught.value)


def test_a_subject_without_a_time_is_refused(own: Path) -> None:
    file = spec_of(own, BY_TIME)
    file.write_text(file.read_text().replace('time = "at"\n', ""))
    with pytest.raises(eq.DataError, match="time: want when events happened"):
        eq.read_tables(own, file)
    with pytest.raises(eq.UsageError, match=r"wants columns.time"):
        eq.read_events(pl.DataFrame(), codes=pl.DataFrame(), attach_by_time=True)


DEMO = """
[visits]
table = "admissions"
subject = "subject_id"
visit = "hadm_id"
start = "admittime"
end = "dischtime"
[tasks.in_hospital_mortality]
column = "hospital_expire_flag"
true = ["1"]
false = ["0"]
[[codes]]
table = "diagnoses_icd"
visit = "hadm_id"
code = "code"
[[values]]
table = "labevents"
visit = "hadm_id"
subject = "subject_id"
time = "charttime"
code = "itemid"
value = "valuenum"
"""


def contents(records: eq.VisitRecords) -> list[tuple[Any, ...]]:
    """What each visit holds, whatever it is called: times, number of codes, means of labs."""
    names = records.lab_table["lab"].gather(records.labs).to_list()
    means = list(zip(names, records.lab_values.tolist(), strict=True))
    counts = np.diff(records.code_offsets).tolist()
    bounds = zip(records.lab_offsets, records.lab_offsets[1:], strict=False)
    labs = [sorted(means[start:end]) for start, end in bounds]
    times = records.visits.select("start", "end").rows()
    return sorted(zip(times, counts, labs, strict=True))


@pytest.mark.parametrize("by_time", [False, True])
def test_mimics_demo_with_words_for_ids_is_read_as_it_is(
    tmp_path: Path, shared_data: Path, by_time: bool
) -> None:
    demo = shared_data / "mimic-iv-demo"
    for name in ("admissions", "diagnoses_icd", "labevents"):
        file = next(demo.rglob(f"{name}.csv*"))
        rows = pl.read_csv(file, infer_schema=False)
        # The other way round, so that words have another order.
        ids = [
            pl.format("{}-{}", pl.col(id_).str.reverse(), pl.lit("é" * 20)).alias(id_)
            for id_ in ("subject_id", "hadm_id")
        ]
        rows = rows.with_columns(*ids)
        if name == "diagnoses_icd":
            rows = rows.with_columns(code=pl.format("{}/{}", "icd_code", "icd_version"))
        rows.write_csv(tmp_path / f"{name}.csv")
    (tmp_path / "demo.toml").write_text(DEMO)
    got = eq.read_tables(tmp_path, tmp_path / "demo.toml", attach_by_time=by_time)
    wanted = eq.read_mimic_iv(demo, attach_by_time=by_time)
    assert contents(got) == contents(wanted)
    of = pl.col("table") == "labevents"
    assert got.ledger.filter(of).equals(wanted.ledger.filter(of))
