"""What happens to a run: killed, out of disk, interrupted, or given a row without an end."""

from __future__ import annotations

import gzip
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from equipoise import _core, store
from equipoise.errors import UsageError
from equipoise.simulate import simulate

#: Runs that are killed; the first half at any moment, the others while the folder is written.
KILLS = 12
MEGABYTE = 1 << 20
HEADER = "subject_id,hadm_id,itemid,valuenum,charttime\n"


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("faults") / "hospital"
    return simulate(out, patients=150, seed=4, lab_rows_per_patient=60)


@dataclass
class Done:
    """A process that has ended."""

    status: int
    message: str
    peak: int
    seconds: float


class Extraction:
    """`equipoise extract mimic-iv` in a process of its own, writing to `out`."""

    def __init__(self, root: Path, out: Path, limit: int | None = None) -> None:
        self.began = time.monotonic()
        scratch = out.parent / "scratch"
        scratch.mkdir(exist_ok=True)
        code = "from equipoise.cli import main; main()"
        arguments = ["extract", "mimic-iv", str(root), "--out", str(out), "--threads", "2"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "TMPDIR": str(scratch), "PYTHONDONTWRITEBYTECODE": "1"},
            preexec_fn=None if limit is None else lambda: limit_files(limit),
        )

    def wait(self) -> Done:
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - self.began
        assert self.process.stderr is not None
        with self.process.stderr as stderr:
            message = stderr.read().decode()
        return Done(self.process.returncode, message, usage.ru_maxrss << 10, seconds)

    def has_open(self, name: str) -> bool:
        """Whether the process has a file of this name open."""
        try:
            files = list(Path(f"/proc/{self.process.pid}/fd").iterdir())
            return any(name in str(file.readlink()) for file in files)
        except OSError:
            return False


def limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def extract(root: Path, out: Path, limit: int | None = None) -> Done:
    return Extraction(root, out, limit).wait()


