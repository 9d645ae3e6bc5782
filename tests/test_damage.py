"""Damaged bytes: refused by name with the row, or counted; never a panic, never a wrong count."""

from __future__ import annotations

import csv
import gzip
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

import equipoise as eq
from equipoise import _core
from equipoise.simulate import simulate

VISITS = np.array([7, 3], np.int64)
COLUMNS = ["hadm_id", "itemid", "valuenum"]
NOT_UTF8 = b"caf\xe9"
NUL = b"a\0b"


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("damage") / "hospital"
    return simulate(out, patients=60, seed=9, file_format="csv", lab_rows_per_patient=40)


@pytest.fixture
def hospital(intact: Path, tmp_path: Path) -> Path:
    """A hospital to be damaged."""
    return Path(shutil.copytree(intact, tmp_path / "hospital"))


def rows_of(path: Path) -> list[list[bytes]]:
    # Latin-1 takes every byte as it is.
    with path.open(encoding="latin-1", newline="") as file:
        return [[cell.encode("latin-1") for cell in row] for row in csv.reader(file)]


def put(hospital: Path, table: str, row: int, column: str, cell: bytes) -> None:
    """Write `cell` into row `row`, counted from 1 at the header."""
    path = hospital / "hosp" / f"{table}.csv"
    rows = rows_of(path)
    rows[row - 1][rows[0].index(column.encode())] = cell
    with path.open("w", encoding="latin-1", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([cell.decode("latin-1") for cell in cells] for cells in rows)


#: Table, column, the cell, and what the message wants there.
REFUSED = [
    ("labevents", "hadm_id", NUL, "a whole number"),
    ("labevents", "hadm_id", NOT_UTF8, "a whole number"),
    ("labevents", "itemid", NUL, "a whole number"),
    ("labevents", "itemid", NOT_UTF8, "a whole number"),
    ("diagnoses_icd", "hadm_id", b"\0", "a whole number"),
    ("diagnoses_icd", "icd_code", NUL, "UTF-8 text"),
    ("diagnoses_icd", "icd_code", NOT_UTF8, "UTF-8 text"),
    ("diagnoses_icd", "icd_version", b"\xff", "UTF-8 text"),
    ("d_labitems", "label", NOT_UTF8, "UTF-8 text"),
    ("d_labitems", "label", NUL, "UTF-8 text"),
    ("admissions", "subject_id", NUL, "UTF-8 text"),
    ("admissions", "race", NOT_UTF8, "UTF-8 text"),
    ("patients", "gender", NUL, "UTF-8 text"),
]


@pytest.mark.parametrize(("table", "column", "cell", "want"), REFUSED)
def test_bytes_that_are_no_text(
    hospital: Path, table: str, column: str, cell: bytes, want: str
) -> None:
    rows = rows_of(hospital / "hosp" / f"{table}.csv")
    places = range(12, len(rows))
    if table == "labevents":
        # A lab event without a visit id is counted before its other cells are looked at.
        at = rows[0].index(b"hadm_id")
        places = [number for number in places if rows[number - 1][at]]
    put(hospital, table, places[0], column, cell)
    with pytest.raises(eq.DataError) as caught:
        eq.read_mimic_iv(hospital, threads=2)
    error = caught.value
    assert (error.table, error.column, error.row) == (f"{table}.csv", column, places[0])
    assert error.want == want
    assert "\0" not in str(error)


@pytest.mark.parametrize("cell", [NOT_UTF8, NUL])
@pytest.mark.parametrize("place", [1, 2])
def test_a_lab_name_that_is_no_text(tmp_path: Path, cell: bytes, place: int) -> None:
    cells = [b"7", b"Sodium", b"mmol/L", b"140"]
    cells[place] = cell
    path = tmp_path / "labs.csv"
    path.write_bytes(b"visit,lab,unit,value\n7,Sodium,mmol/L,139\n" + b",".join(cells) + b"\n")
    with pytest.raises(eq.DataError) as caught:
        _core.read_values([path], ["visit", "lab", "unit", "value"], VISITS)
    assert (caught.value.row, caught.value.want) == (3, "UTF-8 text")


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("kind", ["csv", "csv.gz"])
def test_an_open_quote_is_named_behind_earlier_rows(
    tmp_path: Path, threads: int, kind: str
) -> None:
    path = tmp_path / f"labs.{kind}"
    good, broken = b"7,1,2.5\n" * 99, b'7,1,"2.5\n' + b"7,1,2.5\n" * 50
    for text, row, got in [
        (good + broken, 101, "a quote that is never closed"),
        (good + b"x,1,2.5\n" + broken, 101, '"x"'),
    ]:
        body = b"hadm_id,itemid,valuenum\n" + text
        path.write_bytes(gzip.compress(body) if kind == "csv.gz" else body)
        for block in (64, 1 << 20):
            with pytest.raises(eq.DataError) as caught:
                _core.read_values([path], COLUMNS, VISITS, threads=threads, block=block)
            assert (caught.value.row, caught.value.got) == (row, got)


def test_a_guess_within_quotes_is_no_damage(tmp_path: Path) -> None:
    """A newline within quotes, behind which the text looks like the start of an open quote."""
    path = tmp_path / "labs.csv"
    text = "hadm_id,itemid,valuenum,comments\n" + '7,1,2.5,"a\n,"""\n' * 99
    path.write_text(text)
    for block in range(64, 164):
        *_, (_, ledger) = _core.read_values([path], COLUMNS, VISITS, threads=2, block=block)
        assert dict(ledger)["used"] == 99


def test_a_header_without_an_end(tmp_path: Path) -> None:
    path = tmp_path / "labs.csv"
    path.write_bytes(b"hadm_id" * (3 << 20))
    with pytest.raises(eq.DataError, match=r"labs.csv, row 1: want a row of at most"):
        _core.read_values([path], COLUMNS, VISITS)


ODD_VALUES = {
    b"1e400": "value is not finite",
    b"NaN": "value is not finite",
    b"-inf": "value is not finite",
    b"< 5": "value is not a number",
    b"___": "value is not a number",
    NUL: "value is not a number",
    NOT_UTF8: "value is not a number",
    b" ": "no numeric value",
    b"": "no numeric value",
}


def test_odd_values_are_counted_by_name(intact: Path, hospital: Path) -> None:
    rows = rows_of(intact / "hosp" / "labevents.csv")
    visit, value = rows[0].index(b"hadm_id"), rows[0].index(b"valuenum")
    used = [n for n, row in enumerate(rows, 1) if n > 1 and row[visit] and row[value]]
    for number, cell in zip(used, ODD_VALUES, strict=False):
        put(hospital, "labevents", number, "valuenum", cell)
    assert counts(hospital) == counts(intact) | {
        "used": counts(intact)["used"] - len(ODD_VALUES),
        "value is not finite": 3,
        "value is not a number": 4,
        "no numeric value": counts(intact)["no numeric value"] + 2,
    }


def counts(hospital: Path) -> dict[str, int]:
    ledger = eq.read_mimic_iv(hospital).ledger
    return {outcome: rows for table, outcome, rows in ledger.iter_rows() if table == "labevents"}


def as_parquet(hospital: Path, **options: bool) -> Path:
    """The lab events as Parquet instead; the file."""
    path = hospital / "hosp" / "labevents.csv"
    frame = pl.read_csv(path, infer_schema_length=None)
    path.unlink()
    parquet = path.with_suffix(".parquet")
    pq.write_table(frame.to_arrow(), parquet, row_group_size=700, **options)
    return parquet


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)


