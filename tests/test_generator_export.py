"""The sampler and the training step, lowered for devices that are not here."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import pytest

from equipoise.generator import fitting
from equipoise.generator.batches import Shape
from equipoise.generator.drawing import Draw
from equipoise.generator.fitting import State
from equipoise.generator.in_core import BLOCK, HALO
from equipoise.generator.optimiser import Optimiser
from equipoise.generator.orders import Order
from equipoise.generator.parallel import Layout
from generator_toys import SMALL, batch_of, plan_of, random_generator

PLATFORMS = ("cpu", "cuda", "tpu")


def custom_calls(step: Any, *arguments: Any, platforms: tuple[str, ...] = PLATFORMS) -> set[str]:
    """What a compiled function calls that is no operation of StableHLO, on any platform."""
    ours = [jax.export.DisabledSafetyCheck.custom_call(target) for target in (BLOCK, HALO)]
    exported = jax.export.export(step, platforms=platforms, disabled_checks=ours)(*arguments)
    assert exported.platforms == platforms
    return set(re.findall(r"stablehlo\.custom_call @(\w+)", exported.mlir_module()))


def sampler(head: Any) -> tuple[Any, tuple[Any, ...]]:
    generator = random_generator(config=replace(SMALL, head=head, systems=2))
    order = Order.of(generator.conditions, plan_of([10, 10, 10, 10]))
    return Draw(generator, order, 0, 64).traced(range(40))


def training_step(dtype: str) -> tuple[Any, tuple[Any, ...]]:
    generator = random_generator(config=replace(SMALL, systems=2))
    shape = Shape(rows=2, longest=3, visits=5, lists=5, benches=2)
    records = [[[0, 3], [1], []], [[0, 1, 2, 3, 4, 5], [5]]]
    batch = batch_of(generator, records, "FM", "01", shape)
    optimiser, layout = Optimiser.of(generator.config), Layout.of(jax.devices()[:1], 1)
    state = State(generator.params, optimiser.start(generator.params))
    how = (generator.graph, optimiser, jnp.dtype(dtype), layout)
    step = jax.jit(fitting._train_step, static_argnums=range(len(how)))
    return step, (*how, 1e-3, 1.0, state, layout.put_batch([batch]))


@pytest.mark.parametrize(
    "parts",
    [
        partial(sampler, "block"),
        partial(sampler, "halo"),
        partial(training_step, "float32"),
        partial(training_step, "bfloat16"),
    ],
)
def test_no_platform_calls_the_host_back(parts: Callable[[], tuple[Any, tuple[Any, ...]]]):
    step, arguments = parts()
    calls = custom_calls(step, *arguments)
    # Random numbers have a kernel of their own on CUDA, the heads have theirs in the core on a CPU;
    # sharding is a note to the compiler.
    known = {
        BLOCK,
        HALO,
        "cu_threefry2x32_ffi",
        "Sharding",
        "SPMDFullToShardShape",
        "SPMDShardToFullShape",
    }
    assert calls <= known, calls


@pytest.mark.parametrize(("head", "target"), [("block", BLOCK), ("halo", HALO)])
def test_the_core_is_called_on_a_cpu_alone(head: str, target: str):
    step, arguments = sampler(head)
    assert target in custom_calls(step, *arguments, platforms=("cpu",))
    assert target not in custom_calls(step, *arguments, platforms=("cuda", "tpu"))


def test_a_callback_would_be_seen():
    shape = jax.ShapeDtypeStruct((2,), jnp.float32)
    called = jax.jit(lambda x: jax.pure_callback(lambda y: y, shape, x, vmap_method="sequential"))
    with pytest.raises(NotImplementedError, match="callback"):
        custom_calls(called, jnp.zeros(2))
