"""Sampling on whatever device is here, beside what its arithmetic and its memory allow.

python benches/bench_accelerator.py --codes 9671 --width 768 --layers 12 --lanes 256,1024

Weights are as training starts: about 30 codes a visit, 3.4 visits a record. docs/accelerators.md
says what is counted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl

from equipoise.generator import Generator, GeneratorConfig
from equipoise.generator.checkpoint import HISTORY
from equipoise.generator.conditions import Conditions
from equipoise.generator.drawing import Draw, lanes_for
from equipoise.generator.network import initialise, named_arrays
from equipoise.generator.orders import Order
from equipoise.ragged import Nested
from equipoise.vocabulary import Vocabulary

CODES_A_VISIT, VISITS_A_RECORD = 30, 3.4
#: As `usual_batch` has them at least.
SUBJECTS_A_LANE = 64


class Plan:
    """So many subjects of one cell."""

    by = ("sex",)

    def __init__(self, subjects: int) -> None:
        self.cells = pl.DataFrame({"label": [True], "sex": ["F"], "synthetic": [subjects]})


def generator_of(codes: int, config: GeneratorConfig) -> Generator:
    """One that was never trained; the commonest code is in every other visit."""
    share = np.minimum(0.5, CODES_A_VISIT / np.log(codes) / np.arange(2, codes + 2))
    share = np.append(share, 1 / VISITS_A_RECORD)
    cells = Plan(1).cells.rename({"synthetic": "subjects"})
    conditions = Conditions(cells, ("sex",))
    params = initialise(np.log(share) - np.log1p(-share), len(conditions), config, seed=0)[1]
    vocabulary = Vocabulary.of_codes([f"C{i}" for i in range(codes)])
    return Generator(params, vocabulary, conditions, config, pl.DataFrame(schema=dict(HISTORY)), {})


def seconds_of(run: Callable[[], Any], repeats: int = 5) -> float:
    """The least of several timings, after one that compiles."""
    jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - began)
    return min(times)


def matmul_rate(lanes: int, width: int) -> float:
    """Operations a second of float32 (lanes, width) @ (width, 4 width), the shape that is used."""
    a, b = jnp.ones((lanes, width)), jnp.ones((width, 4 * width))
    multiply = jax.jit(lambda a, b: a @ b)
    return 8 * lanes * width**2 / seconds_of(lambda: multiply(a, b))


def copy_rate(megabytes: int = 256) -> float:
    """Bytes a second, read and written."""
    x = jnp.ones(megabytes << 18)
    add = jax.jit(lambda x: x + 1)
    return 2 * x.nbytes / seconds_of(lambda: add(x))


def memory_of_lane(config: GeneratorConfig) -> int:
    """Bytes of keys and values."""
    return 2 * 4 * config.layers * (config.max_visits + 1) * config.width


def floor_of_step(generator: Generator, lanes: int, rate: float, bandwidth: float) -> float:
    """Seconds: each weight is read once a step and multiplied once a lane."""
    weights = sum(array.size for array in named_arrays(generator.params).values())
    bytes_ = 4 * weights + lanes * memory_of_lane(generator.config)
    return max(2 * weights * lanes / rate, bytes_ / bandwidth)


def nowhere(numbers: range, records: Nested) -> None:
    """Where the records of a measurement go."""


def measure(generator: Generator, lanes: int, bandwidth: float) -> tuple[str, ...]:
    """One row of the table."""
    devices = len(jax.local_devices())
    order = Order.of(generator.conditions, Plan(SUBJECTS_A_LANE * lanes * devices))
    draw = Draw(generator, order, 0, lanes)
    draw.run(range(order.total), order.total, nowhere)
    usage = draw.usage
    step = usage.seconds * lanes_for(lanes) * devices / usage.lane_visits
    rate = matmul_rate(lanes, generator.config.width)
    floor = floor_of_step(generator, lanes, rate, bandwidth)
    return (
        f"{lanes:,}",
        f"{usage.visits / usage.seconds:,.0f}",
        f"{step * 1e3:.2f}",
        f"{floor * 1e3:.2f}",
        f"{floor / step:.0%}",
        f"{usage.utilisation:.0%}",
        f"{usage.waiting:.1%}",
        f"{rate / 1e9:,.0f}",
        f"{lanes * memory_of_lane(generator.config) / 2**20:,.0f}",
        f"{usage.starting:.1f}",
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("codes", 1301), ("width", 256), ("layers", 4), ("hidden", 512)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--block", type=int, default=128)
    parser.add_argument("--head", choices=("block", "halo"), default="block")
    parser.add_argument("--lanes", default="64,128,256")
    chosen = parser.parse_args()
    config = GeneratorConfig(
        width=chosen.width,
        layers=chosen.layers,
        head=chosen.head,
        head_hidden=chosen.hidden,
        block=chosen.block,
    )
    generator = generator_of(chosen.codes, config)
    bandwidth = copy_rate()
    device, count = jax.local_devices()[0], len(jax.local_devices())
    print(f"{count} x {device.device_kind} ({device.platform}), jax {jax.__version__}")
    print(f"{generator}; copies {bandwidth / 1e9:.1f} GB/s")
    print("lanes | visits/s | ms a step | floor | share | lanes used | waits", end=" | ")
    print("matmul GFLOP/s | cache MB | compile s")
    for lanes in map(int, chosen.lanes.split(",")):
        print(" | ".join(measure(generator, lanes, bandwidth)), flush=True)


if __name__ == "__main__":
    main()
