"""Which piece of an experiment is done next."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from equipoise import schema, store
from equipoise.evaluate.pieces import Balancing, Fitting, Parts
from equipoise.evaluate.processes import Task


class Schedule:
    """A `processes.Queue` of the pieces that no earlier run has finished.

    arms: every balancing, in order, with the models to be fitted on it. The next begins when no
    model waits to be fitted, so that few training sets lie about. The cohorts of a fold are made
    once, in this process, by `encode` (from the fold's number).
    """

    def __init__(
        self,
        arms: Mapping[Balancing, Sequence[Fitting]],
        encode: Callable[[int], Parts],
        progress: schema.Progress = schema.no_progress,
    ) -> None:
        self._lacking = {
            balancing: [fitting for fitting in fittings if not fitting.done]
            for balancing, fittings in arms.items()
        }
        self._encode, self._progress = encode, progress
        self._all = len(arms) + sum(map(len, arms.values()))
        self._done = self._all - len(arms) - sum(map(len, self._lacking.values()))
        self._balancings = deque(arms)
        self._ready: deque[Fitting] = deque()

    def next(self) -> Task | None:
        """A model whose training set is there, or else the next balancing."""
        while not self._ready and self._balancings:
            balancing = self._balancings.popleft()
            if not balancing.done or (self._lacking[balancing] and not balancing.open):
                self._prepare(balancing)
                return balancing
            self._open(balancing)
        return self._ready.popleft() if self._ready else None

    def ended(self, task: Task) -> None:
        """`task` is done: after a balancing come its models, after its last model it is tidied."""
        if isinstance(task, Balancing):
            self._open(task)
        elif isinstance(task, Fitting):
            self._lacking[task.of].remove(task)
            self._finish(task.of)

    def _open(self, balancing: Balancing) -> None:
        self._ready.extend(self._lacking[balancing])
        self._finish(balancing)

    def _finish(self, balancing: Balancing) -> None:
        """Count a piece; a training set is large, and of no use once all is fitted on it."""
        self._done += 1
        self._progress("evaluate", self._done, self._all)
        if not self._lacking[balancing]:
            shutil.rmtree(balancing.training, ignore_errors=True)

    def _prepare(self, balancing: Balancing) -> None:
        parts = balancing.folder / "parts"
        if not (parts / store.MANIFEST).is_file():
            self._encode(balancing.fold).save(parts)
