"""What a generator may be given by accident: persons twice, other random numbers, odd weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

from equipoise import schema
from equipoise.cohort import cohort_from_lists
from equipoise.errors import DataError, UsageError
from equipoise.generator import drawing, load_generator, sample, snapshots, train_generator
from equipoise.generator.conditions import Conditions
from equipoise.generator.fitting import _log_odds
from equipoise.generator.gathering import no_records
from equipoise.generator.jobs import _job, run_job
from equipoise.generator.lanes import key_of
from equipoise.generator.orders import Order
from equipoise.generator.parallel import Layout
from equipoise.generator.shards import Shards
from equipoise.generator.torch_state import read_state
from equipoise.generator.training import _hold_out
from equipoise.vocabulary import Vocabulary
from generator_toys import SMALL, plan_of, random_generator
from test_from_halo import GOLDEN, imported
from test_generator_jobs import shards_of
from test_generator_sampling import same
from toys import toy_cohort

TINY = replace(SMALL, layers=1, max_steps=6, evaluate_every=2, learning_rate=1e-3)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_that_is_none_is_refused(seed: int) -> None:
    with pytest.raises(UsageError, match=f"seed: want a whole number from 0, .* got {seed}"):
        train_generator(toy_cohort(60), ("sex",), seed, config=TINY)


@pytest.mark.parametrize(
    "error",
    [
        jax.errors.JaxRuntimeError("INTERNAL: Error dispatching: Out of memory allocating 9 bytes"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 bytes"),
        MemoryError(),
    ],
)
def test_sampling_names_what_is_too_large(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(drawing, "advance", fail)
    with pytest.raises(DataError, match=r"memory for [0-9,]+ weights .* and for 128 subjects at"):
        sample(random_generator(), plan_of([1, 0, 0, 0]), batch=100)
    error = jax.errors.JaxRuntimeError("INTERNAL: another reason")
    with pytest.raises(jax.errors.JaxRuntimeError, match="another reason"):
        sample(random_generator(), plan_of([1, 0, 0, 0]))


@pytest.mark.parametrize("seed", range(5))
def test_a_person_is_on_one_side_of_what_is_held_out(seed: int) -> None:
    cohort = toy_cohort(200)
    person = pl.Series(np.random.default_rng(seed).integers(0, 120, 200))
    persons = cohort.subjects.with_columns(person.alias(schema.PERSON_ID))
    fit, held = _hold_out(replace(cohort, subjects=persons), ["sex"], seed)
    of_fit, of_held = (set(part.subjects[schema.PERSON_ID]) for part in (fit, held))
    assert not of_fit & of_held
    assert 20 <= len(held) <= 20 + person.value_counts()["count"].max()
    assert len(fit) + len(held) == 200
    cells = pl.struct(schema.LABEL, "sex").n_unique()
    assert fit.subjects.select(cells).item() == cohort.subjects.select(cells).item()
    alone = cohort.subjects.with_columns(pl.int_range(200).alias(schema.PERSON_ID))
    one, two = (
        _hold_out(replace(cohort, subjects=subjects), ["sex"], seed)[1].subjects["subject_id"]
        for subjects in (cohort.subjects, alone)
    )
    assert one.equals(two)
    assert len(one) == 20
    renamed = replace(cohort, subjects=cohort.subjects.rename({"sex": "place"}))
    assert _hold_out(renamed, ["place"], seed)[1].subjects["subject_id"].equals(one)


@pytest.mark.parametrize("other", ["rbg", "unsafe_rbg"])
def test_random_numbers_are_ours_whatever_the_environment_has(other: str) -> None:
    generator, plan = random_generator(), plan_of([30, 0, 25, 40])
    wanted = sample(generator, plan, 3)
    jax.clear_caches()
    with jax.default_prng_impl(other):
        got = sample(generator, plan, 3)
    assert same(got, wanted)


def test_a_job_says_what_its_random_numbers_are() -> None:
    generator = random_generator()
    order = Order.of(generator.conditions, plan_of([3, 0, 2, 4]))
    jobs = []
    for partitionable in (True, False):
        with jax.threefry_partitionable(partitionable):
            jobs.append(_job(generator, order, 0, 7, 10))
    assert jobs[0] != jobs[1]


def test_a_shard_under_another_number_is_refused(tmp_path: Path) -> None:
    job = {"generator": random_generator(), "plan": plan_of([30, 0, 25, 40]), "shard_subjects": 20}
    out = tmp_path / "cohort"
    run_job(**job, out=out, part=(1, 1))
    first, _, third = shards_of(out)[:3]
    third.unlink()
    shutil.copy(first, first.with_name(first.name.replace("000000", "000002")))
    with pytest.raises(DataError, match="want shard 2; got shard 0"):
        run_job(**job, out=out, resume=True)
    assert not out.exists()


def test_a_plan_of_more_than_64_bits_is_refused() -> None:
    conditions = random_generator().conditions
    for counts in ([2**62] * 4, [2**63 - 1, 2**63 - 1, 5, 0]):
        with pytest.raises(UsageError, match=f"at most .* the plan has {sum(counts)}"):
            Order.of(conditions, plan_of(counts))


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, odd: float) -> None:
    """A NaN is above no threshold: every visit would be empty, and nobody would know why."""
    generator = random_generator()
    leaves, structure = jax.tree.flatten(generator.params)
    leaves[0] = leaves[0].at[0].set(odd)
    spoilt = replace(generator, params=jax.tree.unflatten(structure, leaves))
    spoilt.save(tmp_path / "model")
    with pytest.raises(DataError, match="want weights that are numbers; got"):
        load_generator(tmp_path / "model")
    state = {name: np.array(array) for name, array in read_state(GOLDEN / "halo.pt").items()}
    state["ehr_head.auto1.weight"][0, 0] = odd
    save_file(state, tmp_path / "halo")
    with pytest.raises(DataError, match="want weights that are numbers; got"):
        imported(tmp_path / "halo")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("ehr_head.auto1.bias", (9,)),
        ("ehr_head.auto2.weight", (3, 3)),
        ("transformer.vis_embed_mat.weight", (12,)),
        ("transformer.pos_embed_mat.weight", ()),
    ],
)
def test_halos_weights_of_other_shapes_are_refused(
    tmp_path: Path, name: str, shape: tuple[int, ...]
) -> None:
    state = {name: np.array(array) for name, array in read_state(GOLDEN / "halo.pt").items()}
    state[name] = np.zeros(shape, np.float32)
    save_file(state, tmp_path / "halo")
    with pytest.raises(DataError):
        imported(tmp_path / "halo")


@pytest.mark.parametrize(
    "change",
    [
        lambda place: place | {"epoch": place["epoch"] + 4},
        lambda place: place | {"place": place["place"] + 1},
        lambda place: place | {"history": [[2, 5.0, 1.0, 1e-3], *place["history"][1:]]},
    ],
)
def test_where_a_training_was_is_part_of_what_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change
) -> None:
    monkeypatch.setattr(snapshots, "_SHARE", float("inf"))
    work, small = tmp_path / "work", toy_cohort(120, 24, seed=1)

    def stop(stage: str, done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_generator(small, ["sex"], config=TINY, snapshots=work, progress=stop)
    path = work / "4" / "place" / "metadata"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(DataError, match=r"work/4: want a snapshot of training; got another course"):
        train_generator(small, ["sex"], config=TINY, snapshots=work)


def test_an_error_without_a_word_is_named_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = toy_cohort(120, 24, seed=1)
    train_generator(small, ["sex"], config=TINY, snapshots=tmp_path / "work")

    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(snapshots.Snapshots, "_read", fail)
    with pytest.raises(DataError, match="want a snapshot of training; got AssertionError"):
        train_generator(small, ["sex"], config=TINY, snapshots=tmp_path / "work")


def test_codes_of_a_system_that_no_visit_has_start_rare() -> None:
    subjects = pl.DataFrame({"label": [True, False]})
    cohort = cohort_from_lists([[[0]], [[0], [0]]], subjects, Vocabulary.of_codes(["a", "b"]))
    rare = _log_odds(cohort, np.array([3.0, 0.0]))
    assert rare[1] == pytest.approx(_log_odds(cohort, np.array([3.0, 3.0]))[1])
    assert rare[1] < -1


def test_shards_beyond_a_million_are_found(tmp_path: Path) -> None:
    shards = Shards.open(tmp_path / "job", {}, resume=False)
    for number in (7, 1_000_000):
        shards.write(number, no_records())
    assert list(shards.done()) == [7, 1_000_000]
    assert len(shards.read(shards.done()[1_000_000]).codes) == 0


def test_weights_that_are_numbers_in_64_bits_alone_are_refused(tmp_path: Path) -> None:
    state = {name: np.array(array) for name, array in read_state(GOLDEN / "halo.pt").items()}
    state["transformer.ln_f.weight"] = state["transformer.ln_f.weight"].astype(np.float64) * 1e300
    save_file(state, tmp_path / "halo")
    with pytest.raises(DataError, match="want weights that are numbers; got"):
        imported(tmp_path / "halo")


@pytest.mark.parametrize("name", ["auto1", "auto2"])
@pytest.mark.parametrize("part", ["weight", "bias"])
def test_halos_head_of_more_units_is_refused(tmp_path: Path, name: str, part: str) -> None:
    state = {name: np.array(array) for name, array in read_state(GOLDEN / "halo.pt").items()}
    array = state[f"ehr_head.{name}.{part}"]
    state[f"ehr_head.{name}.{part}"] = np.pad(array, (0, 5))
    save_file(state, tmp_path / "halo")
    with pytest.raises(DataError, match=rf"ehr_head\.{name}\.{part} of shape \(46"):
        imported(tmp_path / "halo")


def test_all_files_of_a_model_are_for_the_same_people(tmp_path: Path) -> None:
    random_generator().save(tmp_path / "model")
    assert len({path.stat().st_mode for path in (tmp_path / "model").iterdir()}) == 1


def test_a_group_that_is_called_as_a_column_of_ours_is_refused() -> None:
    subjects = pl.DataFrame({"label": [True], "subjects": ["x"]})
    with pytest.raises(UsageError, match="want no group called subjects"):
        Conditions.of(subjects, ["subjects"])


def test_a_group_that_is_named_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="by: want each group once, got sex twice"):
        train_generator(toy_cohort(20), ["sex", "sex"], config=TINY)


def test_one_device_is_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    (device,) = jax.devices()[:1]
    assert Layout.of([device], 1).mesh is None
    monkeypatch.setattr(jax, "local_devices", lambda: ["another", device])
    mesh = Layout.of([device], 1).mesh
    assert mesh is not None
    assert mesh.devices.tolist() == [device]
    with pytest.raises(UsageError, match="devices: want one or more, got none"):
        Layout.of([], 1)


@pytest.mark.parametrize("other", ["rbg", "unsafe_rbg"])
def test_keys_are_ours_whatever_the_environment_has(other: str) -> None:
    wanted = jax.random.key_data(key_of(5))
    with jax.default_prng_impl(other):
        assert np.array_equal(jax.random.key_data(key_of(5)), wanted)
