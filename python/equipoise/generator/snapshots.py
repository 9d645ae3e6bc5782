"""Courses of training on disk, so that a killed run goes on where it was.

Orbax writes a snapshot under another name and renames it when it is whole. A snapshot holds the
last and the best weights, the moments, the history and the position in the data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from shutil import disk_usage
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import jax
import numpy as np
import polars as pl

from equipoise import store
from equipoise.cohort import Cohort
from equipoise.errors import DataError, UsageError, first_line
from equipoise.generator import threads
from equipoise.generator.checkpoint import HISTORY, METRICS
from equipoise.generator.fitting import Best, Course, Look, State, Task
from equipoise.generator.network import computing_dtype

if TYPE_CHECKING:
    from orbax.checkpoint import CheckpointManager

IDENTITY: Final = "identity.json"
#: The most of the time that may go into saving.
_SHARE: Final = 0.05
#: Bytes of room for what comes with the arrays of a snapshot.
_SPARE: Final = 10_000_000
_LAST, _BEST, _PLACE = "last", "best", "place"


class Snapshots:
    """The folder in which one training keeps its courses; see `fitting.Keeper`."""

    def __init__(self, folder: Path | str, task: Task) -> None:
        """Open or make the folder; raises `UsageError` if it is another training's."""
        # Imported here: it takes as long as JAX itself.
        import orbax.checkpoint as ocp

        self._folder = folder = Path(folder).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            _claim(folder / IDENTITY, _identity(task))
        options = ocp.CheckpointManagerOptions(
            max_to_keep=1, cleanup_tmp_directories=True, enable_async_checkpointing=False
        )
        self._manager: CheckpointManager = ocp.CheckpointManager(folder, options=options)
        self._args = ocp.args
        self._saved, self._took = monotonic(), 0.0

    def load(self, start: Course) -> Course:
        """The course saved last, with arrays as those of `start`; `start` itself if none is.

        Raises `DataError` if it is damaged.
        """
        step = self._manager.latest_step()
        if step is None:
            return start
        try:
            return self._read(step, start)
        except Exception as error:  # Orbax and TensorStore document no classes.
            raise DataError(
                table=str(self._manager.directory / str(step)),
                want="a snapshot of training",
                got=first_line(error),
                hint="Start anew without --resume",
            ) from None

    def save(self, course: Course) -> None:
        """Keep it, unless too much of the time went into saving; its history is told at each look.

        That is in `checkpoint.METRICS`, for who looks at a training that is at work. Raises
        `OSError` that names the folder, as on a full disk; what was kept before stays.
        """
        if jax.process_index() == 0:
            history = pl.DataFrame(course.history, schema=dict(HISTORY), orient="row")
            store.write_text(self._folder / METRICS, history.write_ndjson())
        # Several processes save together, so that no clock may decide.
        if jax.process_count() == 1 and _SHARE * (monotonic() - self._saved) < self._took:
            return
        began = monotonic()
        self._write(course)
        self._saved = monotonic()
        self._took = self._saved - began

    def close(self) -> None:
        """Let go of the folder."""
        self._manager.close()

    def _write(self, course: Course) -> None:
        args = self._args
        place = {
            "epoch": course.epoch,
            "place": course.place,
            "best_step": course.best.step,
            "digest": _digest_of(course),
            "history": [list(look) for look in course.history],
        }
        items = {
            _LAST: args.StandardSave(jax.tree.leaves(course.state)),
            _BEST: args.StandardSave(jax.tree.leaves(course.best.params)),
            _PLACE: args.JsonSave(place),
        }
        _check_room(self._folder, course)
        try:
            self._manager.save(course.step, args=args.Composite(**items), force=True)
            self._manager.wait_until_finished()
        except Exception as error:  # As in `load`.
            raise OSError(f"while writing {self._folder}: {first_line(error)}") from None

    def _read(self, step: int, start: Course) -> Course:
        args = self._args
        last, state = jax.tree.flatten(start.state)
        best, params = jax.tree.flatten(start.best.params)
        best = [np.empty(leaf.shape, leaf.dtype) for leaf in best]
        items = {
            _LAST: args.StandardRestore(last),
            _BEST: args.StandardRestore(best),
            _PLACE: args.JsonRestore(),
        }
        found = self._manager.restore(step, args=args.Composite(**items))
        place = found[_PLACE]
        history = tuple(Look(*row) for row in place["history"])
        nll = {look.step: look.tuning_nll for look in history}
        best_step = place["best_step"]
        course = replace(
            start,
            state=State(*jax.tree.unflatten(state, found[_LAST])),
            best=Best(jax.tree.unflatten(params, found[_BEST]), nll[best_step], best_step),
            step=step,
            epoch=place["epoch"],
            place=place["place"],
            history=history,
        )
        if _digest_of(course) != place["digest"]:
            raise ValueError("another course than was saved")
        return course


def _check_room(folder: Path, course: Course) -> None:
    """Looked at first, for of a full disk Orbax tells once for every array."""
    bytes_ = sum(leaf.nbytes for leaf in jax.tree.leaves((course.state, course.best.params)))
    want = 2 * bytes_ + _SPARE
    free = disk_usage(folder).free
    if free < want:
        raise OSError(
            f"while writing {folder}: want {want / 1e6:,.0f} MB of room for a snapshot, "
            f"got {free / 1e6:,.0f}"
        )


def _digest_of(course: Course) -> str:
    """Of all that a course is; empty where other processes have a part of the weights."""
    where = [course.step, course.epoch, course.place, course.best.step]
    sha = hashlib.sha256(json.dumps([*where, course.history]).encode())
    for leaf in jax.tree.leaves((course.state, course.best.params)):
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return ""
        sha.update(np.asarray(leaf).tobytes())
    return sha.hexdigest()


def _claim(path: Path, identity: Mapping[str, Any]) -> None:
    """Say whose folder it is, or make sure that it is ours."""
    if not path.exists():
        store.write_json(path, identity)
        return
    before = store.read_json(path)
    changed = [
        f"{name} was {before.get(name)}, is {now}"
        for name, now in json.loads(json.dumps(identity, default=store.plain)).items()
        if before.get(name) != now
    ]
    if changed:
        raise UsageError(
            f"{path.parent} holds another training: {'; '.join(changed)}. "
            "Start anew without --resume"
        )


def _identity(task: Task) -> dict[str, Any]:
    """What the result depends on, by the names a person knows."""
    return {
        "equipoise": version("equipoise"),
        "jax": jax.__version__,
        "dtype": computing_dtype(task.config).name,
        **({threads.NPROC: threads.settled()} if jax.default_backend() == "cpu" else {}),
        "seed": task.seed,
        "groups": list(task.conditions.by),
        **{f"config.{name}": value for name, value in asdict(task.config).items()},
        "training subjects": _digest(task.fit, task),
        "tuning subjects": _digest(task.tune, task),
    }


def _digest(cohort: Cohort, task: Task) -> str:
    sha = hashlib.sha256()
    for array in (
        cohort.visit_offsets,
        cohort.code_offsets,
        cohort.codes,
        task.conditions.encode(cohort.subjects),
    ):
        sha.update(array.tobytes())
    for frame in (task.conditions.cells, cohort.vocabulary.columns):
        sha.update(frame.write_csv().encode())
    return sha.hexdigest()[:16]
