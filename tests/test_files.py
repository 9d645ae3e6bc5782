"""Which files are a table: all of them, each once."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import equipoise as eq
from equipoise import _core
from equipoise.errors import DataError
from equipoise.sources.files import check_root, find_table, has_table

ROWS = {"hadm_id": [7, 7], "itemid": [1, 2], "valuenum": [1.0, 2.0]}


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("a\n1\n")


def found(root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in find_table(root, ("hosp", "."), "labs")]


def test_a_table_of_several_formats_is_read_whole(tmp_path: Path) -> None:
    folder = tmp_path / "labs"
    folder.mkdir()
    frame = pl.DataFrame(ROWS)
    frame.write_csv(folder / "0.csv")
    frame.with_columns(valuenum=pl.col("valuenum") + 2).write_parquet(folder / "1.parquet")
    files = find_table(tmp_path, (".",), "labs")
    visits = np.array([7], np.int64)
    _, _, values, (_, counts) = _core.read_values(files, [*ROWS], visits)
    assert values.tolist() == [2.0, 3.0]
    assert dict(counts)["used"] == 4


def test_folders_that_are_linked_to_are_walked_once(tmp_path: Path) -> None:
    touch(tmp_path, "labs/a/0.csv", "elsewhere/1.csv", "elsewhere/deep/2.csv")
    (tmp_path / "labs" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "labs" / "again").symlink_to(tmp_path / "labs")
    assert found(tmp_path) == ["labs/a/0.csv", "labs/b/1.csv", "labs/b/deep/2.csv"]


def test_what_links_lead_to_twice_counts_once(tmp_path: Path) -> None:
    touch(tmp_path, "labs/0.csv", "elsewhere/1.csv", "elsewhere/deep/2.csv")
    for name in ("b", "c"):
        (tmp_path / "labs" / name).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "labs" / "again.csv").symlink_to(tmp_path / "labs" / "0.csv")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "labs")
    assert found(tmp_path) == ["labs/0.csv", "labs/b/1.csv", "labs/b/deep/2.csv"]


def test_what_writers_leave_beside_the_parts_is_no_part(tmp_path: Path) -> None:
    left = ("labs/._0.csv", "labs/_temporary/0/0.csv", "labs/.ipynb_checkpoints/0.csv")
    touch(tmp_path, "labs/0.csv", *left)
    assert found(tmp_path) == ["labs/0.csv"]


@pytest.mark.parametrize(
    "names",
    [
        ("hosp/labs.csv", "hosp/labs.csv.gz"),
        ("labs.csv.gz", "labs.parquet"),
        ("labs.csv.gz", "labs/0.csv"),
        ("labs/0.csv", "labs/0.parquet"),
        ("labs/0.csv", "labs/0/x.csv"),
        ("labs/train.parquet", "labs/train/deep/0.parquet"),
    ],
)
def test_what_may_be_there_twice_is_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    touch(tmp_path, *names)
    assert has_table(tmp_path, ("hosp", "."), "labs")
    with pytest.raises(DataError, match="labs: want each part once; got .* and .*Move one"):
        found(tmp_path)


def test_a_folder_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "labs/0.csv", "labs/shut/1.csv")
    scan = os.scandir

    def shut(path: str) -> object:
        if path.endswith("shut"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", shut)
    with pytest.raises(DataError, match="labs/shut: want a folder that can be read; got Perm"):
        found(tmp_path)


def test_the_first_folder_that_has_it_counts(tmp_path: Path) -> None:
    touch(tmp_path, "hosp/LABS.csv", "labs.csv", "other.csv")
    assert found(tmp_path) == ["hosp/LABS.csv"]


def test_the_hint_names_a_folder_or_nothing(tmp_path: Path) -> None:
    for folders, hint in (((".",), ""), (("hosp", "."), "Name the folder that holds hosp/")):
        with pytest.raises(DataError) as caught:
            check_root(tmp_path, folders, ["labs"])
        assert ("Name the folder" in str(caught.value)) == bool(hint)
        assert hint in str(caught.value)


def test_flags_and_versions_that_are_not_understood_are_counted(tmp_path: Path) -> None:
    people = "subject_id,gender,anchor_age,anchor_year,dod\n1,F,60,2180,\n2,M,60,2180,\n"
    stays = "subject_id,hadm_id,admittime,dischtime,insurance,race,hospital_expire_flag\n"
    day = "2180-01-01 00:00:00,2180-01-02 00:00:00,Other,WHITE"
    codes = "hadm_id,icd_code,icd_version\n7,I10,10.0\n8,4019,9\n8,X,8\n7,Y,\n"
    labs = "subject_id,hadm_id,itemid,charttime,valuenum\n1,7,1,2180-01-01 01:00:00,2\n"
    for name, text in {
        "patients": people,
        "admissions": f"{stays}1,7,{day},2\n2,8,{day},1\n",
        "diagnoses_icd": codes,
        "labevents": labs,
        "d_labitems": "itemid,label,fluid\n1,Sodium,Blood\n",
        "d_icd_diagnoses": "icd_code,icd_version,long_title\nI10,10,Hypertension\n",
    }.items():
        (tmp_path / f"{name}.csv").write_text(text)
    records = eq.read_mimic_iv(tmp_path)
    assert records.visits["label"].to_list() == [None, True]
    (odd,) = (n for name, n in records.oddities.items() if "neither true nor false" in name)
    assert odd == 1
    assert sorted(records.code_table["system"]) == ["", "8", "ICD10", "ICD9"]
    strange = "visits' codes whose icd_version in diagnoses_icd is not understood"
    assert records.oddities[strange] == 2
    with pytest.raises(DataError, match="neither true nor false"):
        eq.read_mimic_iv(tmp_path, strict=True)
    path = tmp_path / "admissions.csv"
    path.write_text(path.read_text().replace(",2\n", ",0\n"))
    with pytest.raises(DataError, match="icd_version in diagnoses_icd is not understood"):
        eq.read_mimic_iv(tmp_path, strict=True)
