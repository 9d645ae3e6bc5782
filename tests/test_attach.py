"""Events find their visits by time as the compiled reader has it: the latest that encloses them."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import equipoise as eq
from equipoise import schema
from equipoise.sources.attach import FATE, VISIT, Attaching, attach
from equipoise.sources.declaration import When
from equipoise.tasks import Window

HOUR = timedelta(hours=1)
START = datetime(2150, 1, 1)
HOW = Attaching(None, "subject_id", ["event"], When("time"))
#: Subject, hours of start and end.
Stay = tuple[int, int | None, int | None]


def visits_of(stays: list[Stay], first: int = 0) -> pl.DataFrame:
    rows = [
        (subject, first + place, *(None if h is None else START + h * HOUR for h in (start, end)))
        for place, (subject, start, end) in enumerate(stays)
    ]
    times = {"start": pl.Datetime("us"), "end": pl.Datetime("us")}
    ids = {schema.SUBJECT_ID: pl.Int64, schema.VISIT_ID: pl.Int64}
    return pl.DataFrame(rows, schema={**ids, **times}, orient="row")


def placed(
    root: Path,
    stays: list[Stay],
    events: list[tuple[int, int]],
    window: Window | None = None,
    left_out: list[Stay] | None = None,
) -> list[tuple[int | None, str | None]]:
    """For each event (subject, hour) its visit's number, and why it is left out."""
    rows = [(n, subject, START + hour * HOUR) for n, (subject, hour) in enumerate(events)]
    columns = {"event": pl.Int64, "subject_id": pl.Int64, "time": pl.Datetime("us")}
    (root / "out").mkdir(parents=True, exist_ok=True)
    pl.DataFrame(rows, schema=columns, orient="row").write_parquet(root / "0.parquet")
    others = visits_of(left_out, len(stays)) if left_out else None
    files = [root / "0.parquet"]
    (made,) = attach(files, HOW, visits_of(stays), window, root / "out", others)
    return pl.read_parquet(made).sort("event").select(VISIT, FATE).rows()


def test_a_visit_within_another(tmp_path: Path) -> None:
    stays: list[Stay] = [(1, 0, 30), (1, 5, 10), (1, 20, None), (2, 0, 9)]
    hours = [-1, 0, 4, 5, 10, 11, 30, 31]
    found = placed(tmp_path, stays, [(1, hour) for hour in hours])
    assert [visit for visit, _ in found] == [None, 0, 0, 1, 1, 0, 0, None]
    assert [fate for _, fate in found if fate] == ["outside every visit"] * 2


def test_a_window_is_that_of_the_visit_found(tmp_path: Path) -> None:
    stays: list[Stay] = [(1, 0, 30), (1, 5, 10)]
    found = placed(tmp_path, stays, [(1, 8), (1, 9), (1, 11)], Window("start", 4 * 60))
    assert found == [(1, None), (1, None), (None, "after the window")]


def test_visits_that_are_left_out_are_found_whatever_the_window(tmp_path: Path) -> None:
    found = placed(
        tmp_path, [(1, 0, 30)], [(1, 4), (1, 8), (1, 20)], Window("start", 300), [(1, 5, 10)]
    )
    assert found == [(0, None), (1, None), (None, "after the window")]


@given(
    stays=st.lists(st.tuples(*(st.integers(0, 9),) * 2), min_size=1, max_size=6), one=st.booleans()
)
def test_it_finds_what_a_search_finds(
    tmp_path_factory: pytest.TempPathFactory, stays: list[tuple[int, int]], one: bool
) -> None:
    # In the order of subjects, then of time, as sources have to give them.
    owned = [(1 if one else 1 + n % 2, *sorted(span)) for n, span in enumerate(stays)]
    ordered = sorted(owned)
    events = [(subject, hour) for subject in (1, 2, 3) for hour in range(-1, 11)]
    wanted = []
    for subject, hour in events:
        inside = [
            (start, place)
            for place, (owner, start, end) in enumerate(ordered)
            if owner == subject and start <= hour <= end
        ]
        wanted.append(max(inside)[1] if inside else None)
    root = tmp_path_factory.mktemp("attach")
    assert [visit for visit, _ in placed(root, ordered, events)] == wanted


def test_the_compiled_reader_agrees(tmp_path: Path) -> None:
    """The same visits, one within another, as MIMIC-IV writes them."""
    stay = "2150-01-{:02} 00:00:00,2150-01-{:02} 00:00:00,Other,WHITE,0\n"
    labs = "".join(f"1,,7,2150-01-{day:02} 12:00:00,{day}\n" for day in (2, 5, 8, 20))
    for name, text in {
        "patients": "subject_id,gender,anchor_age,anchor_year,dod\n1,F,60,2150,\n",
        "admissions": "subject_id,hadm_id,admittime,dischtime,insurance,race,"
        "hospital_expire_flag\n1,10," + stay.format(1, 10) + "1,11," + stay.format(4, 6),
        "diagnoses_icd": "hadm_id,icd_code,icd_version\n10,I10,10\n",
        "labevents": "subject_id,hadm_id,itemid,charttime,valuenum\n" + labs,
        "d_labitems": "itemid,label,fluid\n7,Sodium,Blood\n",
        "d_icd_diagnoses": "icd_code,icd_version,long_title\nI10,10,Hypertension\n",
    }.items():
        (tmp_path / f"{name}.csv").write_text(text)
    records = eq.read_mimic_iv(tmp_path, attach_by_time=True)
    assert records.lab_values.tolist() == [5.0, 5.0]
    stays: list[Stay] = [(1, 0, 9 * 24), (1, 3 * 24, 5 * 24)]
    events = [(1, (day - 1) * 24 + 12) for day in (2, 5, 8, 20)]
    visits = [visit for visit, _ in placed(tmp_path / "same", stays, events)]
    assert visits == [0, 1, 0, None]
