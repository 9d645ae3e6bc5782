"""The fine head: order, normalisation, exact sampling."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from equipoise.generator import GeneratorConfig, in_core
from equipoise.generator.from_halo import head_arrays
from equipoise.generator.head import Head
from equipoise.generator.lanes import thresholds
from equipoise.generator.nade import BlockHead
from equipoise.generator.network import named_arrays
from equipoise.generator.sizes import blocks_of, round_up
from equipoise.generator.triangle import HaloHead
from generator_toys import random_weights

KINDS = {
    "block": lambda blocks, size: BlockHead(blocks, size, width=8, hidden=16),
    "halo": lambda blocks, size: HaloHead(blocks, size, width=8),
}
both = pytest.mark.parametrize("kind", KINDS)


def random_head(
    tokens: int, block: int, seed: int = 0, spread: float = 0.4, kind: str = "block"
) -> Head:
    """At least so many tokens, in blocks of at most so many."""
    head = nnx.eval_shape(lambda: KINDS[kind](*blocks_of(tokens, block)))
    graph, shapes = nnx.split(head)
    return nnx.merge(graph, random_weights(shapes, seed, spread))


def one_code_at_a_time(head: Head, h_ND: jax.Array, threshold_NV: jax.Array) -> np.ndarray:
    """The sampler's meaning, in so many words."""
    logits = jax.jit(lambda head, h, x: head.logits(h, x))
    x_NV = np.zeros(threshold_NV.shape, bool)
    for code in range(head.tokens):
        x_NV[:, code] = np.asarray(logits(head, h_ND, x_NV)[:, code] > threshold_NV[:, code])
    return x_NV


@both
@pytest.mark.parametrize("block", [1, 3, 7, 100])
def test_no_logit_sees_its_own_or_a_later_code(kind, block):
    head = random_head(7, block, kind=kind)
    tokens = head.tokens
    # Many histories, for some units rest at any one of them.
    h_ND = jax.random.normal(jax.random.key(1), (32, 8))

    def logits(x_V):
        return head.logits(h_ND, jnp.broadcast_to(x_V, (32, tokens))).sum(axis=0)

    slope_VV = jax.jit(jax.jacrev(logits))(jnp.full(tokens, 0.5))
    assert np.all(np.triu(slope_VV) == 0)
    assert np.all(slope_VV[np.tril_indices(tokens, -1)] != 0)


@both
@pytest.mark.parametrize("block", [2, 4, 6])
def test_probabilities_of_all_visits_sum_to_one(kind, block):
    head = random_head(6, block, kind=kind)
    x_NV = jnp.array(list(itertools.product([0, 1], repeat=6)), jnp.float32)
    x_NV = jnp.pad(x_NV, ((0, 0), (0, head.tokens - 6)))
    bias_V = jnp.where(jnp.arange(head.tokens) < 6, head.bias_GB[...].ravel(), -jnp.inf)
    head.bias_GB[...] = bias_V.reshape(head.bias_GB.shape)
    logits_NV = np.asarray(head.logits(jnp.ones((64, 8)), x_NV), np.float64)[:, :6]
    on_NV = np.asarray(x_NV[:, :6], bool)
    nats_N = np.where(on_NV, -np.log1p(np.exp(-logits_NV)), -np.log1p(np.exp(logits_NV))).sum(1)
    assert np.exp(nats_N).sum() == pytest.approx(1, abs=1e-5)


@both
@pytest.mark.parametrize("by", ["sample", "sample_by_xla"])
@pytest.mark.parametrize(("tokens", "block"), [(7, 3), (50, 16), (50, 64)])
def test_sampler_equals_one_code_at_a_time(kind, by, tokens, block):
    head = random_head(tokens, block, kind=kind, spread=0.6)
    h_ND = jax.random.normal(jax.random.key(1), (256, 8))
    visit_N = jnp.arange(256)
    tokens = head.tokens
    threshold_NV = thresholds(jax.random.key(2), visit_N, visit_N, tokens)
    x_NV = np.asarray(jax.jit(lambda head, h, t: getattr(head, by)(h, t))(head, h_ND, threshold_NV))
    np.testing.assert_array_equal(x_NV, one_code_at_a_time(head, h_ND, threshold_NV))
    alone_NV = np.asarray(head.logits(h_ND, jnp.zeros((256, tokens))) > threshold_NV)
    assert np.any(x_NV != alone_NV, axis=1).mean() > 0.2, "the codes must depend on each other"


@both
@pytest.mark.parametrize("bias", [-4.0, 0.0])
@pytest.mark.parametrize("visits", [1, 3, 64])
def test_the_core_draws_what_xla_draws(kind, bias, visits):
    """On a CPU it draws instead of it, sparse visits as those of very many codes."""
    head = random_head(240, 24, spread=0.15, kind=kind)
    head.bias_GB[...] = (head.bias_GB[...] + bias).at[:, 5].set(-jnp.inf)
    h_ND = jax.random.normal(jax.random.key(1), (visits, 8))
    visit_N = jnp.arange(visits)
    threshold_NV = thresholds(jax.random.key(2), visit_N, visit_N, head.tokens)
    draw = jax.jit(lambda head, h, t: head.sample(h, t))
    assert f"equipoise_{kind}_sample" in draw.lower(head, h_ND, threshold_NV).as_text()
    x_NV = np.asarray(draw(head, h_ND, threshold_NV))
    by_xla = jax.jit(lambda head, h, t: head.sample_by_xla(h, t))
    np.testing.assert_array_equal(x_NV, by_xla(head, h_ND, threshold_NV))
    np.testing.assert_array_equal(x_NV, one_code_at_a_time(head, h_ND, threshold_NV))


