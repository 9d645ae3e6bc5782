"""Corners of specs and of anyone's own visits: many files, columns that mean two things, nulls."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

import equipoise as eq
from equipoise import schema

SPEC = """
[visits]
table = "stays"
subject = "patient"
visit = "stay"
start = "from"
person = "person"

[tasks.dead]
column = "fate"
true = ["1"]
false = ["0"]

[groups]
age = { column = "years", kind = "age" }

[[values]]
columns = ["sodium"]
"""
STAYS = """patient,stay,from,person,fate,years,sodium
1,10,2020-01-02,x,1,80,140
1,11,2020-01-01,x,0,80,141
2,20,2020-01-03,y,0,30,142
"""
EVENTS = """
[[codes]]
table = "drugs"
visit = "stay"
code = "drug"
"""


def read(root: Path, spec: str = SPEC, stays: str | pl.DataFrame = STAYS) -> eq.VisitRecords:
    if isinstance(stays, str):
        (root / "stays.csv").write_text(stays)
    else:
        stays.write_parquet(root / "stays.parquet")
    (root / "own.toml").write_text(spec)
    return eq.read_tables(root, root / "own.toml")


def ids(records: eq.VisitRecords) -> list[int]:
    return records.visits[schema.VISIT_ID].to_list()


def test_an_odd_order_has_a_row_in_one_file_only(tmp_path: Path) -> None:
    spec = SPEC.replace('start = "from"', 'order = "years"').replace("[groups]\n", "")
    spec = spec.replace('age = { column = "years", kind = "age" }\n', "")
    odd = STAYS.replace(",30,", ",old,")
    with pytest.raises(eq.DataError, match="stays.csv, column years, row 4: want a number"):
        read(tmp_path, spec, odd)
    (tmp_path / "stays.csv").unlink()
    (tmp_path / "stays").mkdir()
    (tmp_path / "stays" / "1.csv").write_text(STAYS)
    (tmp_path / "stays" / "2.csv").write_text(odd)
    with pytest.raises(eq.DataError, match="stays, column years: want a number"):
        eq.read_tables(tmp_path, tmp_path / "own.toml")


def test_ids_may_be_texts(tmp_path: Path) -> None:
    assert ids(read(tmp_path)) == [11, 10, 20]
    assert ids(read(tmp_path, stays=STAYS.replace("20,2020", "20a,2020"))) == [1, 0, 2]
    assert ids(read(tmp_path, stays=STAYS.replace(",2020", ".0,2020"))) == [11, 10, 20]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('start = "from"', 'start = "from"\norder = "from"'),
        ('start = "from"', 'start = "from"\nend = "from"\ndeath = "from"'),
        ('"years", kind = "age"', '"from"'),
        ('columns = ["sodium"]', 'columns = ["sodium"]\n[[codes]]\ncolumns = ["from"]'),
    ],
)
def test_a_column_of_times_may_be_one_of_words(tmp_path: Path, old: str, new: str) -> None:
    records = read(tmp_path, SPEC.replace(old, new))
    assert ids(records) == [11, 10, 20]
    assert records.visits["start"].to_list() == [datetime(2020, 1, day) for day in (1, 2, 3)]
    days = ["2020-01-01", "2020-01-02", "2020-01-03"]
    assert records.code_table["code"].to_list() == (days if "codes" in new else [])
    assert records.save(tmp_path / "records").is_dir()


def test_visits_of_no_person_are_counted_and_left_out(tmp_path: Path) -> None:
    """Nobody knows on which side of a split they belong; eICU is read so, too."""
    records = read(tmp_path, stays=STAYS + "3,30,2020-01-04,,0,50,143\n")
    stays = records.ledger.filter(table="stays")
    assert dict(stays.select("outcome", "rows").iter_rows()) == {"no person": 1, "used": 3}
    assert sorted(len(part) for part in records.split(fraction=0.5)) == [1, 1]


def test_an_age_that_is_no_number_is_unknown(tmp_path: Path) -> None:
    stays = pl.read_csv(STAYS.encode()).with_columns(years=pl.Series([80.5, 80.5, float("nan")]))
    records = read(tmp_path, stays=stays)
    assert records.subjects["age"].to_list() == [">=75", "Unknown"]
    assert records.oddities["subjects whose age is not understood (Unknown)"] == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('[[values]]\ncolumns = ["sodium"]', "column values: want each column once; got 'sodium'"),
        ('[[codes]]\ncolumns = ["person", "person"]', "codes[0].columns: want each column once"),
        ('[[codes]]\ncolumns = ["person"]\ntime = "from"', "codes[0].time: want only keys that"),
        (f'{EVENTS}\nnull = ["none"]', "codes[0].null: want only keys that mean something"),
        (f'{EVENTS}\nname = "column=value"', "codes[0].name: want only keys that mean"),
        ('[[values]]\ncolumns = ["years"]\nkind = "x"', "values[1].kind: want only keys that"),
        ('[groups.visit_id]\ncolumn = "fate"', "column groups.visit_id: want another name than"),
        ('[groups.synthetic]\ncolumn = "fate"', "column groups.synthetic: want another name"),
    ],
)
def test_what_a_spec_cannot_say(tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises(eq.DataError) as caught:
        read(tmp_path, f"{SPEC}\n{more}")
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["patient", "stay", "from", "fate", "years", "sodium"])
def test_structs_are_refused_by_name(tmp_path: Path, name: str) -> None:
    stays = pl.read_csv(STAYS.encode(), try_parse_dates=True)
    stays = stays.with_columns(pl.struct(a=pl.col(name)).alias(name))
    with pytest.raises(eq.DataError, match=f"stays.parquet, column {name}: want"):
        read(tmp_path, stays=stays)


@pytest.mark.parametrize("odd", ["2b", "x", "1-2"])
def test_an_order_of_numbers_and_texts_is_refused(tmp_path: Path, odd: str) -> None:
    """As texts all of them would sort another way: visit 10 before visit 9, for everybody."""
    spec = SPEC.replace('start = "from"', 'order = "nr"\nnull = ["?"]')
    stays = "patient,stay,nr,person,fate,years,sodium\n1,10,10,x,1,80,1\n1,11,9,x,0,80,1\n"
    for cell in ("3", "3.5", "?", ""):
        known = read(tmp_path, spec, f"{stays}2,20,{cell},y,0,30,1\n")
        assert ids(known) == [11, 10, 20]
        assert known.subjects[schema.LABEL].to_list() == [True, False]
    want = f"stays.csv, column nr, row 4: want a number, .*; got '{odd}'"
    with pytest.raises(eq.DataError, match=want):
        read(tmp_path, spec, f"{stays}2,20,{odd},y,0,30,1\n")
    texts = stays.replace(",10,x", ",b,x").replace(",9,x", ",a,x")
    assert ids(read(tmp_path, spec, f"{texts}2,20,{odd},y,0,30,1\n")) == [11, 10, 20]


def test_words_that_say_nothing_are_no_times_either(tmp_path: Path) -> None:
    spec = SPEC.replace('start = "from"', 'start = "from"\nend = "to"\nnull = ["NA"]')
    stays = "patient,stay,from,to,person,fate,years,sodium\n"
    stays += "1,10,2020-01-02,NA,x,1,80,1\n1,11,2020-01-01T05:00:00.5Z,2020-01-01 07:30,x,0,80,1\n"
    records = read(tmp_path, spec, stays)
    assert ids(records) == [11, 10]
    assert records.visits["end"].to_list() == [datetime(2020, 1, 1, 7, 30), None]
    records = read(tmp_path, spec, stays.replace("2020-01-02,NA", "NA,2020-01-02"))
    assert ids(records) == [11]
    assert records.visits["start"].to_list() == [datetime(2020, 1, 1, 5, 0, 0, 500_000)]
    with pytest.raises(eq.DataError, match="stays.csv, column to, row 3: want a time .*; got 'no"):
        read(tmp_path, spec, stays.replace("2020-01-01 07:30", "noon"))


@pytest.mark.parametrize("folder", ["/somewhere", "../beside", "a/../../b"])
def test_folders_lie_below_the_one_that_is_read(tmp_path: Path, folder: str) -> None:
    spec = SPEC.replace('table = "stays"', f'table = "stays"\nfolders = ["{folder}"]', 1)
    with pytest.raises(eq.DataError, match="folders: want folders below the one that is read"):
        read(tmp_path, spec)


def test_a_person_who_is_nan_is_none(tmp_path: Path) -> None:
    records = read(tmp_path, stays=STAYS + "3,30,2020-01-04, NaN,0,50,143\n")
    stays = records.ledger.filter(table="stays")
    assert dict(stays.select("outcome", "rows").iter_rows()) == {"no person": 1, "used": 3}


def test_a_date_of_death_is_that_of_all_visits_of_the_subject(tmp_path: Path) -> None:
    spec = SPEC.replace('start = "from"', 'start = "from"\nend = "to"\ndeath = "death"')
    spec = spec.replace("tasks.dead", "tasks.in_hospital_mortality")
    rows = (
        "1,10,2020-01-01,2020-01-05,x,0,80,140,\n1,11,2020-01-20,2020-01-21,x,0,80,141,2020-01-25\n"
    )
    header = "patient,stay,from,to,person,fate,years,sodium,death\n"
    (tmp_path / "stays.csv").write_text(header + rows)
    (tmp_path / "own.toml").write_text(spec)
    records = eq.read_tables(tmp_path, tmp_path / "own.toml", "mortality_30d")
    assert records.visits[schema.LABEL].to_list() == [True, True]


def test_words_that_are_no_usual_split_are_counted(tmp_path: Path) -> None:
    spec = SPEC.replace('person = "person"', 'split = "person"')
    stays = STAYS.replace(",x,", ",Train,").replace(",y,", ",train,")
    records = read(tmp_path, spec, stays)
    assert records.oddities["subjects in a split that is none of train, tuning, held_out"] == 1


def test_codes_are_not_called_labs(tmp_path: Path) -> None:
    with pytest.raises(eq.DataError, match="kind: want another name"):
        read(tmp_path, SPEC + EVENTS + 'kind = "lab"\n')
