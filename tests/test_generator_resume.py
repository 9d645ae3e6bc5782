"""Training that is killed and goes on; training over several devices."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from time import sleep
from types import SimpleNamespace

import jax
import numpy as np
import polars as pl
import pytest

from equipoise.errors import DataError, UsageError
from equipoise.generator import snapshots, train_generator
from equipoise.generator.checkpoint import METRICS
from equipoise.generator.parallel import Layout, join_cluster
from generator_toys import SMALL, flags_for
from toys import toy_cohort

BY = ["race", "sex"]
HERE = Path(__file__).resolve().parent
TINY = replace(SMALL, layers=1, max_steps=6, evaluate_every=2, learning_rate=1e-3)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """Compiled code that the processes share: most of their time would be that."""
    return tmp_path_factory.mktemp("compiled")


def start(
    cache: Path, *words: str | Path, devices: int = 1, cores: set[int] | None = None, **env: str
) -> subprocess.Popen[str]:
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)]),
        "XLA_FLAGS": flags_for(devices),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **env,
    }
    command = [sys.executable, HERE / "training_process.py", *words]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    if cores:
        os.sched_setaffinity(process.pid, cores)  # Long before XLA is loaded.
    return process


def finish(process: subprocess.Popen[str]) -> dict[str, object]:
    said = process.communicate()[0]
    assert process.returncode == 0
    return json.loads(said.splitlines()[-1])


def kill_at(process: subprocess.Popen[str], step: int, later: float) -> int:
    """SIGKILL soon after it has said that step; returns the first step that it said."""
    assert process.stdout is not None
    first = 0
    for line in process.stdout:
        said = int(line.split()[1])
        first = first or said
        if said >= step:
            break
    sleep(later)
    process.kill()
    process.communicate()
    return first


@pytest.mark.slow
def test_killed_at_any_step_and_resumed_the_weights_are_the_same_bytes(tmp_path, cache):
    as_users = {"XLA_FLAGS": ""}
    finish(start(cache, tmp_path / "none", tmp_path / "whole", "free", **as_users))
    rng = np.random.default_rng(2)
    work = tmp_path / "work"
    firsts = []
    for step in np.sort(rng.choice(np.arange(2, 23), 3, replace=False)):
        process = start(cache, work, tmp_path / "resumed", **as_users)
        firsts.append(kill_at(process, int(step), rng.uniform(0, 0.05)))
        assert not (tmp_path / "resumed").exists()
    assert firsts[0] == 1
    assert firsts == sorted(firsts)
    assert firsts[-1] > 3
    finish(start(cache, work, tmp_path / "resumed", **as_users))
    for name in ("weights.safetensors", "metrics.jsonl", "generator.json"):
        whole, resumed = (tmp_path / folder / name for folder in ("whole", "resumed"))
        assert whole.read_bytes() == resumed.read_bytes(), name


@pytest.mark.slow
def test_on_one_core_the_weights_are_the_same_bytes_as_on_all(tmp_path):
    weights = []
    every = os.sched_getaffinity(0)
    for name, cores in (("all", every), ("one", {min(every)})):
        out = tmp_path / name
        # Compiled as users have it, and not what was compiled for another number of cores.
        work, cache = tmp_path / "none", tmp_path / f"compiled_for_{name}"
        finish(start(cache, work, out, "free", "wide", cores=cores, XLA_FLAGS=""))
        weights.append((out / "weights.safetensors").read_bytes())
    assert weights[0] == weights[1]


@pytest.fixture(scope="module")
def small():
    return toy_cohort(120, 24, seed=1)


@pytest.fixture
def work(tmp_path, small, monkeypatch) -> Path:
    """Snapshots of a training that was stopped in its fifth step."""
    monkeypatch.setattr(snapshots, "_SHARE", float("inf"))
    with pytest.raises(KeyboardInterrupt):
        train_generator(small, BY, 1, config=TINY, snapshots=tmp_path / "work", progress=stop_at(5))
    return tmp_path / "work"


def test_its_history_can_be_read_while_it_is_at_work(work, small):
    told = pl.read_ndjson(work / METRICS)
    assert told["step"].to_list() == [2, 4]
    whole = train_generator(small, BY, 1, config=TINY)
    assert whole.history.head(2).equals(told.cast(whole.history.schema))


def stop_at(step: int):
    def tell(stage: str, done: int, total: int) -> None:
        if done == step:
            raise KeyboardInterrupt

    return tell


def resume(work: Path, small, **changes: object) -> list[int]:
    """The steps that are done."""
    done: list[int] = []
    options = {"config": TINY, "seed": 1, "cohort": small, **changes}
    train_generator(
        by=BY, snapshots=work, progress=lambda _, step, total: done.append(step), **options
    )
    return done


def test_it_goes_on_after_the_last_look(work, small):
    (work / "6.orbax-checkpoint-tmp").mkdir()  # What a kill in the midst of saving leaves.
    (work / "6.orbax-checkpoint-tmp" / "last").mkdir()
    config = replace(TINY, width=np.int64(TINY.width))  # As from a grid of settings.
    assert resume(work, small, seed=np.int64(1), config=config) == [5, 6]
    assert resume(work, small) == []
    assert sorted(path.name for path in work.iterdir()) == ["6", "identity.json", METRICS]


def test_another_training_is_refused_by_what_differs(work, small):
    for changes, told in (
        ({"seed": 2}, "seed was 1, is 2"),
        ({"config": replace(TINY, width=8)}, "config.width was 16, is 8"),
        ({"cohort": toy_cohort(121, 24, seed=1)}, "training subjects was"),
        ({"tuning": toy_cohort(20, 24)}, "tuning subjects was"),
    ):
        with pytest.raises(UsageError, match=told):
            resume(work, small, **changes)


@pytest.mark.parametrize("damage", ["cut", "flip"])
@pytest.mark.parametrize("item", ["last", "best", "place"])
def test_a_damaged_snapshot_is_refused_by_name(work, small, item, damage):
    for path in (work / "4" / item).rglob("*"):
        if path.is_file() and not path.name.startswith("_"):
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data if damage == "flip" else data[: len(data) // 2])
    with pytest.raises(DataError, match=r"work/4: want a snapshot of training"):
        resume(work, small)


def test_saving_takes_a_small_share_of_the_time(tmp_path, small, monkeypatch):
    saves = []
    monkeypatch.setattr(snapshots, "_SHARE", 0.0)
    monkeypatch.setattr(snapshots.Snapshots, "_write", lambda self, course: saves.append(course))
    resume(tmp_path / "work", small)
    assert len(saves) == 1


def test_a_full_disk_is_said_in_a_line_and_training_goes_on_later(work, small, monkeypatch):
    with monkeypatch.context() as full:
        full.setattr(snapshots, "disk_usage", lambda _: SimpleNamespace(free=1_234_567))
        full.setattr(snapshots, "_SHARE", float("inf"))
        with pytest.raises(OSError, match=r"writing .*work: want 10 MB of room .* got 1$"):
            resume(work, small)
    assert resume(work, small) == [5, 6]


def test_what_orbax_cannot_write_is_said_in_a_line(work, small, monkeypatch):
    def save(*_: object, **__: object) -> None:
        raise ValueError("RESOURCE_EXHAUSTED: No space left\nand much more")

    monkeypatch.setattr(snapshots, "_SHARE", float("inf"))
    monkeypatch.setattr("orbax.checkpoint.CheckpointManager.save", save)
    with pytest.raises(OSError, match=r"writing .*work: RESOURCE_EXHAUSTED: No space left$"):
        resume(work, small)


@pytest.mark.slow
def test_more_devices_give_the_same_losses(tmp_path, cache):
    losses = []
    for devices in (1, 4):  # Two have a test of their own below.
        words = (tmp_path / "none", tmp_path / f"model{devices}", "free")
        told = finish(start(cache, *words, devices=devices))
        assert told["devices"] == devices
        losses.append(told["losses"])
    words = (tmp_path / "work", tmp_path / "sharded", "sharded")
    kill_at(start(cache, *words, devices=4), 12, 0)
    losses.append(finish(start(cache, *words, devices=4))["losses"])
    for other in losses[1:]:
        np.testing.assert_allclose(other, losses[0], rtol=2e-5)


@pytest.mark.slow
def test_two_processes_of_a_cluster_train_one_model(tmp_path, cache):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    cluster = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": "2"}
    both = [
        start(cache, tmp_path / "work", tmp_path / "model", JAX_PROCESS_ID=str(number), **cluster)
        for number in range(2)
    ]
    told = [finish(process) for process in both]
    alone = finish(start(cache, tmp_path / "none", tmp_path / "alone", "free"))
    assert told[0] == told[1]
    assert told[0]["devices"] == 2
    np.testing.assert_allclose(told[0]["losses"], alone["losses"], rtol=2e-5)


def test_a_laptop_joins_no_cluster():
    assert not join_cluster({"HOME": "/"})
    assert not join_cluster({"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "1"})
    assert not join_cluster({"TPU_WORKER_HOSTNAMES": "localhost"})
    with pytest.raises(DataError, match="JAX_NUM_PROCESSES"):
        join_cluster({"JAX_COORDINATOR_ADDRESS": "localhost:1"})


@pytest.mark.slow
def test_sharded_weights_are_sharded():
    code = """
