"""One step of the optimiser, and the average over steps, by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise.generator.network import named_arrays, outline
from equipoise.generator.optimiser import Optimiser, averaged
from generator_toys import SMALL, random_weights

PLAIN = Optimiser(clip_norm=0.0, weight_decay=0.0)


@pytest.fixture
def params():
    return random_weights(outline(6, 8, SMALL)[1])


def stepped(params, steps: int, rate: float = 1e-3):
    """Weights before and after each step along gradients of one sign, and the last moments."""
    step, moments, course = jax.jit(PLAIN.step), PLAIN.start(params), [params]
    gradient = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.3), params)
    for _ in range(steps):
        after, moments = step(course[-1], moments, gradient, jnp.asarray(rate))
        course.append(after)
    return course, moments


def test_log_odds_go_ten_times_as_far(params):
    (before, after), _ = stepped(params, 1)
    moved = jax.tree.map(lambda a, b: np.asarray(a - b), before, after)
    for name, by in named_arrays(moved).items():
        far = name in ("head.direct_GBB", "head.bias_GB")
        assert by == pytest.approx(1e-2 if far else 1e-3, rel=1e-2), name


def test_the_average_is_that_of_the_weights_after_each_step(params):
    bias = params["head"]["bias_GB"]
    bias.set_value(bias[...].at[0, 0].set(-jnp.inf))
    (_, *course), moments = stepped(params, 5)
    share = np.array([0.99**age for age in reversed(range(5))])
    leaves = [jax.tree.leaves(after) for after in course]
    for got, *after in zip(jax.tree.leaves(averaged(moments.average, 5)), *leaves, strict=True):
        want = np.average(np.array(after), axis=0, weights=share)
        assert np.asarray(got) == pytest.approx(want, rel=1e-4, abs=1e-6)
    assert np.isneginf(averaged(moments.average, 5)["head"]["bias_GB"][0, 0])
