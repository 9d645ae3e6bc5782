"""Sampling jobs: shards, parts, resuming, refusals."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from equipoise import _core, schema, store
from equipoise.cohort import Cohort
from equipoise.errors import DataError, UsageError
from equipoise.generator import sample
from equipoise.generator.drawing import Usage
from equipoise.generator.jobs import (
    Report,
    account,
    fingerprint,
    job_folder,
    run_job,
    visits_with_two_bins,
)
from equipoise.generator.shards import Shards
from equipoise.options import part_of
from equipoise.ragged import Nested
from equipoise.vocabulary import Vocabulary
from generator_toys import plan_of, random_generator
from test_generator_sampling import same

PLAN = plan_of([30, 0, 25, 40])


@pytest.fixture(scope="module")
def generator():
    return random_generator()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def shards_of(out: Path) -> list[Path]:
    return sorted(job_folder(out).glob("shard-*.arrow"))


@pytest.fixture(scope="module")
def whole(generator, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "cohort"
    report = run_job(generator, PLAN, out, 3, shard_subjects=20)
    assert (report.made, report.kept, report.missing, report.joined) == (5, 0, 0, True)
    assert not job_folder(out).exists()
    return out


def test_a_job_is_the_same_sample_on_disk(generator, whole):
    assert same(Cohort.load(whole), sample(generator, PLAN, 3))
    sampler = store.read_manifest(whole, "cohort")["config"]["sampler"]
    assert (sampler["lanes"], sampler["block"], sampler["devices"]) == (64, 3, 1)
    assert (sampler["backend"], sampler["dtype"]) == ("cpu", "float32")
    assert (sampler["drawn_by"], sampler["instructions"]) == ("core", _core.instructions())


def test_numbers_of_numpy_are_as_good_as_pythons(generator, tmp_path):
    """A seed of `np.arange(5)`, say."""
    numbers = {"seed": np.int64(3), "batch": np.int32(5), "shard_subjects": np.int64(20)}
    run_job(generator, PLAN, tmp_path / "one", **numbers, config={"share": np.float64(0.5)})
    run_job(generator, PLAN, tmp_path / "two", 3, batch=5, shard_subjects=20, config={"share": 0.5})
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    with pytest.raises(TypeError, match="want what JSON can hold, got ndarray"):
        store.write_json(tmp_path / "x.json", np.arange(2))


def test_a_finished_job_is_sealed(generator, whole, tmp_path):
    told = store.read_manifest(whole, "cohort")["config"]["drawn_from"]
    assert told["model"] == fingerprint(generator)
    for name in contents(whole):
        copy = tmp_path / name
        shutil.copytree(whole, copy)
        data = bytearray((copy / name).read_bytes())
        place = data.index(b"sha256:") + 9 if name == store.MANIFEST else len(data) // 2
        data[place] ^= 1
        (copy / name).write_bytes(data)
        with pytest.raises(DataError, match="that was saved"):
            Cohort.load(copy)


def test_the_size_of_shards_is_not_seen_in_the_cohort(generator, whole, tmp_path):
    run_job(generator, PLAN, tmp_path / "cohort", 3, shard_subjects=95, batch=7)
    assert contents(tmp_path / "cohort") == contents(whole)


def test_parts_in_any_order_make_the_whole(generator, whole, tmp_path):
    out, told = tmp_path / "cohort", []
    for number, made in ((3, 2), (1, 1), (2, 2)):
        report = run_job(
            generator,
            PLAN,
            out,
            3,
            shard_subjects=20,
            part=(number, 3),
            progress=lambda *what: told.append(what),
        )
        assert (report.made, report.joined) == (made, False)
        assert told[-1] == ("sample", told[-1][2], told[-1][2])
    assert "--resume and no --shard joins" in account(report)
    before = {path: path.stat().st_ino for path in shards_of(out)}
    again = run_job(generator, PLAN, out, 3, shard_subjects=20, part=(2, 3))
    assert (again.made, again.kept) == (0, 5)
    assert {path: path.stat().st_ino for path in shards_of(out)} == before
    report = run_job(generator, PLAN, out, 3, shard_subjects=20, resume=True)
    assert (report.made, report.kept, report.usage.visits) == (0, 5, 0)
    assert contents(out) == contents(whole)


def test_only_what_is_missing_is_drawn(generator, whole, tmp_path):
    out = tmp_path / "cohort"
    run_job(generator, PLAN, out, 3, shard_subjects=20, part=(1, 1))
    for place in (0, 3):
        shards_of(out)[place - (place > 0)].unlink()
    told: list[tuple[str, int, int]] = []
    report = run_job(
        generator,
        PLAN,
        out,
        3,
        shard_subjects=20,
        resume=True,
        progress=lambda *what: told.append(what),
    )
    assert (report.made, report.kept, report.usage.subjects) == (2, 3, 40)
    assert told[-1] == ("sample", 40, 40)
    assert contents(out) == contents(whole)


def test_another_job_is_refused_by_what_differs(generator, tmp_path):
    out = tmp_path / "cohort"
    run_job(generator, PLAN, out, 3, shard_subjects=20, part=(1, 5))
    with pytest.raises(UsageError, match="unfinished job; --resume"):
        run_job(generator, PLAN, out, 3, shard_subjects=20)
    other = random_generator(seed=1)
    assert fingerprint(other) != fingerprint(generator)
    same_job = {"generator": generator, "plan": PLAN, "seed": 3, "shard_subjects": 20}
    for name, change in (
        ("seed", {"seed": 4}),
        ("shard_subjects", {"shard_subjects": 21}),
        ("lanes", {"batch": 65}),
        ("plan", {"plan": plan_of([30, 1, 24, 40])}),
        ("subjects", {"plan": plan_of([30, 0, 25, 41])}),
        ("model", {"generator": other}),
    ):
        with pytest.raises(UsageError, match="holds another job") as error:
            run_job(**{**same_job, **change}, out=out, resume=True)
        assert f"whose {name} is" in str(error.value) or name == "subjects"
    run_job(generator, PLAN, out, 4, shard_subjects=20, force=True)
    assert same(Cohort.load(out), sample(generator, PLAN, 4))


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_or_foreign_shard_is_refused_by_name(generator, whole, tmp_path):
    out = tmp_path / "cohort"
    job = {"generator": generator, "plan": PLAN, "shard_subjects": 20}
    run_job(**job, out=out, seed=3, part=(1, 1))
    victim = shards_of(out)[1]
    damage(victim)
    with pytest.raises(DataError, match="its name promises") as error:
        run_job(**job, out=out, seed=3, resume=True)
    assert victim.name in str(error.value)
    assert not out.exists()
    run_job(**job, out=tmp_path / "other", seed=4, part=(1, 1))
    foreign = shards_of(tmp_path / "other")[1]
    foreign.rename(victim.with_name(foreign.name))
    with pytest.raises(DataError, match="want one shard 1"):
        run_job(**job, out=out, seed=3, resume=True)
    victim.unlink()
    with pytest.raises(DataError, match="want a shard of job"):
        run_job(**job, out=out, seed=3, resume=True)
    victim.with_name(foreign.name).unlink()
    run_job(**job, out=out, seed=3, resume=True)
    assert contents(out) == contents(whole)


def test_nothing_asked_is_a_finished_cohort_of_nobody(generator, tmp_path):
    report = run_job(generator, plan_of([0, 0, 0, 0]), tmp_path / "cohort")
    assert report.joined
    assert len(Cohort.load(tmp_path / "cohort")) == 0
    assert report.usage.utilisation == 1
    assert report.usage.waiting == 0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"part": (0, 3)}, "i from 1 to n"),
        ({"part": (4, 3)}, "i from 1 to n"),
        ({"part": (1, 3), "force": True}, "cannot be forced"),
        ({"shard_subjects": 0}, "1 or more"),
        ({"batch": 0}, "1 or more"),
    ],
)
def test_what_makes_no_sense_is_refused(generator, tmp_path, wrong, words):
    with pytest.raises(UsageError, match=words):
        run_job(generator, PLAN, tmp_path / "cohort", **wrong)
    assert list(tmp_path.iterdir()) == []


def test_shard_on_the_command_line():
    assert part_of("2/8") == (2, 8)
    assert part_of(None) is None
    for text in ("0/8", "9/8", "2", "a/b", "2/", "-1/3"):
        with pytest.raises(UsageError, match=re.escape(text)):
            part_of(text)


def test_two_bins_of_one_lab_are_counted_by_visit():
    kind = ["diagnosis", "diagnosis", *["lab"] * 5]
    columns = pl.DataFrame(
        {
            "kind": kind,
            "code": ["A", "A", "Na", "Na", "Na", "pH", "pH"],
            "bin": [None, None, 0, 4, 9, 1, 2],
            "low": [None] * 7,
            "high": [None] * 7,
            "title": kind,
        },
        schema=dict(schema.COLUMNS),
    )
    visits = [[0, 1], [2, 3, 4], [1, 4], [4], [5], [4, 5], [2, 3, 5, 6], []]
    sizes = np.cumsum([0, *map(len, visits)])
    codes = np.array([code for visit in visits for code in visit], np.int32)
    assert visits_with_two_bins(Vocabulary(columns), Nested(np.array([0, 8]), sizes, codes)) == 2


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_that_is_no_jobs_is_left_alone(generator, tmp_path, force):
    notes = tmp_path / "cohort.job" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("precious")
    with pytest.raises(UsageError, match="holds notes.txt, which is none of it"):
        run_job(generator, PLAN, tmp_path / "cohort", 3, force=force)
    assert contents(notes.parent) == {"notes.txt": b"precious"}
    assert not (tmp_path / "cohort").exists()


def test_visits_with_two_bins_are_told_as_a_share_of_those_that_were_all_drawn_now():
    drawn = Usage(devices=1, subjects=10, visits=400, seconds=1.0)
    new = Report(made=2, kept=0, missing=0, usage=drawn, joined=True, two_bins=3)
    assert "3 visits (0.8%) have two bins of a lab" in account(new)
    assert "3 visits have two bins of a lab" in account(replace(new, kept=1))


def test_what_was_put_beside_the_shards_stays(generator, whole, tmp_path):
    out = tmp_path / "cohort"
    run_job(generator, PLAN, out, 3, shard_subjects=20, part=(1, 2))
    (job_folder(out) / "notes.txt").write_text("precious")
    run_job(generator, PLAN, out, 3, shard_subjects=20, resume=True)
    assert contents(job_folder(out)) == {"notes.txt": b"precious"}
    assert same(Cohort.load(out), Cohort.load(whole))


def test_a_removal_that_is_stopped_leaves_no_shards_without_their_job(
    generator, tmp_path, monkeypatch
):
    out = tmp_path / "cohort"
    run_job(generator, PLAN, out, 3, shard_subjects=20, part=(1, 2))
    unlink, removed = Path.unlink, []

    def slip(path: Path) -> None:
        removed.append(path.name)
        unlink(path)

    monkeypatch.setattr(Path, "unlink", slip)
    Shards.remove(job_folder(out))
    assert removed[-1] == "job.json"
    assert not job_folder(out).exists()
