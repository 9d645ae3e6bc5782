"""Pieces of work on several processes, one thread inside each.

XLA has more, as everywhere (`generator.threads`): its sums depend on how many there are, and no
flag holds it to one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.queues import SimpleQueue
from multiprocessing.reduction import ForkingPickler
from typing import Final, Protocol

from equipoise import schema
from equipoise.errors import EquipoiseError, UsageError

#: What libraries look at when they start; pieces are many, so each has one thread.
ONE_THREAD: Final = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "POLARS_MAX_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "EQUIPOISE_THREADS": "1",
}
#: Seconds between two looks at what the processes say.
LOOK: Final = 0.2
Said = SimpleQueue[tuple[str, int, int]]
#: In a process of the pool: where it tells how far it is.
_SAID: Final[list[Said]] = []


class Task(Protocol):
    """Work that can be sent to another process, and leaves its result on the disk.

    Its name, `str`, is what is told of it while it runs.
    """

    def do(self, progress: schema.Progress) -> None: ...


class Queue(Protocol):
    """What is to be done next."""

    def next(self) -> Task | None:
        """A task that can begin now; None if there is none until another ends."""

    def ended(self, task: Task) -> None:
        """`task` is done, which may make others possible."""


def work_off(queue: Queue, processes: int, progress: schema.Progress = schema.no_progress) -> None:
    """Do all tasks of the queue, `processes` at a time; with one, in this process.

    The first error of a task is raised here, and the others are stopped; what they have finished
    stays. Raises `EquipoiseError` if a process dies.
    """
    if processes > 1:
        _work_off_beside(queue, processes, progress)
        return
    while task := queue.next():
        progress(str(task), 0, 1)
        task.do(_named(str(task), progress))
        progress(str(task), 1, 1)
        queue.ended(task)


def _work_off_beside(queue: Queue, processes: int, progress: schema.Progress) -> None:
    with _pool(processes) as (pool, said):
        running: dict[Future[None], Task] = {}
        while True:
            while len(running) < processes and (task := queue.next()):
                running[pool.submit(_do, task)] = task
                progress(str(task), 0, 1)
            if not running:
                return
            done = wait(running, LOOK, FIRST_COMPLETED).done
            while not said.empty():
                progress(*said.get())
            for future in done:
                _check(future, running.values())
                task = running.pop(future)
                progress(str(task), 1, 1)
                queue.ended(task)


def check_sendable(things: Mapping[str, object]) -> None:
    """Raise `UsageError` naming the first of these that cannot be sent to another process."""
    for name, thing in things.items():
        try:
            ForkingPickler.dumps(thing)
        except Exception as error:
            raise UsageError(
                f"{name} cannot be sent to another process ({error}): define it at the top of a "
                "module, or ask for one thread"
            ) from None


def _named(name: str, progress: schema.Progress) -> schema.Progress:
    """What a task says of its stages, under its own name."""
    return lambda stage, done, total: progress(f"{name}: {stage}", done, total)


def _do(task: Task) -> None:
    """Run in another process; what it says goes through the queue of `_begin`."""
    task.do(_named(str(task), lambda *said: _SAID[0].put(said)))


def _check(future: Future[None], running: Iterable[Task]) -> None:
    try:
        future.result()
    except BrokenProcessPool:
        raise EquipoiseError(
            f"a process died; at work were {' and '.join(map(str, running))}. Most likely there "
            "was no memory left: ask for fewer threads"
        ) from None


@contextmanager
def _pool(processes: int) -> Iterator[tuple[ProcessPoolExecutor, Said]]:
    """A pool whose processes end at once when the body raises."""
    before = set(multiprocessing.active_children())
    # Never forked: the libraries have threads, whose locks a fork would copy in whatever state.
    context = multiprocessing.get_context("spawn")
    with _environment(ONE_THREAD):
        said: Said = context.SimpleQueue()
        pool = ProcessPoolExecutor(processes, context, _begin, (said,))
        try:
            yield pool, said
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in set(multiprocessing.active_children()) - before:
                child.kill()
            raise
        pool.shutdown()


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _begin(said: Said) -> None:
    """In a new process: leave Ctrl-C to the first one, and end when that one does."""
    _SAID.append(said)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
