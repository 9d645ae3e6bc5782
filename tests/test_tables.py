"""Anyone's own tables: the shipped specs on the real files, tables of events, bad specs."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import equipoise as eq
from equipoise import schema
from equipoise.sources import source_named
from equipoise.sources.spec import read_spec


def outcomes(records: eq.VisitRecords, name: str) -> dict[str, int]:
    rows = records.ledger.filter(pl.col("table") == name)
    return dict(rows.select("outcome", "rows").iter_rows())


@pytest.fixture(scope="module")
def support2(shared_data: Path) -> eq.VisitRecords:
    return eq.read_tables(shared_data / "support2", "support2")


def test_support2_is_what_polars_reads(support2: eq.VisitRecords, shared_data: Path) -> None:
    rows = pl.read_csv(shared_data / "support2" / "support2.csv", infer_schema=False)
    assert len(support2) == len(support2.visits) == len(rows) == 9105
    assert support2.subjects[schema.LABEL].to_list() == (rows["hospdead"] == "1").to_list()
    assert support2.subjects[schema.LABEL].sum() == 2360
    races = dict(support2.subjects["race"].value_counts().iter_rows())
    assert races == {
        "White": 7191,
        "Black": 1391,
        "Hispanic/Latino": 290,
        "Other/Unknown": 112 + 42,
        "Asian": 79,
    }
    assert int((support2.subjects["age_band"] == ">=75").sum()) == int(
        (rows["age"].cast(pl.Float64) >= 75).sum()
    )
    labs = support2.lab_table["lab"].to_list()
    assert len(labs) == 14
    values = rows.select(pl.col(labs).cast(pl.Float64))
    known = values.height * 14 - sum(values.null_count().row(0))
    assert outcomes(support2, "support2 (values)") == {
        "used": known,
        "no numeric value": 9105 * 14 - known,
    }
    dense = np.full(values.shape, np.nan)
    owner = np.repeat(np.arange(9105), np.diff(support2.lab_offsets))
    dense[owner, support2.labs] = support2.lab_values
    assert np.array_equal(dense, values.to_numpy(), equal_nan=True)


def test_support2_has_no_outcome_among_its_features(support2: eq.VisitRecords) -> None:
    never = "death d.time slos hday charges totcst totmcst avtisst surv2m surv6m prg2m prg6m dnr "
    never += "dnrday sfdm2 sps aps hospdead"
    names = {*support2.lab_table["lab"], *support2.code_table["code"].str.split("=").list.first()}
    assert not names & set(never.split())
    assert {"dzgroup=Coma", "ca=no", "diabetes=0"} <= set(support2.code_table["code"])


@pytest.fixture(scope="module")
def diabetes(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("diabetes")
    with zipfile.ZipFile(shared_data / "diabetes130" / "dataset_diabetes.zip") as archive:
        archive.extract("dataset_diabetes/diabetic_data.csv", root)
    return root


def test_diabetes130_is_what_polars_reads(diabetes: Path) -> None:
    records = eq.read_tables(diabetes, "diabetes130")
    rows = pl.read_csv(diabetes / "dataset_diabetes" / "diabetic_data.csv", infer_schema=False)
    rows = rows.with_columns(pl.col("encounter_id", "patient_nbr").cast(pl.Int64))
    rows = rows.sort("patient_nbr", "encounter_id")
    dead = rows["discharge_disposition_id"].is_in(["11", "19", "20", "21"])
    assert records.oddities["readmission_30d: left out by discharge_disposition_id"] == 1652
    assert int(dead.sum()) == 1652
    label = pl.when(~dead).then(rows["readmitted"] == "<30")
    rows = rows.with_columns(label=label)
    of_patient: dict[int, list[tuple[int, bool | None]]] = {}
    for patient, encounter, back in rows.select("patient_nbr", "encounter_id", "label").iter_rows():
        of_patient.setdefault(patient, []).append((encounter, back))
    kept = []
    for record in of_patient.values():
        labels = [back for _, back in record]
        known = [place for place, value in enumerate(labels) if value is not None]
        end = labels.index(True) if True in labels else max(known, default=-1)
        kept += [encounter for encounter, _ in record[: end + 1]]
    assert records.visits[schema.VISIT_ID].to_list() == kept
    fates = outcomes(records, "visits")
    assert sum(fates.values()) == len(rows) == 101_766
    assert fates["used"] == len(kept) == 88_251
    assert outcomes(records, "diabetic_data (values)") == {
        "used": len(records.labs),
        "visit left out by the task": (101_766 - 88_251) * 8,
    }
    assert len(records.labs) == 88_251 * 8
    assert (len(records), records.subjects[schema.LABEL].sum()) == (70_439, 8834)
    drugs = records.code_table.filter(kind="medication")["code"]
    assert "insulin=Up" in drugs.to_list()
    assert not drugs.str.ends_with("=No").any()
    assert "A1Cresult=None" in records.code_table["code"].to_list()
    # Leading zeros that a spreadsheet has taken: 8 is 008, 250.83 is 25083.
    codes = records.code_table.filter(kind="diagnosis")["code"].to_list()
    assert {"008", "25083"} <= set(codes)
    assert "?" not in codes
    assert "ICD9:250" in records.fit_vocabulary().columns["code"].to_list()


SPEC = """
[visits]
table = "stays"
subject = "patient"
visit = "stay"
start = "from"
end = "to"
death = "died_on"
person = "person"
split = "part"
null = ["-"]

