"""What happens to a sampling job that is killed, interrupted, or out of disk."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from equipoise.generator.jobs import job_folder
from generator_toys import random_generator
from test_generator_jobs import contents, shards_of

SHARDS = 40
KILLS = 3


@dataclass
class Bench:
    """A model, a plan of 40 shards and a cache of compiled code, for processes of their own."""

    folder: Path

    def begin(self, out: Path, *more: str, limit: int | None = None) -> subprocess.Popen[str]:
        model, plan = str(self.folder / "model"), str(self.folder / "plan.csv")
        arguments = ["sample", model, "--plan", plan, "--out", str(out), "--shard-subjects", "5000"]
        cache = {
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        return subprocess.Popen(
            [sys.executable, "-c", limited(limit), *arguments, *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **cache},
        )

    def run(self, out: Path, *more: str, limit: int | None = None) -> tuple[int, str, str]:
        process = self.begin(out, *more, limit=limit)
        said, complained = process.communicate()
        return process.returncode, said, complained


def limited(size: int | None) -> str:
    """The command line as code, in a process that can write no larger file."""
    limit = f"import resource as r; r.setrlimit(r.RLIMIT_FSIZE, ({size}, {size})); "
    return (limit if size else "") + "from equipoise.cli import main; main()"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("bench")
    random_generator().save(folder / "model")
    (folder / "plan.csv").write_text("label,sex,synthetic\nfalse,F,120000\ntrue,M,80000\n")
    return Bench(folder)


@pytest.fixture(scope="module")
def whole(bench: Bench) -> Path:
    out = bench.folder / "whole"
    status, said, complained = bench.run(out)
    assert status == 0, complained
    assert f"shards: {SHARDS} made, 0 kept, 0 missing" in said
    return out


def wait_for_shards(out: Path, enough: int, process: subprocess.Popen[str]) -> None:
    for _ in range(120_000):
        if len(shards_of(out)) >= enough or process.poll() is not None:
            return
        time.sleep(0.0005)
    pytest.fail("the shards that were waited for did not come")


def identities(out: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in shards_of(out)}


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed(bench: Bench, whole: Path, tmp_path: Path) -> None:
    out, rng = tmp_path / "cohort", random.Random(5)
    seen: dict[str, tuple[int, int]] = {}
    for kill in range(KILLS):
        process = bench.begin(out, "--resume")
        enough = len(seen) + rng.randint(1, 6)
        wait_for_shards(out, enough, process)
        time.sleep(rng.uniform(0, 0.01))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not out.exists()
        found = identities(out)
        assert len(found) >= enough
        assert {name: found[name] for name in seen} == seen, f"kill {kill}: a shard was made again"
        seen = found
    status, said, complained = bench.run(out, "--shard", "1/1")
    assert status == 0, complained
    assert f"shards: {SHARDS - len(seen)} made, {len(seen)} kept, 0 missing" in said
    found = identities(out)
    assert {name: found[name] for name in seen} == seen
    assert bench.run(out, "--resume")[0] == 0
    assert contents(out) == contents(whole)
    assert not job_folder(out).exists()


@pytest.mark.slow
def test_ctrl_c_leaves_a_job_to_resume(bench: Bench, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "cohort"
    process = bench.begin(out)
    wait_for_shards(out, 2, process)
    process.send_signal(signal.SIGINT)
    _, complained = process.communicate()
    assert process.returncode == 130, complained
    assert complained.strip() == (
        f"error: stopped; what is done stays in {job_folder(out)}; "
        "the same command with --resume goes on"
    )
    assert bench.run(out)[0] == 2, "it may not be begun anew unasked"
    assert bench.run(out, "--resume")[0] == 0
    assert contents(out) == contents(whole)


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "made"), [(20_000, 0), (300_000, SHARDS)])
def test_a_full_disk_is_one_message_and_a_job_to_resume(
    bench: Bench, whole: Path, tmp_path: Path, limit: int, made: int
) -> None:
    assert min(map(len, contents(whole).values())) < limit
    assert len(contents(whole)["codes.arrow"]) > 300_000
    out = tmp_path / "cohort"
    status, _, complained = bench.run(out, limit=limit)
    assert status == 1
    assert len(complained.strip().splitlines()) == 1, complained
    assert "File too large" in complained
    assert str(tmp_path) in complained
    assert "--resume goes on" in complained
    assert not out.exists()
    left = {path.name for path in job_folder(out).iterdir()}
    assert len(shards_of(out)) == made
    assert left - {path.name for path in shards_of(out)} == {"job.json"}
    assert bench.run(out, "--resume")[0] == 0
    assert contents(out) == contents(whole)