@both
def test_who_has_no_number_has_no_codes(kind):
    """As by XLA, though biases alone would give some: trouble must not look like a visit."""
    head = random_head(24, 8, kind=kind)
    h_ND = jnp.ones((3, 8)).at[1, 2].set(jnp.nan)
    for by in ("sample", "sample_by_xla"):
        x_NV = np.asarray(getattr(head, by)(h_ND, jnp.zeros((3, head.tokens))))
        assert x_NV.any(axis=1).tolist() == [True, False, True], by


@both
def test_without_the_core_xla_draws(monkeypatch, kind):
    monkeypatch.setattr(in_core, "_registered", lambda target: False)
    head = random_head(7, 3, kind=kind)
    arrays = jnp.ones((2, 8)), jnp.zeros((2, head.tokens))
    lowered = jax.jit(lambda head, h, t: head.sample(h, t)).lower(head, *arrays)
    assert "equipoise" not in lowered.as_text()


@pytest.mark.parametrize("by", ["sample", "sample_by_xla"])
def test_a_long_chain_within_a_block_settles(by):
    """Every code switches the next one on: the fixed point needs as many rounds as codes."""
    head = random_head(64, 64, spread=0.0)
    head.bias_GB[...] = jnp.full((1, 64), -5.0).at[0, 0].set(5.0)
    head.direct_GBB[...] = 10 * jnp.eye(64, k=1)[None]
    assert np.all(np.asarray(getattr(head, by)(jnp.ones((2, 8)), jnp.zeros((2, 64)))))


def test_sizes_are_few_and_little_is_padding():
    sizes = {round_up(size, 2) for size in range(1, 1000)}
    assert len(sizes) == 20
    for steps in (1, 2, 4):
        for size in range(1, 1000):
            assert size <= round_up(size, steps) < size * (1 + 1 / steps)
    assert blocks_of(25, 128) == (1, 32)
    assert blocks_of(1064, 128) == blocks_of(1187, 128) == (10, 128)


def test_thresholds_are_the_logits_of_uniforms():
    lane = jnp.arange(200)
    threshold_LV = thresholds(jax.random.key(0), lane, lane % 3, 500)
    u = np.sort(1 / (1 + np.exp(-np.asarray(threshold_LV, np.float64).ravel())))
    assert np.abs(u - (np.arange(u.size) + 0.5) / u.size).max() < 1.95 / np.sqrt(u.size)
    assert len(np.unique(threshold_LV[:, 0])) == 200


def code_by_code(state: dict[str, np.ndarray], h_ND: np.ndarray, threshold_NV: np.ndarray):
    """HALO's visits from its own two layers, drawn one column at a time."""
    width = h_ND.shape[1]
    (one, two), (first, second) = (
        [np.float64(state[f"ehr_head.auto{layer}.{kind}"]) for layer in (1, 2)]
        for kind in ("weight", "bias")
    )
    one, two = np.tril(one), np.tril(two)
    x_NV = np.zeros(threshold_NV.shape, bool)
    for column in range(x_NV.shape[1]):
        units = slice(width + column)
        hidden = np.concatenate([h_ND, x_NV[:, :column]], axis=1) @ one[units, units].T
        hidden = np.maximum(hidden + first[units], 0)
        row = width - 1 + column
        logit_N = hidden[:, : row + 1] @ two[row, : row + 1] + second[row]
        x_NV[:, column] = logit_N > threshold_NV[:, column]
    return x_NV


@pytest.mark.slow
def test_ten_thousand_visits_are_those_of_halo_drawn_code_by_code():
    """In double precision not one differs, from HALO's weights through the packed triangles."""
    codes, bits, width, visits = 120, 3, 8, 10_000
    rng = np.random.default_rng(7)
    size = width + codes + bits + 3
    state = {}
    for layer in ("ehr_head.auto1.", "ehr_head.auto2."):
        state[layer + "weight"] = np.float32(rng.standard_normal((size, size)) * 0.3)
        state[layer + "bias"] = np.float32(rng.standard_normal(size) * 0.3)
    state["ehr_head.auto2.bias"][width - 1 :] -= 3
    state["ehr_head.auto2.bias"][width - 1 + codes : -2] = -1e3  # label bits and start
    config = GeneratorConfig(width=width, heads=1, head="halo", block=16, spare_tokens=bits + 1)
    h_ND = rng.standard_normal((visits, width))
    threshold_NV = rng.logistic(size=(visits, codes + bits + 3))
    kept = [*range(codes), -2]
    with jax.enable_x64(True):
        empty = nnx.eval_shape(lambda: HaloHead(*config.blocks(codes), width=width))
        graph, shapes = nnx.split(empty)
        arrays = head_arrays(state, codes, config)
        leaves = [jnp.asarray(arrays[f"head.{name}"], float) for name in named_arrays(shapes)]
        head = nnx.merge(graph, jax.tree.unflatten(jax.tree.structure(shapes), leaves))
        given_NV = np.zeros((visits, head.tokens))
        given_NV[:, [*range(codes), -1]] = threshold_NV[:, kept]
        x_NV = np.asarray(jax.jit(lambda head, h, t: head.sample(h, t))(head, h_ND, given_NV))
    want_NV = code_by_code(state, h_ND, threshold_NV)
    assert 5 < want_NV.sum(axis=1).mean() < 60
    np.testing.assert_array_equal(x_NV[:, [*range(codes), -1]], want_NV[:, kept])
