"""The core's samplers of visits, as XLA calls them on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final

import jax
import jax.ffi
import jax.numpy as jnp
from jax import lax

from equipoise import _core

#: What XLA knows the core's `heads::Block` and `heads::Halo` by.
BLOCK: Final = "equipoise_block_sample"
HALO: Final = "equipoise_halo_sample"


def sample(
    target: str,
    weights: Sequence[jax.Array],
    h_ND: jax.Array,
    threshold_NV: jax.Array,
    by_xla: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    """`Head.sample` by the core on a CPU in single precision, for XLA takes longer; else `by_xla`.

    A visit of the core's does not depend on its company.
    """
    single = all(array.dtype == jnp.float32 for array in (h_ND, threshold_NV, *weights))
    if not single or not _registered(target):
        return by_xla(h_ND, threshold_NV)

    def by_core(h_ND: jax.Array, threshold_NV: jax.Array) -> jax.Array:
        tokens = jax.eval_shape(lambda t: t > 0, threshold_NV)
        call: Any = jax.ffi.ffi_call(target, tokens)  # Untyped in JAX.
        x_NV: jax.Array = call(h_ND, threshold_NV, *weights)
        return x_NV

    x_NV: jax.Array = lax.platform_dependent(h_ND, threshold_NV, cpu=by_core, default=by_xla)
    return x_NV


def drawing(head: str) -> dict[str, str]:
    """Who draws the visits of this head on a CPU, and the instructions that its sums depend on."""
    target = {"block": BLOCK, "halo": HALO}[head]
    by = "core" if _registered(target) else "xla"
    return {"drawn_by": by, "instructions": _core.instructions()}


@cache
def _registered(target: str) -> bool:
    """Whether XLA knows it now; versions of JAX may speak another interface."""
    call = {BLOCK: _core.block_sample, HALO: _core.halo_sample}[target]
    try:
        jax.ffi.register_ffi_target(target, call(), platform="cpu")
    except (RuntimeError, ValueError):
        return False
    return True