def wait_until(true: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Poll until something happens; 60 seconds are more than any run takes."""
    for _ in range(60_000):
        if true():
            return
        # Not `poll`, which would take the status that `wait4` is to have.
        assert Path(f"/proc/{process.pid}/stat").exists()
        time.sleep(0.001)
    pytest.fail("what was waited for did not happen")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_nothing_left(folder: Path) -> None:
    assert [path.name for path in folder.iterdir()] == ["scratch"]
    assert list((folder / "scratch").iterdir()) == []


def drafts(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.fixture(scope="module")
def undisturbed(hospital: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    out = tmp_path_factory.mktemp("whole") / "records"
    done = extract(hospital, out)
    assert done.status == 0, done.message
    return out, done


def killed_runs(hospital: Path, out: Path, seconds: float) -> Iterator[set[Path]]:
    """Kill runs at random moments; yield the drafts that each one left."""
    rng = random.Random(7)
    for number in range(KILLS):
        before = set(drafts(out.parent))
        run = Extraction(hospital, out)
        if number < KILLS // 2:
            time.sleep(rng.uniform(0.1, 1.0) * seconds)
        else:
            wait_until(partial(has_begun, out, before), run.process)
            time.sleep(rng.uniform(0.0, 0.02))
        # Not `Popen.kill`, which first polls, and would take the status of a run that has ended.
        os.kill(run.process.pid, signal.SIGKILL)
        assert run.wait().status in (-signal.SIGKILL, 0)
        yield set(drafts(out.parent)) - before


def has_begun(out: Path, before: set[Path]) -> bool:
    return out.exists() or bool(set(drafts(out.parent)) - before)


def test_killed_at_any_moment(
    hospital: Path, undisturbed: tuple[Path, Done], tmp_path: Path
) -> None:
    whole, first = contents(undisturbed[0]), undisturbed[1]
    out, left = tmp_path / "records", 0
    for new in killed_runs(hospital, out, first.seconds):
        left += len(new)
        for draft in drafts(tmp_path):
            # What has a manifest has all the rest.
            assert store.MANIFEST not in contents(draft) or contents(draft) == whole
        if out.exists():
            assert contents(out) == whole
            shutil.rmtree(out)
    assert left >= 2, "hardly a run was killed while it wrote"
    assert extract(hospital, out).status == 0
    assert contents(out) == whole
    assert drafts(tmp_path) == [], "drafts of killed runs must go with the next run"


def test_only_drafts_of_the_dead_are_swept(tmp_path: Path) -> None:
    out = tmp_path / "records"
    dead, other = (tmp_path / f".{name}.0123abcd.unfinished" for name in ("records", "records.2"))
    for folder in (dead, other):
        folder.mkdir()
        (folder / "visits.arrow").write_bytes(b"half")
    with pytest.raises(UsageError, match="exists already"), store.writing(out, "slow") as draft:
        with store.writing(out, "fast"):
            assert not dead.exists()
            assert draft.exists(), "a living run's draft was swept"
        assert draft.exists()
    assert store.read_manifest(out)["kind"] == "fast", "an unforced run replaced a finished folder"
    assert drafts(tmp_path) == [other]


@pytest.mark.parametrize("share", [0.001, 0.3, 0.999])
def test_a_full_disk_is_one_clear_message(
    hospital: Path, undisturbed: tuple[Path, Done], tmp_path: Path, share: float
) -> None:
    limit = int(share * max(map(len, contents(undisturbed[0]).values())))
    (tmp_path / "here").mkdir()
    done = extract(hospital, tmp_path / "here" / "records", limit)
    assert done.status == 1, done.message
    assert len(done.message.strip().splitlines()) == 1, done.message
    assert "File too large" in done.message
    assert f"while writing {tmp_path / 'here' / 'records'}" in done.message
    assert_nothing_left(tmp_path / "here")


def with_labs(hospital: Path, root: Path) -> Path:
    """A hospital like the other whose lab events are still to be written; its folder `hosp`."""
    hosp = root / "hosp"
    shutil.copytree(hospital / "hosp", hosp, ignore=shutil.ignore_patterns("labevents*"))
    return hosp


def write_endless(hosp: Path, kind: str) -> None:
    """Lab events that take many seconds to read and little room: the same file again and again."""
    body = "1,20000000,50912,1.25,2150-01-01 10:00:00\n" * 100_000
    if kind == "csv.gz":
        pieces = [gzip.compress(HEADER.encode()), *[gzip.compress(body.encode())] * 2500]
        (hosp / "labevents.csv.gz").write_bytes(b"".join(pieces))
        return
    shards = hosp / "labevents"
    shards.mkdir()
    first = shards / f"0.{kind}"
    if kind == "csv":
        first.write_text(HEADER + body)
    else:
        rows = {"hadm_id": [20_000_000], "subject_id": [1], "itemid": [50_912], "valuenum": [1.25]}
        frame = pl.DataFrame(rows)
        pl.concat([frame] * 100_000).write_parquet(first)
    for number in range(1, 4000):
        (shards / f"{number}.{kind}").hardlink_to(first)


class Late:
    """A path, or a stream, that Ctrl-C comes before."""

    def __fspath__(self) -> str:
        raise KeyboardInterrupt

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        raise KeyboardInterrupt


def test_ctrl_c_while_arguments_are_taken_is_no_error_of_them(tmp_path: Path) -> None:
    file = tmp_path / "codes.csv"
    file.write_text("visit,code\n1,a\n")
    words = {"time": None, "stays": None, "window": None, "words": (Late(), None)}
    for events, placing in (([Late()], None), (("t", Late()), None), ([file], words)):
        with pytest.raises(KeyboardInterrupt):
            _core.read_codes(events, ["visit", "code"], np.array([1]), placing=placing)


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
def test_ctrl_c_stops_within_a_second(hospital: Path, tmp_path: Path, kind: str) -> None:
    write_endless(with_labs(hospital, tmp_path / "big"), kind)
    # Other tests want the cores too, at times all of them: the quickest of a few tries counts.
    tries: list[float] = []
    while len(tries) < 5 and min(tries, default=9.0) >= 1:
        here = tmp_path / f"here{len(tries)}"
        here.mkdir()
        tries.append(seconds_to_stop(tmp_path / "big", here))
    assert min(tries) < 1, f"stopped after {tries} s"


def seconds_to_stop(root: Path, here: Path) -> float:
    """From Ctrl-C in the middle of the lab events until the process has ended, in good order."""
    run = Extraction(root, here / "records")
    wait_until(lambda: run.has_open("labevents"), run.process)
    time.sleep(0.5)
    pressed = time.monotonic()
    run.process.send_signal(signal.SIGINT)
    done = run.wait()
    took = time.monotonic() - pressed
    assert done.status == 130, done.message
    assert done.message.strip() == "error: stopped; nothing was left behind"
    assert_nothing_left(here)
    return took


@pytest.mark.parametrize("quoted", [False, True])
@pytest.mark.parametrize("kind", ["csv", "csv.gz"])
def test_a_line_of_100_megabytes(
    hospital: Path, undisturbed: tuple[Path, Done], tmp_path: Path, kind: str, quoted: bool
) -> None:
    hosp = with_labs(hospital, tmp_path / "long")
    good = "1,20000000,50912,1.25,2150-01-01 10:00:00\n" * 60_000
    quote = '"' if quoted else ""
    text = f"{HEADER}{good}1,2,50912,{quote}{'9' * 100 * MEGABYTE}{quote},\n{good}".encode()
    data = gzip.compress(text, compresslevel=1) if kind == "csv.gz" else text
    (hosp / f"labevents.{kind}").write_bytes(data)
    (tmp_path / "here").mkdir()
    done = extract(hosp.parent, tmp_path / "here" / "records")
    assert done.status == 1
    assert f"labevents.{kind}, row 60002: want a row of at most" in done.message
    assert len(done.message.strip().splitlines()) == 1, done.message
    assert done.peak < undisturbed[1].peak + 300 * MEGABYTE
    assert_nothing_left(tmp_path / "here")
