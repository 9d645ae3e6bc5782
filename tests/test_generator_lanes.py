"""What is compiled for the devices, and what the host does with it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise.cohort import Cohort
from equipoise.generator import Generator, GeneratorConfig, sample
from equipoise.generator.drawing import Draw, steps_for, usual_batch
from equipoise.generator.gathering import Gathering, decode
from equipoise.generator.lanes import Visits, logit_of_bits
from equipoise.generator.network import initialise
from equipoise.generator.orders import Order
from equipoise.ragged import Nested
from generator_toys import flags_for, plan_of, random_generator

COLLECTIVES = ("all-reduce", "all-gather", "collective-permute", "all-to-all", "reduce-scatter")


def digest_of(cohort: Cohort) -> str:
    arrays = (cohort.visit_offsets, cohort.code_offsets, cohort.codes)
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def draw_of(generator: Generator, counts: list[int], batch: int = 64) -> tuple[Draw, range]:
    order = Order.of(generator.conditions, plan_of(counts))
    return Draw(generator, order, 0, batch), range(order.total)


def compiled_text(generator: Generator) -> str:
    draw, numbers = draw_of(generator, [100, 60, 80, 160])
    step, arguments = draw.traced(numbers)
    return step.lower(*arguments).compile().as_text()


def many_records(generator: Generator) -> str:
    return digest_of(sample(generator, plan_of([301, 200, 100, 499]), seed=3, batch=64))


def on_devices(devices: int) -> list[str]:
    """The digest of `many_records` and the collectives in the compiled step, on a forced host."""
    code = (
        "import jax; from test_generator_lanes import *; g = random_generator();"
        "text = compiled_text(g); print(len(jax.devices()), f'num_partitions={len(jax.devices())}'"
        " in text, [c for c in COLLECTIVES if c in text]); print(many_records(g))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "XLA_FLAGS": flags_for(devices),
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_devices_change_no_record_and_do_not_talk():
    want = many_records(random_generator())
    for devices in (2, 4):
        assert on_devices(devices) == [f"{devices} True []", want]


def test_a_finished_call_does_nothing():
    draw, numbers = draw_of(random_generator(), [3, 0, 0, 0])
    calls = list(draw._calls(numbers))
    assert sum(int(tally.ended.sum()) for _, tally in calls) == 3
    assert draw.usage.lane_visits == 64 * sum(int(tally.steps.sum()) for _, tally in calls)
    assert draw.usage.lane_visits <= 64 * 4, "no step may be made when all have ended"


def test_calls_of_large_networks_are_short():
    assert steps_for(5_000_000, 256) == 8
    assert steps_for(110_000_000, 64) == 3
    assert steps_for(110_000_000, 256) == 1


def lasting_generator(mean: float) -> Generator:
    """Records of geometric length; nothing but the end depends on anything."""
    config = GeneratorConfig(
        width=8, layers=1, heads=2, head_hidden=8, block=8, max_visits=20, batch_subjects=16
    )
    generator = random_generator(6, config, spread=0.0)
    log_odds = np.full(7, -1.0)
    log_odds[-1] = -np.log(mean - 1)
    drawn = initialise(log_odds, len(generator.conditions), config, 0)[1]
    silent = jax.tree.map(jnp.zeros_like, drawn)
    params = jax.tree.map(lambda leaf: leaf, silent)
    for module, name in (("head", "bias_GB"), ("ending", "bias_1")):
        params[module][name] = drawn[module][name]
    return Generator(
        params, generator.vocabulary, generator.conditions, config, generator.history, {}
    )


def test_nine_lanes_in_ten_are_at_work():
    draw, numbers = draw_of(lasting_generator(3.4), [1000, 500, 500, 560])
    assert usual_batch(len(numbers)) == 64
    assert usual_batch(200_000) == 256
    draw.run(numbers, 100, lambda numbers, records: None)
    usage = draw.usage
    assert usage.subjects == len(numbers)
    assert 3.2 < usage.visits / usage.subjects < 3.6
    assert 0.9 < usage.utilisation < 1
    assert usage.devices == 1


def test_what_gathers_too_slowly_is_seen():
    draw, numbers = draw_of(random_generator(), [1500, 0, 0, 0])
    draw.run(numbers, 10, lambda numbers, records: time.sleep(0.01))
    assert draw.usage.waiting > 0.3
    assert draw.usage.waited < draw.usage.seconds


def test_what_gathering_raises_is_raised():
    draw, numbers = draw_of(random_generator(), [3000, 0, 0, 0])
    whole: list[range] = []

    def fail_once(numbers: range, records: Nested) -> None:
        whole.append(numbers)
        if len(whole) == 1:
            raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        draw.run(numbers, 100, fail_once)
    assert sum(map(len, whole)) < len(numbers), "it went on as if nothing had happened"


def test_thresholds_are_finite_and_even_at_both_ends():
    bits = jnp.array([0, 1, 2**32 - 2, 2**32 - 1, 2, 3, 2**31], jnp.uint32)
    low, high, middle, middle_too, *_ = np.asarray(logit_of_bits(bits))
    assert low == pytest.approx(np.log(2.0**-33), abs=1e-5)
    assert high == -low
    assert middle == -middle_too == 0
    assert np.isfinite(np.asarray(logit_of_bits(bits))).all()


def random_visits(rng: np.random.Generator, tokens: int, lengths: list[int]) -> Visits:
    """Visits of subjects 100, 101, ..., mixed as lanes mix them, in four steps."""
    owner = rng.permutation(np.repeat(np.arange(len(lengths)), lengths))
    made = [np.sum(owner[:i] == s) for i, s in enumerate(owner)]
    rows = [(100 + s, v, v == lengths[s] - 1) for s, v in zip(owner, made, strict=True)]
    size = -(-len(rows) // 4) * 4
    number, visit, ended = np.zeros(size, int), np.zeros(size, int), np.zeros(size, bool)
    number[: len(rows)], visit[: len(rows)], ended[: len(rows)] = zip(*rows, strict=True)
    x = rng.random((size, 64 * -(-tokens // 64))) < 0.05
    active = np.arange(size) < len(rows)
    bits = np.packbits(x, axis=1)
    return Visits(
        *(part.reshape(4, -1, *part.shape[1:]) for part in (number, visit, active, ended, bits))
    )


@pytest.mark.parametrize("tokens", [5, 64, 200])
def test_decoding_finds_every_code(tokens):
    visits = random_visits(np.random.default_rng(tokens), tokens, [3, 1, 4, 1, 5])
    drawn = decode(visits, tokens)
    x = np.unpackbits(visits.bits.reshape(16, -1), axis=1)[:14, :tokens]
    row, code = np.nonzero(x)
    np.testing.assert_array_equal(drawn.codes, code)
    np.testing.assert_array_equal(drawn.sizes, np.bincount(row, minlength=14))


def test_runs_are_handed_out_when_whole_and_in_order():
    rng = np.random.default_rng(0)
    visits = random_visits(rng, 200, [3, 1, 4, 1, 5, 2, 1])
    out: list[tuple[range, Nested]] = []
    gathering = Gathering(range(100, 107), 3, 200, lambda *run: out.append(run))
    for k in range(4):
        gathering.add(Visits(*(part[k : k + 1] for part in visits)))
    assert sorted(run.start for run, _ in out) == [100, 103, 106]
    found = {run.start: records for run, records in out}
    assert np.diff(found[100].visit_offsets).tolist() == [3, 1, 4]
    assert np.diff(found[106].visit_offsets).tolist() == [1]
    x = np.unpackbits(visits.bits.reshape(20, -1), axis=1)[:, :200]
    place = {
        (n, v): i
        for i, (n, v) in enumerate(zip(visits.number.flat, visits.visit.flat, strict=True))
    }
    third = np.split(found[103].codes, found[103].code_offsets[1:-1])
    wanted = [(103, 0), *((104, v) for v in range(5)), (105, 0), (105, 1)]
    for codes, key in zip(third, wanted, strict=True):
        np.testing.assert_array_equal(codes, np.flatnonzero(x[place[key]]))