import jax, numpy as np
from jax.sharding import PartitionSpec as P
from equipoise.generator.parallel import Layout
tree = {"long": np.ones((8, 12)), "odd": np.ones((3, 5)), "few": np.ones((4, 2))}
for shard in (True, False):
    layout = Layout.of(None, 1, shard)
    put = layout.put_weights(tree)
    kept = jax.jit(lambda tree: layout.keep_weights(jax.tree.map(lambda x: 2 * x, tree)))(put)
    for arrays in (put, kept):
        shapes = {name: a.addressable_shards[0].data.shape for name, a in arrays.items()}
        wanted = {"long": (8, 3), "odd": (3, 5), "few": (1, 2)}
        assert shapes == (wanted if shard else {n: a.shape for n, a in tree.items()}), shapes
    whole = layout.whole_weights(kept)
    assert all((np.asarray(whole[n]) == 2 * tree[n]).all() for n in tree)
    assert all(len(a.devices()) == 1 for a in whole.values())
"""
    env = {
        **os.environ,
        "XLA_FLAGS": flags_for(4),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    subprocess.run([sys.executable, "-c", code], env=env, check=True)


def test_one_device_needs_no_mesh():
    layout = Layout.of(jax.devices()[:1], 3)
    assert (layout.mesh, layout.devices, layout.parts) == (None, 1, 3)
    assert layout.own_parts() == [0, 1, 2]
