"""One training step over many devices: batches are dealt out, weights copied or cut.

The first axes of a step's arrays are (rounds, devices): rounds follow each other and save memory,
devices work side by side. XLA adds the sums over devices (GSPMD).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from equipoise.errors import DataError, UsageError
from equipoise.generator.batches import Batch

_AXIS: Final = "data"
_Tree = TypeVar("_Tree")

# JAX gives these no types.
_spec: Final[Callable[..., PartitionSpec]] = PartitionSpec
_dealt_array: Final[Callable[..., jax.Array]] = jax.make_array_from_process_local_data
_constrained: Final[Callable[..., jax.Array]] = jax.lax.with_sharding_constraint


@dataclass(frozen=True)
class Layout:
    """Where the parts of a step are computed. mesh: None for JAX's first. rounds: parts in a row.

    shard_params: weights and moments are cut along their longest axis that the devices divide.
    """

    mesh: Mesh | None
    rounds: int
    shard_params: bool = False

    @staticmethod
    def of(devices: Sequence[jax.Device] | None, rounds: int, shard_params: bool = False) -> Layout:
        """Over these devices, by default all there are; raises `UsageError` if there is none."""
        chosen = jax.devices() if devices is None else list(devices)
        if not chosen:
            raise UsageError("devices: want one or more, got none")
        first_alone = chosen == jax.local_devices()[:1]
        mesh = None if first_alone else Mesh(np.array(chosen), (_AXIS,))
        return Layout(mesh, rounds, shard_params)

    @property
    def devices(self) -> int:
        """How many devices work side by side."""
        return 1 if self.mesh is None else self.mesh.size

    @property
    def parts(self) -> int:
        """Into how many batches the subjects of a step are cut."""
        return self.rounds * self.devices

    def own_parts(self) -> list[int]:
        """The parts whose batches this process has to make, by round, then device."""
        own = [0]
        if self.mesh is not None:
            here = jax.process_index()
            own = [i for i, d in enumerate(self.mesh.devices.flat) if d.process_index == here]
        return [round_ * self.devices + device for round_ in range(self.rounds) for device in own]

    def put_batch(self, parts: Sequence[Batch]) -> Batch:
        """This process's own parts as one batch with two more axes, (rounds, devices)."""
        if len(parts) == 1 and self.mesh is None:
            return Batch._make(array[None, None] for array in parts[0])
        stacked = [np.stack(arrays) for arrays in zip(*parts, strict=True)]
        stacked = [a.reshape(self.rounds, -1, *a.shape[1:]) for a in stacked]
        if self.mesh is None:
            return Batch._make(stacked)
        dealt = NamedSharding(self.mesh, _spec(None, _AXIS))
        shape = (self.rounds, self.devices)
        return Batch._make(_dealt_array(dealt, a, (*shape, *a.shape[2:])) for a in stacked)

    def put_weights(self, tree: _Tree) -> _Tree:
        """Arrays that every process has alike, placed as `shard_params` says."""

        def put(leaf: Any) -> jax.Array:
            array = np.asarray(leaf)
            return jax.make_array_from_callback(
                array.shape, self.sharding(array.shape), lambda part: array[part]
            )

        placed: _Tree = tree if self.mesh is None else jax.tree.map(put, tree)
        return placed

    def keep_weights(self, tree: _Tree) -> _Tree:
        """Inside a compiled step: its results stay where `put_weights` put its arguments."""
        if self.mesh is None:
            return tree

        def keep(leaf: jax.Array) -> jax.Array:
            return _constrained(leaf, self.sharding(leaf.shape))

        kept: _Tree = jax.tree.map(keep, tree)
        return kept

    def whole_weights(self, tree: _Tree) -> _Tree:
        """The same on one device of this process."""
        if self.mesh is None:
            return tree
        copied = NamedSharding(self.mesh, _spec())
        everywhere = jax.jit(lambda tree: tree, out_shardings=copied)(tree)
        here: _Tree = jax.tree.map(lambda leaf: leaf.addressable_data(0), everywhere)
        return here

    def sharding(self, shape: tuple[int, ...]) -> NamedSharding:
        """Where weights of this shape are."""
        assert self.mesh is not None
        axes: list[str | None] = [None] * len(shape)
        fitting = [axis for axis, size in enumerate(shape) if size % self.devices == 0 and size]
        if self.shard_params and fitting:
            axes[max(fitting, key=lambda axis: shape[axis])] = _AXIS
        return NamedSharding(self.mesh, _spec(*axes))


def join_cluster(environment: Mapping[str, str] | None = None) -> bool:
    """Join the other processes of a job, if the environment says that there are any.

    Must come before any other use of JAX. Understood are JAX_COORDINATOR_ADDRESS with
    JAX_NUM_PROCESSES and JAX_PROCESS_ID, and what `jax.distributed` detects itself under Slurm,
    Open MPI and on TPU pods. Raises `DataError` if the first is incomplete.
    """
    env = os.environ if environment is None else environment
    if "JAX_COORDINATOR_ADDRESS" in env:
        jax.distributed.initialize(
            env["JAX_COORDINATOR_ADDRESS"],
            _number(env, "JAX_NUM_PROCESSES"),
            _number(env, "JAX_PROCESS_ID"),
        )
        return True
    several = (
        ("SLURM_JOB_ID" in env and env.get("SLURM_STEP_NUM_TASKS", "1") not in ("", "0", "1"))
        or ("OMPI_MCA_orte_hnp_uri" in env and env.get("OMPI_COMM_WORLD_SIZE", "1") != "1")
        or "," in (env.get("TPU_PROCESS_ADDRESSES") or env.get("TPU_WORKER_HOSTNAMES") or "")
    )
    if several:
        jax.distributed.initialize()
    return several


def leads() -> bool:
    """Whether this process is the one that writes for all."""
    return jax.process_index() == 0


def _number(env: Mapping[str, str], name: str) -> int:
    try:
        return int(env[name])
    except (KeyError, ValueError):
        raise DataError(
            table="environment", column=name, want="a whole number", got=env.get(name, "none")
        ) from None