[tasks.in_hospital_mortality]
column = "fate"
true = ["dead"]
false = ["home"]

[groups]
sex = { column = "gender", values = { f = "F", m = "M" } }
race = { column = "origin", kind = "race" }
age_band = { column = "years", kind = "age" }

[[codes]]
kind = "ward"
columns = ["ward"]

[[codes]]
table = "icd"
kind = "diagnosis"
system = "ICD10"
visit = "stay"
code = "code"
time = "at"

[[values]]
table = "labs"
visit = "stay"
code = "lab"
unit = "unit"
value = "result"
time = "at"
"""
TABLES = {
    "stays": "patient,stay,from,to,died_on,person,part,fate,gender,origin,years,ward\n"
    "b,2,2020-02-01,2020-02-05,,x,train,dead,f,white,80.9,ICU\n"
    "b,1,2020-01-01,2020-01-05,,x,train,home,m,asian,79,-\n"
    "a,3,2020-01-01,2020-01-02,2020-01-20,z,held_out,lost,-,martian,old,ICU\n"
    ",4,2020-01-01,,,y,train,home,f,,,\na,3,2020-01-01,,,x,train,home,f,,,\n"
    "a,5,,,,x,train,home,f,,,\n",
    "icd": "stay,at,code\n1,2020-01-01 10:00:00,i50.9\n1,2020-01-03 10:00:00,\n"
    "2,2020-02-04,E11.9\n9,2020-02-04,E11.9\n",
    "labs": "stay,at,lab,unit,result\n1,2020-01-01,Na,mmol/L,140\n1,2020-01-02,Na,mmol/L,141\n"
    "1,2020-01-02,Na,mg/dL,9\n2,2020-02-01,pH,,7.4\n",
}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    for name, text in TABLES.items():
        (tmp_path / f"{name}.csv").write_text(text)
    (tmp_path / "own.toml").write_text(SPEC)
    return tmp_path


def test_own_tables(own: Path) -> None:
    records = eq.read_tables(own, own / "own.toml")
    assert records.config["task"] == "in_hospital_mortality"
    assert records.config["tables"] == {"diagnosis": ["icd"], "lab": ["labs"]}
    assert records.visits[schema.VISIT_ID].to_list() == [3, 1, 2]
    assert records.visits[schema.LABEL].to_list() == [None, False, True]
    assert records.subjects.select("sex", "race", "age_band").rows() == [
        ("Unknown", "Other/Unknown", "Unknown"),
        ("M", "Asian", ">=75"),
    ]
    assert records.subjects[schema.PERSON_ID].to_list() == [1, 0]
    assert records.subjects[schema.SPLIT].to_list() == ["held_out", "train"]
    assert len(records.of_split("held_out")) == 1
    assert outcomes(records, "stays") == {
        "used": 3,
        "no start": 1,
        "no subject": 1,
        "visit id twice": 1,
    }
    codes = records.code_table.select("kind", "system", "code").rows()
    assert sorted(codes) == [
        ("diagnosis", "ICD10", "E119"),
        ("diagnosis", "ICD10", "I509"),
        ("ward", "ward", "ICU"),
    ]
    assert outcomes(records, "icd") == {"used": 2, "unknown visit": 1, "no code": 1}
    assert records.lab_table["lab"].to_list() == ["Na, mg/dL", "Na, mmol/L", "pH"]
    assert records.lab_values.tolist() == [9.0, 140.5, 7.4]
    assert records.oddities["in_hospital_mortality: neither true nor false (unknown)"] == 1
    assert records.oddities["subjects whose race is not understood (Other/Unknown)"] == 1
    assert records.oddities["subjects whose age_band is not understood (Unknown)"] == 1


def test_own_tables_with_the_house_tasks_and_windows(own: Path) -> None:
    back = eq.read_tables(own, own / "own.toml", "readmission_30d")
    assert back.visits.select(schema.VISIT_ID, schema.LABEL).rows() == [(3, False), (1, True)]
    dead = eq.read_tables(own, own / "own.toml", "mortality_30d")
    assert dead.visits[schema.LABEL].to_list() == [True, False, True]
    early = eq.read_tables(own, own / "own.toml", until="admission+1d")
    # With dates alone, what is of the second day may have happened after the first 24 hours.
    assert outcomes(early, "labs") == {"used": 2, "after the window": 2}
    assert outcomes(early, "icd") == {"used": 1, "unknown visit": 1, "after the window": 2}
    with pytest.raises(eq.UsageError, match="no task is called 'joy'; there are"):
        eq.read_tables(own, own / "own.toml", "joy")


BAD = [
    ('table = "stays"\n', "", "own.toml, column visits.table: want this key"),
    ('start = "from"', 'begin = "from"', "column visits.begin: want no key but"),
    ('start = "from"', "start = 3", "column visits.start: want a text; got 3"),
    ('start = "from"\n', "", "column visits.order: want what a subject's visits are ordered by"),
    ('true = ["dead"]', 'true = "dead"', "in_hospital_mortality.true: want a list of texts"),
    ('true = ["dead"]', 'true = ["home"]', "true: want words that are not false, too; got 'home'"),
    ('kind = "age"', 'kind = "years"', "groups.age_band.kind: want one of value, race, age"),
    ('code = "code"', 'codes = "code"', "want no key but"),
    ('columns = ["ward"]', "", "column codes[0].columns: want either columns of the visits' table"),
    ("[visits]", "[visits", "own.toml: want TOML"),
    ("sex = {", "label = {", "column groups.label: want another name than subject_id, label"),
    ('kind = "ward"', 'kind = "ward"\nunit = "x"', "codes[0].unit: want only keys that mean"),
    ('value = "result"', 'value = "result"\nnull = ["9"]', "values[0].null: want only keys"),
    ("[[values]]", "[[labs]]", "column labs: want no key but"),
    ('column = "fate"', 'column = "end"', "stays.csv, column end: want this column"),
    ('true = ["dead"]', 'true = ["DEAD"]', ""),
    ('false = ["home"]', 'false = ["HOME"]', ""),
    ('start = "from"', 'start = "fate"', "stays.csv, column fate, row 2: want a time"),
    ('value = "result"', 'value = "outcome"', "labs.csv, column outcome: want this column"),
    ('table = "labs"', 'table = "chemistry"', "want one of chemistry.csv.gz"),
]


@pytest.mark.parametrize(("old", "new", "message"), BAD)
def test_a_bad_spec_is_named(own: Path, old: str, new: str, message: str) -> None:
    spec = own / "own.toml"
    assert old in SPEC
    spec.write_text(SPEC.replace(old, new, 1))
    if not message:
        assert eq.read_tables(own, spec).visits[schema.LABEL].null_count() == 2
        return
    with pytest.raises(eq.DataError) as caught:
        eq.read_tables(own, spec)
    assert message in str(caught.value)


def test_words_that_no_cell_has_are_refused(own: Path) -> None:
    spec = own / "own.toml"
    spec.write_text(SPEC.replace('"dead"', '"1"').replace('"home"', '"0"'))
    with pytest.raises(eq.DataError, match="column fate: want 1 or 0; got dead, home, lost"):
        eq.read_tables(own, spec)


def test_a_word_is_no_id_where_all_visits_have_numbers(own: Path) -> None:
    (own / "icd.csv").write_text(TABLES["icd"].replace("\n2,", "\ntwo,"))
    with pytest.raises(eq.DataError, match='column stay, row 4: want a whole number; got "two"'):
        eq.read_tables(own, own / "own.toml")


def test_ids_as_pandas_writes_them_are_whole_numbers(own: Path) -> None:
    """As ranks, 1.0, 10.0, 2.0 would be 0, 1, 2, and events would go to others' visits."""
    stays = TABLES["stays"].replace("b,2,", "b,10.0,").replace("b,1,", "b,1.0,")
    (own / "stays.csv").write_text(stays.replace("a,3,2020", "a,3.0,2020"))
    for name in ("icd", "labs"):
        (own / f"{name}.csv").write_text(TABLES[name].replace("\n2,", "\n10.0,"))
    records = eq.read_tables(own, own / "own.toml")
    assert records.visits[schema.VISIT_ID].to_list() == [3, 1, 10]
    owner = np.repeat(records.visits[schema.VISIT_ID].to_numpy(), np.diff(records.lab_offsets))
    labs = zip(owner, records.lab_table["lab"].gather(records.labs), strict=True)
    assert list(labs) == [(1, "Na, mg/dL"), (1, "Na, mmol/L"), (10, "pH")]


