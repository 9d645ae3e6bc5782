"""What `MedsSettings` may say: other names of discharges, other columns of visits, the manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

import equipoise as eq
from equipoise import schema, store
from equipoise.sources.meds import MedsSettings
from test_meds import ROWS, Row, at, dataset

SILENT = "do not say the outcome"


def stays(discharge: str, *more: str) -> list[Row]:
    """Three subjects: one dies as the visit ends, one much later, one never; then other codes."""
    deaths = {1: at(5), 2: at(20), 3: None}
    rows: list[Row] = []
    for subject, death in deaths.items():
        rows.append((subject, at(3), "VISIT//START", None, None))
        rows.append((subject, at(5), discharge, None, None))
        rows += [(subject, at(4), code, None, None) for code in more]
        if death:
            rows.append((subject, death, "MEDS_DEATH", None, None))
    return rows


def settings(*discharge: str) -> MedsSettings:
    return MedsSettings(visits="codes", admission=("VISIT//START",), discharge=discharge)


@pytest.mark.parametrize(
    ("discharge", "code"),
    [
        (("VISIT//END",), "VISIT//END"),
        (("VISIT//END",), "VISIT//END//"),
        (("VISIT//END",), "VISIT//END//UNK"),
        (("VISIT//END//",), "VISIT//END//UNK"),
        # The rest of the name says nothing either.
        (("VISIT//EN",), "VISIT//END"),
        (("VISIT//EN",), "VISIT//END//UNK//1"),
        # The longest name is the one that was meant, wherever it stands.
        (("VISIT//END", "VISIT//END//WARD"), "VISIT//END//WARD"),
        (("VISIT//END//WARD", "VISIT//END"), "VISIT//END//WARD"),
    ],
)
def test_a_discharge_is_silent_if_nothing_follows_its_name(
    tmp_path: Path, discharge: tuple[str, ...], code: str
) -> None:
    records = eq.read_meds(dataset(tmp_path, stays(code)), settings=settings(*discharge))
    assert records.visits[schema.LABEL].to_list() == [True, False, False]
    (silent,) = (n for name, n in records.oddities.items() if SILENT in name)
    assert silent == 3


@pytest.mark.parametrize(
    ("discharge", "code", "died"),
    [
        ("VISIT//END", "VISIT//END//DIED", True),
        ("VISIT//END", "VISIT//END//EXPIRED//WARD", True),
        ("VISIT//END", "VISIT//END//HOME", False),
        ("VISIT//END//", "VISIT//END//DIED", True),
        ("VISIT//EN", "VISIT//END//DIED", True),
        ("DISCHARGE_", "DISCHARGE_DIED", True),
        ("DISCHARGE_", "DISCHARGE_HOME", False),
    ],
)
def test_what_follows_the_name_says_how_a_visit_ended(
    tmp_path: Path, discharge: str, code: str, died: bool
) -> None:
    records = eq.read_meds(dataset(tmp_path, stays(code)), settings=settings(discharge))
    assert records.visits[schema.LABEL].to_list() == [died] * 3
    (silent,) = (n for name, n in records.oddities.items() if SILENT in name)
    assert silent == 0


@pytest.mark.parametrize("name", ["visit", "fate", "rows", "number"])
@pytest.mark.parametrize("until", [None, "admission+2d"])
def test_visits_may_be_called_anything(tmp_path: Path, name: str, until: str | None) -> None:
    wanted = eq.read_meds(dataset(tmp_path / "a", ROWS), until=until)
    root = dataset(tmp_path / "b", ROWS, {"hadm_id": name})
    got = eq.read_meds(root, settings=MedsSettings(visits=name), until=until)
    assert got.visits.equals(wanted.visits)
    assert got.ledger.equals(wanted.ledger)
    assert got.code_table.equals(wanted.code_table)
    assert got.lab_values.tolist() == wanted.lab_values.tolist()


def test_a_manifest_tells_the_settings(tmp_path: Path) -> None:
    root = dataset(tmp_path / "data", ROWS)
    groups: Mapping[str, tuple[str, ...]] = MappingProxyType({"sex": ("GENDER//",)})
    asked = [None, MedsSettings(keep=("LAB//",)), MedsSettings(groups=groups)]
    told = set()
    for number, settings in enumerate(asked):
        records = eq.read_meds(root, settings=settings)
        folder = records.save(tmp_path / f"records{number}")
        config = store.read_manifest(folder, "records")["config"]
        assert config == records.config
        assert (config["source"], config["codes"], config["lab_key"]) == ("meds", [], [])
        told.add(json.dumps(config["settings"], sort_keys=True))
    assert len(told) == len(asked)
    assert eq.read_meds(root).config == eq.read_meds(root, settings=MedsSettings()).config
    assert config["settings"]["groups"] == {"sex": ["GENDER//"]}
