"""Training: what is learned, what is left out, what is kept on disk."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version

import numpy as np
import polars as pl
import pytest

from equipoise import store
from equipoise.cohort import Cohort, cohort_from_lists
from equipoise.errors import DataError, UsageError
from equipoise.generator import (
    Generator,
    GeneratorConfig,
    checkpoint,
    load_generator,
    log_likelihood,
    sample,
    train_generator,
)
from equipoise.vocabulary import Vocabulary
from generator_toys import SMALL, ToyPlan, plan_of, random_generator
from toys import toy_cohort

BY = ["race", "sex"]
TINY = replace(SMALL, layers=1, max_steps=4, evaluate_every=2, learning_rate=1e-3)


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return toy_cohort(800, 24, seed=1)


@pytest.fixture(scope="module")
def trained(cohort: Cohort) -> Generator:
    return train_generator(cohort, BY, seed=0)


def prevalence(cohort: Cohort, **where: object) -> np.ndarray:
    keep = np.ones(len(cohort), bool)
    for name, level in where.items():
        keep &= (cohort.subjects[name] == level).to_numpy()
    return np.asarray(cohort.filter(keep).matrix().mean(axis=0))


def test_conditional_prevalences_and_lengths_come_back(cohort, trained):
    cells = trained.conditions.cells.rename({"subjects": "synthetic"})
    plan = ToyPlan(cells.with_columns(pl.col("synthetic") * 3), BY)
    synthetic = sample(trained, plan, seed=1)
    for where in ({"label": True}, {"label": False}, {"sex": "F"}, {"sex": "M"}, {"race": "Black"}):
        real, made = prevalence(cohort, **where), prevalence(synthetic, **where)
        assert np.corrcoef(real, made)[0, 1] > 0.9, where
    raised = prevalence(synthetic, label=True)[:3] - prevalence(synthetic, label=False)[:3]
    assert raised.min() > 0.25
    lengths = np.diff(cohort.visit_offsets).mean(), np.diff(synthetic.visit_offsets).mean()
    assert lengths[1] == pytest.approx(lengths[0], rel=0.1)


def test_early_stopping_keeps_the_best_weights(trained):
    history = trained.history
    best = history.sort("tuning_nll")["step"][0]
    assert trained.report["best_step"] == best
    assert history["step"][-1] < trained.config.max_steps


def test_same_seed_same_generator_and_tuning_is_used():
    cohort = toy_cohort(60, 24, seed=1)
    tuning = toy_cohort(60, 24, seed=2)
    told = []
    one = train_generator(
        cohort, BY, 5, config=TINY, tuning=tuning, progress=lambda *what: told.append(what)
    )
    two = train_generator(cohort, BY, 5, config=TINY, tuning=tuning)
    assert one.history.equals(two.history)
    assert one.report["subjects_tuning"] == 60
    assert told[-1] == ("train", 4, 4)
    nats = log_likelihood(one, tuning)
    nll = -nats.sum() / len(tuning.visits)
    assert nll == pytest.approx(one.history["tuning_nll"].min(), rel=1e-5)


def test_who_is_left_out_is_counted():
    records = [[[0]], [], [[1]], [[2]]] + [[[3]] * 6] * 60
    subjects = pl.DataFrame(
        {
            "label": [True, True, None, False] + [False] * 60,
            "sex": ["F", "F", "F", None] + ["M", "F"] * 30,
        }
    )
    cohort = cohort_from_lists(
        records, subjects, Vocabulary.of_codes([f"C{i:02d}" for i in range(24)])
    )
    generator = train_generator(cohort, ["sex"], config=TINY)
    counts = list(generator.report)[:6]
    assert {name: generator.report[name] for name in counts} == {
        "without_visits": 1,
        "label_unknown": 1,
        "group_unknown": 1,
        "cut_to_last_visits": 53,
        "subjects_trained": 54,
        "subjects_tuning": 7,
    }
    # The only subject of its cell is never the one held out.
    assert generator.conditions.cells.rows() == [
        (False, "F", 30),
        (False, "M", 30),
        (True, "F", 1),
    ]


def test_refusals():
    cohort = toy_cohort(60, 24)
    with pytest.raises(DataError, match="column age"):
        train_generator(cohort, ["age"], config=TINY)
    with pytest.raises(DataError, match="vocabulary"):
        train_generator(cohort, BY, config=TINY, tuning=toy_cohort(30, 25))
    with pytest.raises(DataError, match="to train on"):
        train_generator(cohort.take(np.arange(0)), BY, config=TINY)
    with pytest.raises(DataError, match="finite likelihood"):
        train_generator(cohort, BY, config=replace(TINY, learning_rate=1e30))
    with pytest.raises(DataError, match="vocabulary"):
        log_likelihood(random_generator(7), cohort)


def test_sizes_follow_the_data():
    small = GeneratorConfig.for_cohort(toy_cohort(100, 24))
    assert small.max_visits == 4
    assert small.width < GeneratorConfig().width


@pytest.fixture
def folder(tmp_path):
    generator = random_generator()
    generator.save(tmp_path / "model", seed=3)
    return tmp_path / "model"


def test_saved_and_loaded_it_samples_the_same(folder):
    before, after = random_generator(), load_generator(folder)
    plan = plan_of([10, 10, 10, 10])
    one, two = sample(before, plan), sample(after, plan)
    assert np.array_equal(one.codes, two.codes)
    assert one.visits.equals(two.visits)
    assert after.config == before.config
    assert after.by == before.by
    assert after.conditions.cells.equals(before.conditions.cells)
    assert after.vocabulary.equals(before.vocabulary)
    assert repr(after) == repr(before)
    with pytest.raises(UsageError, match="exists already"):
        after.save(folder)


FILES = [
    "cuts.npy",
    "generator.json",
    "manifest.json",
    "metrics.jsonl",
    "vocabulary.arrow",
    "vocabulary.json",
    "weights.safetensors",
]


def test_the_folder_has_these_files(folder):
    assert sorted(path.name for path in folder.iterdir()) == FILES


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(DataError, match=name):
        load_generator(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["cut", "flip", "more"])
def test_a_damaged_file_is_refused_by_name(folder, name, damage):
    path = folder / name
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "flip":
        # One bit of a digit, a letter or a weight: what is still JSON, or an array of that shape.
        place = max(i for i, byte in enumerate(data) if chr(byte).isalnum()) if data else 0
        data[place : place + 1] = bytes([(data or b"0")[place] ^ 1])
    else:
        data += b" "
    if name == "metrics.jsonl" and damage == "cut":
        data = b"{}"  # It is empty already.
    path.write_bytes(data)
    if name == "manifest.json" and damage == "more":
        load_generator(folder)  # A blank after JSON says nothing else.
        return
    with pytest.raises(DataError, match=name):
        load_generator(folder)


def reseal(folder, name: str, old: str, new: str) -> None:
    """Change a file, and the digests as if it had been written so."""
    path = folder / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    manifest = store.read_json(folder / "manifest.json")
    manifest["files"] |= store.digest([path])
    manifest["seal"] = store._seal(manifest)
    store.write_json(folder / "manifest.json", manifest)


def test_weights_must_fit_the_configuration_before_they_are_read(folder, monkeypatch):
    reseal(folder, "generator.json", '"head_hidden": 16', '"head_hidden": 8')
    monkeypatch.setattr(checkpoint, "load_file", lambda path: pytest.fail("allocated"))
    with pytest.raises(DataError, match=r"column head\.code_GBH: want \(\[3, 3, 8\], 'F32'\)"):
        load_generator(folder)


def test_a_folder_from_a_newer_version_is_refused_with_both_versions(folder):
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"equipoise": "', '"equipoise": "9'))
    path = folder / "generator.json"
    path.write_text(path.read_text().replace('"format": 3', '"format": 4'))
    ours = version("equipoise")
    with pytest.raises(DataError, match=f"want 3, which equipoise {ours}.*4, .*equipoise 9{ours}"):
        load_generator(folder)


def test_a_folder_of_format_1_tells_the_end_after_the_codes(tmp_path):
    old = random_generator(config=replace(SMALL, end_first=False))
    old.save(tmp_path / "model")
    reseal(tmp_path / "model", "generator.json", '"format": 3', '"format": 1')
    reseal(tmp_path / "model", "generator.json", '"end_first": false,', "")
    reseal(tmp_path / "model", "generator.json", '"systems": 0,', "")
    loaded = load_generator(tmp_path / "model")
    assert loaded.config == old.config
    plan = plan_of([2, 2, 2, 2])
    assert sample(loaded, plan).codes.tolist() == sample(old, plan).codes.tolist()


def test_history_and_added_files_come_back(tmp_path):
    history = pl.DataFrame([(2, 3.25, 1 / 3, 5e-4)], schema=dict(checkpoint.HISTORY), orient="row")
    generator = replace(random_generator(), history=history)
    generator.save(tmp_path / "one", {"curves.png": b"picture"})
    generator.save(tmp_path / "two", {"curves.png": b"picture"})
    assert load_generator(tmp_path / "one").history.equals(history)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    (tmp_path / "one" / "curves.png").write_bytes(b"Picture")
    with pytest.raises(DataError, match=r"curves\.png"):
        load_generator(tmp_path / "one")