@pytest.mark.parametrize("orders", [("9.5", "10.5"), ("9", "10"), ("9.0", "10.0")])
def test_numbers_order_visits_as_numbers(own: Path, orders: tuple[str, str]) -> None:
    stays = TABLES["stays"].replace("80.9", orders[1]).replace(",79,", f",{orders[0]},")
    (own / "stays.csv").write_text(stays.replace("old", "1"))
    spec = SPEC.replace('start = "from"', 'start = "from"\norder = "years"')
    (own / "own.toml").write_text(spec)
    assert eq.read_tables(own, own / "own.toml").visits[schema.VISIT_ID].to_list()[-2:] == [1, 2]


NAMES = ["outcome", "order", "start", "end", "dod", "died", "row", "subject_id", "visit_id", "len"]


@pytest.mark.parametrize("name", NAMES)
def test_columns_may_be_called_as_ours_are(own: Path, name: str) -> None:
    wanted = eq.read_tables(own, own / "own.toml")
    header, rest = TABLES["stays"].split("\n", 1)
    for column in ("gender", "fate", "ward"):
        spec = SPEC.replace(f'column = "{column}"', f'column = "{name}"')
        (own / "own.toml").write_text(spec.replace(f'["{column}"]', f'["{name}"]'))
        (own / "stays.csv").write_text(f"{header.replace(column, name)}\n{rest}")
        got = eq.read_tables(own, own / "own.toml")
        assert got.subjects.equals(wanted.subjects)
        assert got.visits.equals(wanted.visits)
        assert got.code_table.equals(wanted.code_table)
        assert eq.read_tables(own, own / "own.toml", "readmission_30d").visits.height == 2


