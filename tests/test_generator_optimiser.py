"""One step of the optimiser, and the average over steps, by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise.generator.network import named_arrays, outline
from equipoise.generator.optimiser import Optimiser, averaged, share_of
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
        far = name in ("head.direct_GBB", "head.bias_GB", "ending.bias_1")
        assert by == pytest.approx(1e-2 if far else 1e-3, rel=1e-2), name


@pytest.mark.parametrize("marks", [[1, 2, 3, 4, 5], [2, 5]])
def test_the_average_is_that_of_the_weights_after_each_step(params, marks):
    """Those of step t count as t^9, and stand for the steps since the last that was taken."""
    silenced = params["head"]["bias_GB"].at[0, 0].set(-jnp.inf)
    params = params | {"head": params["head"] | {"bias_GB": silenced}}
    course, moments = stepped(params, 5)
    average, before = moments.average, 0
    for step in marks:
        average = averaged(average, course[step], jnp.asarray(share_of(step, step - before)))
        before = step
    share = np.diff(np.array([0, *marks]) ** 10.0) / 5.0**10
    leaves = [jax.tree.leaves(course[step]) for step in marks]
    for got, *after in zip(jax.tree.leaves(average), *leaves, strict=True):
        want = np.average(np.array(after), axis=0, weights=share)
        assert np.asarray(got) == pytest.approx(want, rel=1e-4, abs=1e-6)
    assert np.isneginf(average["head"]["bias_GB"][0, 0])
