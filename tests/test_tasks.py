"""Tasks, label tables, windows and groups: on small frames, and on MIMIC-IV's demo."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import equipoise as eq
from equipoise import schema
from equipoise.tasks import GroupSettings, Window, label_visits, task_named, window_of


def visits(*rows: tuple[int, int, int | None, bool | None, int | None]) -> pl.DataFrame:
    """Rows of subject, start, end (days), died, day of death."""

    def day(number: int | None) -> datetime | None:
        return None if number is None else datetime(2150, 1, 1) + timedelta(days=number)

    return pl.DataFrame(
        [(s, n, day(a), day(b), died, day(dod)) for n, (s, a, b, died, dod) in enumerate(rows)],
        schema={
            schema.SUBJECT_ID: pl.Int64,
            schema.VISIT_ID: pl.Int64,
            "start": pl.Datetime("us"),
            "end": pl.Datetime("us"),
            "died": pl.Boolean,
            "dod": pl.Datetime("us"),
        },
        orient="row",
    )


def labels(name: str, frame: pl.DataFrame) -> tuple[list[tuple[int, bool | None]], dict[str, int]]:
    labelled, fates = label_visits(task_named(name), frame)
    return labelled.select(schema.VISIT_ID, schema.LABEL).rows(), fates


def test_mortality_within_30_days() -> None:
    frame = visits(
        (1, 0, 5, False, 35),
        (2, 0, 5, False, 36),
        (3, 0, 5, True, None),
        (4, 0, None, False, 3),
        (5, 0, 5, None, None),
    )
    wanted = [(0, True), (1, False), (2, True), (3, None), (4, False)]
    assert labels("mortality_30d", frame) == (wanted, {})


def test_the_record_ends_with_the_first_readmission() -> None:
    frame = visits(
        (1, 0, 5, False, None),
        (1, 40, 41, False, None),
        (1, 71, 72, False, None),
        (1, 80, 81, False, None),
        (2, 0, 5, False, None),
        (2, 36, 37, True, None),
        (3, 0, 5, True, None),
        (4, 0, 5, False, None),
        (5, 0, 5, None, None),
        (6, 0, 5, None, None),
        (6, 9, 12, False, None),
        (7, 0, 5, None, 6),
    )
    rows, fates = labels("readmission_30d", frame)
    # Who came back, or died later, did not die in the visit; of another it is not known.
    assert rows == [(0, False), (1, True), (4, False), (7, False), (9, True), (11, False)]
    assert fates == {
        "after the subject's first event": 3,
        "outcome unknown, at the record's end": 3,
        "used": 6,
    }


def test_follow_up_is_unknown_only_where_the_source_says_so() -> None:
    frame = visits((1, 0, 5, False, None), (2, 0, 5, False, None), (3, 0, 5, False, None))
    frame = pl.concat([frame, visits((3, 20, 25, False, None))]).with_columns(
        pl.Series(schema.VISIT_ID, [0, 1, 2, 3]),
        followed_until=pl.Series([datetime(2150, 1, 30), None, None, datetime(2150, 1, 30)]),
    )
    rows, fates = labels("readmission_30d", frame)
    assert rows == [(1, False), (2, True)]
    assert sum(fates.values()) == 4


def test_tasks_on_the_demo(shared_data: Path) -> None:
    demo = shared_data / "mimic-iv-demo"
    table = pl.read_csv(demo / "hosp" / "admissions.csv.gz", try_parse_dates=True)
    patients = pl.read_csv(demo / "hosp" / "patients.csv.gz", try_parse_dates=True)
    table = table.sort("subject_id", "admittime").join(patients, on="subject_id")
    dead = eq.read_mimic_iv(demo, "mortality_30d")
    wanted = [
        bool(row["hospital_expire_flag"])
        or (row["dod"] is not None and row["dod"] <= row["dischtime"].date() + timedelta(days=30))
        for row in table.iter_rows(named=True)
    ]
    assert dead.visits[schema.LABEL].to_list() == wanted
    assert sum(wanted) == 24
    back = eq.read_mimic_iv(demo, "readmission_30d")
    kept: dict[int, bool] = {}
    for _, stays in table.group_by("subject_id", maintain_order=True):
        rows = list(stays.iter_rows(named=True))
        for row, following in zip(rows, [*rows[1:], None], strict=True):
            if row["hospital_expire_flag"]:
                break
            gap = following and following["admittime"] - row["dischtime"]
            kept[row["hadm_id"]] = gap is not None and gap <= timedelta(days=30)
            if kept[row["hadm_id"]]:
                break
    found = dict(back.visits.select(schema.VISIT_ID, schema.LABEL).iter_rows())
    assert found == kept
    assert (len(back), len(kept), sum(kept.values())) == (
        95,
        168,
        int(back.subjects["label"].sum()),
    )
    ledger = back.ledger.filter(pl.col("table") == "visits")
    assert ledger["rows"].sum() == 275


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_table_of_labels(shared_data: Path, tmp_path: Path) -> None:
    demo = shared_data / "mimic-iv-demo"
    whole = eq.read_mimic_iv(demo)
    ids = whole.visits[schema.VISIT_ID].to_numpy()
    owner = np.repeat(whole.subjects[schema.SUBJECT_ID].to_numpy(), np.diff(whole.visit_offsets))
    table = pl.DataFrame(
        {
            "subject_id": [*owner[:50], 1],
            "visit_id": [*ids[:50], 99],
            "boolean_value": [*(n % 3 == 0 for n in range(50)), True],
        }
    )
    table.write_parquet(tmp_path / "labels.parquet")
    table.write_csv(tmp_path / "labels.csv")
    by_id = eq.read_mimic_iv(demo, labels=tmp_path / "labels.parquet")
    assert by_id.visits[schema.LABEL].to_list() == [n % 3 == 0 for n in range(50)]
    assert by_id.oddities["labels of no visit in the records"] == 1
    assert by_id.config["task"] == "labels"
    again = eq.read_mimic_iv(demo, labels=tmp_path / "labels.csv")
    assert again.visits.equals(by_id.visits)
    timed = table.head(50).select(
        "subject_id",
        "boolean_value",
        prediction_time=whole.visits["start"][:50].dt.offset_by("2h"),
    )
    timed.write_csv(tmp_path / "timed.csv")
    by_time = eq.read_mimic_iv(demo, labels=tmp_path / "timed.csv", until="prediction")
    assert by_time.visits.equals(by_id.visits)
    assert by_time.ledger.filter(pl.col("outcome") == "after the window")["rows"].sum() > 0


BAD_LABELS = [
    ("subject_id,boolean_value\n1,true\n", "column visit_id or prediction_time: want one of them"),
    ("subject_id,visit_id\n1,2\n", "column boolean_value: want this column"),
    (
        "subject_id,visit_id,boolean_value\n1,x,true\n",
        "column visit_id, row 2: want a whole number",
    ),
    ("subject_id,visit_id,boolean_value\n1,2,maybe\n", "row 2: want true or false; got maybe"),
    (
        "subject_id,prediction_time,boolean_value\n1,noon,1\n",
        "column prediction_time, row 2: want a time",
    ),
]


@pytest.mark.parametrize(("text", "message"), BAD_LABELS)
def test_bad_tables_of_labels(shared_data: Path, tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(eq.DataError) as caught:
        eq.read_mimic_iv(shared_data / "mimic-iv-demo", labels=write(tmp_path / "labels.csv", text))
    assert message in str(caught.value)


def test_labels_that_are_not_there(shared_data: Path, tmp_path: Path) -> None:
    demo = shared_data / "mimic-iv-demo"
    with pytest.raises(eq.DataError, match="no such file"):
        eq.read_mimic_iv(demo, labels=tmp_path / "none.csv")
    visit = eq.read_mimic_iv(demo).visits[schema.VISIT_ID][0]
    twice = f"subject_id,visit_id,boolean_value\n1,{visit},true\n1,{visit},false\n"
    with pytest.raises(eq.DataError, match=r"row 3: want one label a visit"):
        eq.read_mimic_iv(demo, labels=write(tmp_path / "twice.csv", twice))
    with pytest.raises(eq.UsageError, match="prediction_time"):
        eq.read_mimic_iv(demo, until="prediction")


def test_a_window_on_the_demo(shared_data: Path) -> None:
    demo = shared_data / "mimic-iv-demo"
    early = eq.read_mimic_iv(demo, until="admission+24h")
    admissions = pl.read_csv(demo / "hosp" / "admissions.csv.gz", try_parse_dates=True)
    labs = pl.read_csv(demo / "hosp" / "labevents.csv.gz", infer_schema_length=None)
    labs = labs.with_columns(pl.col("charttime").str.to_datetime("%Y-%m-%d %H:%M:%S"))
    limit = admissions.select("hadm_id", limit=pl.col("admittime").dt.offset_by("24h"))
    joined = labs.join(limit, on="hadm_id")
    within = joined.filter(pl.col("charttime") <= pl.col("limit"))
    ledger = early.ledger.filter(pl.col("table") == "labevents")
    found = dict(ledger.select("outcome", "rows").iter_rows())
    assert found["after the window"] == len(joined) - len(within)
    assert found["used"] == within["valuenum"].count()
    assert found["no visit id"] == labs["hadm_id"].null_count()
    assert ledger["rows"].sum() == len(labs)
    pairs = within.drop_nulls("valuenum").select("hadm_id", "itemid").n_unique()
    assert len(early.labs) == pairs


def test_windows_are_read() -> None:
    assert window_of("admission+24h") == Window("start", 1440)
    assert window_of("discharge-1d") == Window("end", -1440)
    assert window_of("prediction") == Window("prediction_time", 0)
    assert window_of("admission+90m") == Window("start", 90)
    for wrong in ("24h", "admission+x", "admission+1w", "", f"admission+{10**11}d"):
        with pytest.raises(eq.UsageError, match="until: want"):
            window_of(wrong)


def test_age_cuts_can_be_chosen() -> None:
    ages = pl.DataFrame({"age": [0, 18, 19, 64, 65, 80, None]})
    bands = ages.select(GroupSettings((18, 64, 79)).age_band(pl.col("age"))).to_series()
    assert bands.to_list() == ["<=18", "<=18", "19-64", "19-64", "65-79", ">=80", "Unknown"]
    for wrong in ((), (5, 5), (9, 2), (-1,)):
        with pytest.raises(eq.UsageError, match="age cuts"):
            GroupSettings(wrong)


def test_the_table_of_races_can_be_replaced(shared_data: Path, tmp_path: Path) -> None:
    own = write(
        tmp_path / "race.csv", "group,race\nmajority,white\nminority,BLACK/AFRICAN AMERICAN\n"
    )
    records = eq.read_mimic_iv(shared_data / "mimic-iv-demo", race_table=own, age_cuts=(50,))
    groups = set(records.subjects["race"])
    assert groups == {"majority", "minority", "Other/Unknown"}
    assert set(records.subjects["age_band"]) == {"<=50", ">=51"}
    unknown = records.oddities["subjects whose race is not in the table of races (Other/Unknown)"]
    assert unknown == int((records.subjects["race"] == "Other/Unknown").sum())
    for text, message in (
        ("race\nWHITE\n", "column group: want this column"),
        ("race,group\nWHITE,\n", "row 2: want a race and its group"),
        ("race,group\nWHITE,A\nwhite,B\n", "want each race once"),
        ("", "want a CSV of race and group"),
    ):
        bad = write(tmp_path / f"{len(text)}.csv", text)
        with pytest.raises(eq.DataError, match=message):
            GroupSettings(race_table=bad).race_group(pl.Series(["WHITE"]))
    with pytest.raises(eq.DataError, match="nothing there"):
        GroupSettings(race_table=tmp_path / "none.csv").race_group(pl.Series(["WHITE"]))
