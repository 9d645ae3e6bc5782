"""Sampling jobs: shards on disk that a killed run goes on from, and several machines may share.

Beside the cohort to be, `COHORT.job` holds what the job is and its shards (`shards`). A shard is a
run of subjects, whose records depend on nothing but the job; whoever is called with the same
arguments makes shards that are missing. Machines that make a part each (`part`) need no other
coordination than this folder, shared or copied together; the call without a part makes what is
still missing, checks every digest, and joins the shards to a cohort.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np

from equipoise import schema, store
from equipoise.cohort import Cohort
from equipoise.errors import UsageError
from equipoise.generator import in_core
from equipoise.generator.checkpoint import Generator
from equipoise.generator.drawing import Draw, Usage, lanes_for, usual_batch
from equipoise.generator.lanes import RANDOM
from equipoise.generator.network import named_arrays
from equipoise.generator.orders import Order, Plan
from equipoise.generator.sampling import cohort_of
from equipoise.generator.shards import Shards
from equipoise.ragged import Nested, offsets_of
from equipoise.vocabulary import LAB, Vocabulary

SHARD_SUBJECTS: Final = 10_000


@dataclass(frozen=True)
class Report:
    """What a call did. made, kept, missing: shards. joined: whether the cohort is finished.
    two_bins: its visits with two bins of one lab, which the model may but patients do not have."""

    made: int
    kept: int
    missing: int
    usage: Usage
    joined: bool = False
    two_bins: int = 0


def account(report: Report) -> str:
    """A report as sentences."""
    usage = report.usage
    lines = [f"shards: {report.made} made, {report.kept} kept, {report.missing} missing"]
    if usage.visits:
        lines.append(
            f"drawn: {usage.subjects:,} subjects, {usage.visits:,} visits, "
            f"{usage.visits / usage.seconds:,.0f} visits a second on {usage.devices} "
            f"device{'s' * (usage.devices > 1)}; lanes {usage.utilisation:.1%} used, "
            f"devices waited at most {usage.waiting:.1%} of the time after "
            f"{usage.starting:.1f} s of compilation"
        )
    if report.two_bins:
        known = usage.visits and not report.kept
        share = f" ({report.two_bins / usage.visits:.1%})" if known else ""
        lines.append(f"{report.two_bins:,} visits{share} have two bins of a lab, as models may")
    if not report.joined:
        lines.append("once all parts are made, the same with --resume and no --shard joins them")
    return "\n".join(lines)


def job_folder(out: Path | str) -> Path:
    """Where the shards of the cohort `out` are until it is finished."""
    out = Path(out)
    return out.with_name(f"{out.name}.job")


def run_job(
    generator: Generator,
    plan: Plan,
    out: Path | str,
    seed: int = 0,
    *,
    batch: int | None = None,
    shard_subjects: int = SHARD_SUBJECTS,
    part: tuple[int, int] | None = None,
    resume: bool = False,
    force: bool = False,
    inputs: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
    progress: schema.Progress = schema.no_progress,
) -> Report:
    """`sample` into the cohort folder `out`, shard by shard.

    The same arguments give the same bytes on the same kind of device (see `sample`), however often
    the job was killed and resumed and whoever made which shard. All files but the manifest are also
    the same for any number of devices; the manifest names that of the call that finished. The
    cohort is sealed: `Cohort.load` refuses it once a byte of it has changed.

    `part` (i, n) makes only the shards of the i-th of n parts, and no cohort.

    Raises what `sample` raises; `UsageError` if `out` is there, if its job is there and neither
    `resume` nor `part` is given, or if it is another job; `DataError` for a damaged shard, and
    `OSError`, as on a full disk. After any of these, and after Ctrl-C, what was done is kept.
    """
    store.check_free(out, force)
    order = Order.of(generator.conditions, plan)
    batch = usual_batch(order.total) if batch is None else batch
    _check(batch, shard_subjects, part, force)
    if force and not resume:
        Shards.remove(job_folder(out))
    job = _job(generator, order, seed, batch, shard_subjects)
    shards = Shards.open(job_folder(out), job, resume=resume or part is not None)
    kept = len(shards.done())
    draw = Draw(generator, order, seed, batch)
    _make_missing(draw, shards, order.total, shard_subjects, part, progress)
    done = len(shards.done())
    report = Report(done - kept, kept, -(-order.total // shard_subjects) - done, draw.usage)
    if part is not None:
        return report
    about = {**(config or {}), **_drawn(job, generator, batch, draw.usage.devices)}
    with _joined(generator, order, shards) as (cohort, two_bins):
        about["visits_with_two_bins_of_a_lab"] = two_bins
        cohort.save(out, force=force, sealed=True, seed=seed, config=about, inputs=inputs)
    Shards.remove(shards.folder)
    return replace(report, joined=True, two_bins=two_bins)


def _check(batch: int, shard_subjects: int, part: tuple[int, int] | None, force: bool) -> None:
    if batch < 1 or shard_subjects < 1:
        raise UsageError("batch and subjects to a shard must be 1 or more")
    if part is not None and not 1 <= part[0] <= part[1]:
        raise UsageError(f"part: want (i, n) with i from 1 to n, got {part}")
    if part is not None and force:
        raise UsageError("a part of a job cannot be forced: it would delete the other parts")


def _job(
    generator: Generator, order: Order, seed: int, batch: int, shard_subjects: int
) -> dict[str, Any]:
    """All that the bytes of a shard depend on."""
    return {
        "equipoise": version("equipoise"),
        "model": fingerprint(generator),
        "plan": _digest(order.cells.write_json().encode()),
        "seed": seed,
        "shard_subjects": shard_subjects,
        "subjects": order.total,
        **_sampler(generator, batch),
    }


def _drawn(
    job: Mapping[str, Any], generator: Generator, batch: int, devices: int
) -> dict[str, Any]:
    """What a cohort's manifest says of the job: nothing of the shards, which are gone."""
    return {
        "drawn_from": {name: job[name] for name in ("model", "plan")},
        "sampler": {**_sampler(generator, batch), "devices": devices},
    }