def pages_of(path: Path, column: str) -> tuple[int, int]:
    """Where the second row group's pages of `column` begin and end."""
    group = pq.ParquetFile(path).metadata.row_group(1)
    chunks = [group.column(place) for place in range(group.num_columns)]
    chunk = next(chunk for chunk in chunks if chunk.path_in_schema == column)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    return start, start + chunk.total_compressed_size


def cut_in_half(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


#: Ways to damage a Parquet file.
DAMAGE: dict[str, Callable[[Path], None]] = {
    "page header": lambda path: flip(path, pages_of(path, "hadm_id")[0]),
    "inside a page": lambda path: flip(path, sum(pages_of(path, "valuenum")) // 2),
    "footer": lambda path: flip(path, path.stat().st_size - 200),
    "length of the footer": lambda path: flip(path, path.stat().st_size - 6),
    "last bytes": lambda path: flip(path, path.stat().st_size - 1),
    "truncated": cut_in_half,
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_parquet_ends_with_one_message(hospital: Path, tmp_path: Path, what: str) -> None:
    DAMAGE[what](as_parquet(hospital, write_page_checksum=True))
    code = "from equipoise.cli import main; main()"
    command = [sys.executable, "-c", code, "extract", "mimic-iv", str(hospital), "--out"]
    command.append(str(tmp_path / "out"))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "labevents.parquet: want a whole file; got" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["hospital"]


def test_every_byte_of_a_page_counts(hospital: Path) -> None:
    path = as_parquet(hospital, write_page_checksum=True)
    whole = path.read_bytes()
    start, end = pages_of(path, "valuenum")
    for place in range(start, end, 37):
        flip(path, place)
        with pytest.raises(eq.DataError, match=r"labevents\.parquet"):
            _core.read_values([path], COLUMNS, VISITS, threads=2)
        path.write_bytes(whole)


def test_without_checksums_no_row_is_lost(
    hospital: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = as_parquet(hospital)
    whole, rows = path.read_bytes(), pq.ParquetFile(path).metadata.num_rows
    refused, places = 0, range(4, len(whole), 499)
    for place in places:
        flip(path, place)
        try:
            *_, named = _core.read_values([path], COLUMNS, VISITS)
            assert sum(count for _, count in named[1]) == rows
        except eq.DataError as error:
            assert error.table == path.name
            refused += 1
        path.write_bytes(whole)
    assert 0 < refused < len(places)
    assert capfd.readouterr().err == "", "a decoder's panic was printed"