def test_a_window_cuts_what_stands_in_the_table_of_visits(own: Path) -> None:
    """It has no time, and counts as known when its visit ends, however soon after admission."""
    ledgers = {
        "admission+1d": {"after the window": 3},
        "admission+9d": {"after the window": 3},
        "discharge-1m": {"after the window": 3},
        "discharge": {"used": 2, "no code": 1},
    }
    for until, wanted in ledgers.items():
        records = eq.read_tables(own, own / "own.toml", until=until)
        assert outcomes(records, "stays (codes)") == wanted, until
        wards = records.code_table["kind"].gather(records.codes).eq("ward").sum()
        assert wards == wanted.get("used", 0)


def test_groups_may_be_called_as_columns_inside_are(own: Path) -> None:
    (own / "own.toml").write_text(SPEC.replace("sex = { column", "len = { column"))
    records = eq.read_tables(own, own / "own.toml")
    assert records.subjects["len"].to_list() == ["Unknown", "M"]


def test_cells_of_visits_that_the_task_leaves_out_are_not_used(own: Path) -> None:
    records = eq.read_tables(own, own / "own.toml", "readmission_30d")
    assert outcomes(records, "visits") != {}
    left_out = 3 - len(records.visits)
    assert outcomes(records, "stays (codes)").get("visit left out by the task") == left_out


def test_sources_by_name() -> None:
    assert source_named("tables", spec="support2").name == "support2"
    assert [source_named(name).name for name in ("mimic-iv", "mimic-iii", "eicu", "meds")] == [
        "mimic-iv",
        "mimic-iii",
        "eicu",
        "meds",
    ]
    for name, options, message in (
        ("tables", {}, "wants a spec"),
        ("omop", {}, "there are mimic-iv, mimic-iii, eicu, meds, tables"),
        ("eicu", {"spec": "x"}, "the source eicu does not take spec"),
    ):
        with pytest.raises(eq.UsageError, match=message):
            source_named(name, **options)
    with pytest.raises(eq.DataError, match="no such file"):
        read_spec("nowhere.toml")


def test_every_source_can_be_inspected(shared_data: Path, tmp_path: Path) -> None:
    from equipoise.inspection import inspect

    eicu = eq.read_eicu(shared_data / "eicu-demo").save(tmp_path / "eicu")
    meds = eq.read_meds(shared_data / "mimic-iv-demo-meds").save(tmp_path / "meds")
    support2 = eq.read_tables(shared_data / "support2", "support2").save(tmp_path / "support2")
    found = [inspect(folder) for folder in (eicu, meds, support2)]
    assert [view["diagnoses"] for view in found] == [21_206, None, 45_525]
    assert [view["lab_events"]["used"] for view in found] == [134_504, 103_342, 102_890]
    assert [view["unknown_labels"] for view in found] == [25, 0, 0]
    assert "person_id" not in found[0]["groups"]
    again = eq.VisitRecords.load(eicu)
    assert again.subjects[schema.PERSON_ID].n_unique() == 1841