def _sampler(generator: Generator, batch: int) -> dict[str, Any]:
    """How records are computed: what their last bits depend on."""
    settings: Any = jax.config
    backend = jax.default_backend()
    return {
        **(in_core.drawing(generator.config.head) if backend == "cpu" else {}),
        "backend": backend,
        "block": generator.config.block,
        "device": jax.local_devices()[0].device_kind,
        "dtype": "float32",
        "jax": jax.__version__,
        "lanes": lanes_for(batch),
        "random": f"{RANDOM}, partitionable: {settings.jax_threefry_partitionable}",
        "matmul_precision": settings.jax_default_matmul_precision or "default",
    }


def fingerprint(generator: Generator) -> str:
    """A digest of all that a generator's records depend on."""
    conditions, vocabulary = generator.conditions, generator.vocabulary
    parts = [
        json.dumps([asdict(generator.config), conditions.by], sort_keys=True).encode(),
        conditions.cells.write_json().encode(),
        vocabulary.columns.write_json().encode(),
        vocabulary.cuts.tobytes(),
    ]
    for name, array in named_arrays(generator.params).items():
        parts += [name.encode(), np.asarray(array).tobytes()]
    return _digest(*parts)


def _digest(*parts: bytes) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return "sha256:" + whole.hexdigest()


def _make_missing(
    draw: Draw,
    shards: Shards,
    total: int,
    size: int,
    part: tuple[int, int] | None,
    progress: schema.Progress,
) -> None:
    """Draw and write the shards of this part that are not there, in as few runs as they form."""
    count = -(-total // size)
    mine = range(count) if part is None else _share(count, part)
    runs = [
        range(run.start * size, min(run.stop * size, total))
        for run in _runs(sorted(set(mine) - shards.done().keys()))
    ]
    wanted = sum(map(len, runs))

    def write(numbers: range, records: Nested) -> None:
        shards.write(numbers.start // size, records)

    def tell(stage: str, done: int, _: int) -> None:
        progress(stage, before + done, wanted)

    for run in runs:
        before = draw.usage.subjects
        draw.run(run, size, write, tell)


def _share(count: int, part: tuple[int, int]) -> range:
    return range(count * (part[0] - 1) // part[1], count * part[0] // part[1])


def _runs(numbers: list[int]) -> list[range]:
    """Ascending numbers as ranges without gaps."""
    runs: list[range] = []
    for number in numbers:
        if runs and runs[-1].stop == number:
            runs[-1] = range(runs[-1].start, number + 1)
        else:
            runs.append(range(number, number + 1))
    return runs


@contextmanager
def _joined(generator: Generator, order: Order, shards: Shards) -> Iterator[tuple[Cohort, int]]:
    """All shards as one cohort, and how many visits have two bins of one lab.

    The codes, nearly all of it, are in a file that is gone afterwards, and not in memory.
    """
    lengths, sizes, two_bins = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0
    with tempfile.TemporaryFile(dir=shards.folder) as file:
        for _, path in sorted(shards.done().items()):
            records = shards.read(path)
            lengths.append(np.diff(records.visit_offsets))
            sizes.append(np.diff(records.code_offsets))
            two_bins += visits_with_two_bins(generator.vocabulary, records)
            file.write(records.codes.data)
        file.flush()
        codes = np.memmap(file, np.int32, "r") if file.tell() else np.empty(0, np.int32)
        offsets = offsets_of(np.concatenate(lengths)), offsets_of(np.concatenate(sizes))
        yield cohort_of(generator, order, range(order.total), Nested(*offsets, codes)), two_bins


def visits_with_two_bins(vocabulary: Vocabulary, records: Nested) -> int:
    """How many visits have two columns of one lab, which stand side by side in a vocabulary."""
    columns = vocabulary.columns
    _, lab_V = np.unique(columns["code"].to_numpy(), return_inverse=True)
    lab_V[columns["kind"].to_numpy() != LAB] = -1
    lab = lab_V[records.codes]
    visit = np.repeat(np.arange(len(records.code_offsets) - 1), np.diff(records.code_offsets))
    again = (lab[1:] == lab[:-1]) & (lab[1:] >= 0) & (visit[1:] == visit[:-1])
    return len(np.unique(visit[1:][again]))
