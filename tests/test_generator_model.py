"""The coarse decoder, and the likelihood of the whole network."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from flax import nnx

from equipoise.cohort import cohort_from_lists
from equipoise.generator import GeneratorConfig, log_likelihood
from equipoise.generator.batches import batches, bucket, last_visits
from equipoise.generator.model import PADDING, gather_sum
from equipoise.generator.network import visit_nats
from generator_toys import SMALL, random_generator


@pytest.fixture(scope="module")
def halo():
    generator = random_generator()
    return nnx.merge(generator.graph, generator.params)


CODES = jnp.array([[[0, 3, PADDING], [1, PADDING, PADDING], [2, 4, 5], [0, 1, 6]]], jnp.int32)
CONDITION = jnp.array([[1.0, 0.0, 1.0]])


def test_no_visit_sees_itself_or_a_later_visit(halo):
    rows_BTD = halo.coarse.embed(CONDITION, CODES)
    decode = halo.coarse.decode
    slope = jax.jit(jax.jacrev(lambda rows: decode(rows)[0].sum(-1)))(rows_BTD)[:, 0]
    seen = np.abs(slope).sum(-1) > 0
    np.testing.assert_array_equal(seen, np.tri(4, 5, k=1, dtype=bool))
    changed = halo.coarse.embed(CONDITION, CODES.at[0, 2:].set(0))
    np.testing.assert_array_equal(changed[0, :4], rows_BTD[0, :4])
    assert not np.array_equal(changed[0, 4], rows_BTD[0, 4])


def test_step_by_step_equals_the_whole(halo):
    lanes = 3
    codes_BTC = jnp.tile(CODES, (lanes, 1, 1)).at[1, 0, 0].set(5)
    condition_BK = jnp.tile(CONDITION, (lanes, 1)).at[2, 0].set(0)
    want_BTD = jax.jit(lambda halo, *batch: halo.coarse(*batch))(halo, condition_BK, codes_BTC)
    rows_BTD = halo.coarse.embed(condition_BK, codes_BTC)
    step = jax.jit(lambda halo, *state: halo.coarse.step(*state))
    memories = jax.jit(lambda halo: halo.coarse.remember_start(lanes))(halo)
    # What an earlier subject left behind in a lane must not be seen.
    memories = jax.tree.map(lambda m: m.at[:, 1:].set(7.0), memories)
    for visit in range(4):
        at_L = jnp.full(lanes, visit + 1)
        h_LD, memories = step(halo, rows_BTD[:, visit + 1], at_L, memories)
        np.testing.assert_allclose(h_LD, want_BTD[:, visit], atol=1e-5)


def test_visit_embeddings_agree(halo):
    x_LV = jnp.array([[1, 0, 0, 1, 0, 0], [0, 1, 0, 0, 0, 0]])
    want = gather_sum(halo.coarse.codes_VD[...], CODES[0, :2])
    np.testing.assert_allclose(halo.coarse.embed_visit(x_LV), want, rtol=1e-6)


def test_gather_sum_has_the_gradient_of_take_and_sum():
    table_VD = jax.random.normal(jax.random.key(0), (5, 3))
    codes_NC = jnp.array([[0, 4, PADDING], [2, 2, 5], [PADDING] * 3])
    weight_ND = jnp.arange(9.0).reshape(3, 3)
    inside = (codes_NC < 5)[..., None]

    def plain(table):
        return (weight_ND * (table[jnp.minimum(codes_NC, 4)] * inside).sum(1)).sum()

    def ours(table):
        return (weight_ND * gather_sum(table, codes_NC)).sum()

    np.testing.assert_allclose(ours(table_VD), plain(table_VD), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(ours)(table_VD), jax.grad(plain)(table_VD), rtol=1e-6)


def test_padding_changes_no_likelihood():
    generator = random_generator()
    visits_B = jnp.array([3])
    want = visit_nats(generator.graph, generator.params, CONDITION, CODES[:, :3], visits_B)
    more_slots = jnp.pad(CODES[:, :3], ((0, 0), (0, 0), (0, 5)), constant_values=PADDING)
    got = visit_nats(generator.graph, generator.params, CONDITION, more_slots, visits_B)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    # The fourth visit holds codes: they too must count for nothing beyond `visits_B`.
    got = visit_nats(generator.graph, generator.params, CONDITION, CODES, visits_B)
    np.testing.assert_allclose(got[:, :3], want, rtol=1e-5)
    assert got[0, 3] == 0
    crowd = [
        jnp.concatenate([part, part[:1]] + [jnp.zeros_like(part)] * 3)
        for part in (CONDITION, CODES[:, :3], visits_B)
    ]
    got = visit_nats(generator.graph, generator.params, *crowd)
    np.testing.assert_allclose(got[:2], jnp.tile(want, (2, 1)), rtol=1e-5)
    assert np.all(np.asarray(got[2:]) == 0)


def all_records(codes: int, most: int) -> list[list[list[int]]]:
    visits = [np.flatnonzero(x).tolist() for x in itertools.product([0, 1], repeat=codes)]
    return [
        list(record)
        for length in range(1, most + 1)
        for record in itertools.product(visits, repeat=length)
    ]


def test_probabilities_of_all_records_sum_to_one():
    config = GeneratorConfig(
        width=16, layers=1, heads=2, head_hidden=8, block=2, max_visits=2, batch_subjects=512
    )
    generator = random_generator(3, config)
    records = all_records(3, 2)
    subjects = pl.DataFrame({"label": [True] * len(records), "sex": ["M"] * len(records)})
    cohort = cohort_from_lists(records, subjects, generator.vocabulary)
    assert np.exp(log_likelihood(generator, cohort)).sum() == pytest.approx(1, abs=1e-5)


def test_likelihood_says_nothing_where_nothing_can_be_said():
    generator = random_generator()
    records = [[[0]], [], [[1]], [[2]], [[3], [4]]]
    subjects = pl.DataFrame(
        {"label": [True, True, None, False, False], "sex": ["F", "F", "F", "?", "M"]}
    )
    cohort = cohort_from_lists(records, subjects, generator.vocabulary)
    nats = log_likelihood(generator, cohort)
    np.testing.assert_array_equal(np.isnan(nats), [False, True, True, True, False])
    assert nats.dtype == np.float64
    assert np.all(nats[[0, 4]] < 0)


def test_buckets_hold_everyone_once_and_put_outliers_apart():
    rng = np.random.default_rng(0)
    records = [[[0, 1]] * rng.integers(1, 9) for _ in range(400)]
    records[7] = [list(range(500)), [3]]
    subjects = pl.DataFrame({"label": [True] * 400, "sex": ["F"] * 400})
    generator = random_generator(600)
    cohort = cohort_from_lists(records, subjects, generator.vocabulary)
    buckets = bucket(cohort, 8)
    assert [b.codes for b in buckets] == [8, 8, 8, 504]
    assert [b.visits for b in buckets] == [2, 4, 8, 2]
    seen = []
    for places, batch in batches(cohort, generator.conditions, buckets, 8, rng):
        assert len(batch.visits) == 8
        for place, codes_TC, visits in zip(places, batch.codes, batch.visits, strict=False):
            lists = [row[row != PADDING].tolist() for row in codes_TC[:visits]]
            assert lists[-1].pop() == 600
            assert lists == records[place]
            seen.append(place)
        assert batch.visits[len(places) :].sum() == 0
    assert sorted(seen) == list(range(400))


def test_last_visits_are_kept():
    generator = random_generator()
    subjects = pl.DataFrame({"label": [True, False], "sex": ["F", "F"]})
    records = [[[0], [1], [2, 3]], [[4]]]
    cut = last_visits(cohort_from_lists(records, subjects, generator.vocabulary), 2)
    np.testing.assert_array_equal(cut.visit_offsets, [0, 2, 3])
    np.testing.assert_array_equal(cut.codes, [1, 2, 3, 4])
    assert cut.visits["label"].to_list() == [False, True, False]


def test_config_wants_heads_to_divide_the_width():
    with pytest.raises(ValueError, match="divisor of the width 16"):
        GeneratorConfig(width=16, heads=3)
    assert SMALL.width == 16
