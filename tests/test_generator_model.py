"""The coarse decoder, and the likelihood of the whole network."""

from __future__ import annotations

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from scipy import stats

from equipoise.cohort import cohort_from_lists
from equipoise.generator import Generator, GeneratorConfig, log_likelihood
from equipoise.generator.batches import Shape, batches, last_visits
from equipoise.generator.model import PADDING, Layout, gather_sum
from equipoise.generator.network import (
    end_token,
    multi_hot,
    outline,
    replaced,
    visit_nats,
)
from generator_toys import SMALL, batch_of, random_generator


@pytest.fixture(scope="module")
def generator():
    return random_generator()


@pytest.fixture(scope="module")
def halo(generator):
    return generator.graph.with_weights(generator.params)


#: Two subjects; with their end markers some visits need two lists.
RECORDS = [[[0, 3], [1], []], [[0, 1, 2, 3, 4, 5], [5]]]
TIGHT = Shape(rows=2, longest=3, visits=5, lists=5, benches=2)


@pytest.mark.parametrize("benches", [2, 1])
def test_no_visit_sees_itself_or_a_later_visit_or_another_subject(generator, halo, benches):
    """Also where both subjects sit on one bench."""
    shape = TIGHT if benches == 2 else TIGHT._replace(longest=5, benches=1)
    batch = batch_of(generator, RECORDS, "FM", "01", shape)
    assert (batch.grid != PADDING).any(axis=1).all()
    layout = Layout.of(jnp.asarray(batch.grid), jnp.asarray(batch.place))
    rows_RD = jax.random.normal(jax.random.key(0), (6, 16))
    decode = jax.jit(jax.jacrev(lambda rows: halo.coarse.decode(rows, layout).sum(-1)))
    seen = np.abs(decode(rows_RD)).sum(-1) > 0
    # Rows: the start, and what precedes each of three visits and of two.
    want = ["110000", "111000", "111100", "100010", "100011"]
    np.testing.assert_array_equal(seen, [[bit == "1" for bit in row] for row in want])


def test_step_by_step_equals_the_whole(generator, halo):
    records = [[[0, 3], [1], [2, 4, 5], [0, 1]], [[5], [1], [2, 4, 5], []], [[0], [], [2], [3]]]
    shape = Shape(rows=3, longest=4, visits=12, lists=16, benches=3)
    batch = batch_of(generator, records, "FFM", "110", shape)

    @jax.jit
    def whole(halo, batch):
        visits_ND = halo.coarse.embed_lists(batch.owner, batch.codes, 12)
        rows_RD = halo.coarse.embed(batch.conditions, visits_ND, batch.place, 4)
        return halo.coarse(batch.conditions, visits_ND, batch.grid, batch.place), rows_RD

    want_ND, rows_RD = whole(halo, batch)
    want_BTD, rows_BTD = (x_ND.reshape(3, 4, -1) for x_ND in (want_ND, rows_RD[1:]))
    step = jax.jit(lambda halo, *state: halo.coarse.step(*state))
    memories = jax.jit(lambda halo: halo.coarse.remember_start(3))(halo)
    # What an earlier subject left behind in a lane must not be seen.
    memories = jax.tree.map(lambda m: m.at[:, :, 1:].set(7.0), memories)
    for visit in range(4):
        at_L = jnp.full(3, visit + 1)
        h_LD, memories = step(halo, rows_BTD[:, visit], at_L, memories)
        np.testing.assert_allclose(h_LD, want_BTD[:, visit], atol=1e-5)


def test_visit_embeddings_agree(generator, halo):
    batch = batch_of(generator, RECORDS, "FM", "01", TIGHT)
    want = halo.coarse.embed_lists(jnp.asarray(batch.owner), jnp.asarray(batch.codes), 5)
    x_LV = np.zeros((5, 8))
    for row, codes in enumerate(codes for record in RECORDS for codes in record):
        x_LV[row, codes] = 1
    np.testing.assert_allclose(halo.coarse.embed_visit(jnp.asarray(x_LV)), want, atol=1e-6)


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


def test_padding_changes_no_likelihood(generator):
    want = visit_nats(
        generator.graph, generator.params, batch_of(generator, RECORDS, "FM", "01", TIGHT)
    )
    assert np.all(want[0] < 0)
    assert want[1, 2] == 0
    roomy = Shape(rows=7, longest=4, visits=19, lists=23, benches=5)
    batch = batch_of(generator, RECORDS, "FM", "01", roomy)
    got = visit_nats(generator.graph, generator.params, batch)
    np.testing.assert_allclose(got[:2, :3], want, rtol=1e-5)
    assert np.all(np.asarray(got[2:]) == 0)
    assert np.all(np.asarray(got[:, 3]) == 0)


def test_company_on_a_bench_changes_no_likelihood(generator):
    records = [*RECORDS, [[4], [2], [1, 2], [0]]]
    alone, shared = (
        Shape(rows=3, longest=longest, visits=9, lists=12, benches=benches)
        for longest, benches in ((4, 3), (10, 1))
    )
    one, other = (
        visit_nats(generator.graph, generator.params, batch_of(generator, records, "FMM", "010", s))
        for s in (alone, shared)
    )
    assert np.all(one[2] < 0)
    np.testing.assert_allclose(other[:, :4], one, rtol=1e-5)
    assert np.all(np.asarray(other[:, 4:]) == 0)


def test_a_visit_of_many_codes_has_several_lists():
    generator = random_generator(60)
    records = [[list(range(40)), [3]], [list(range(15))]]
    shape = Shape(rows=2, longest=2, visits=3, lists=6, benches=2)
    batch = batch_of(generator, records, "FM", "01", shape)
    assert batch.owner.tolist() == [0, 0, 0, 1, 2, PADDING]
    x_NV = multi_hot(jnp.asarray(batch.owner), jnp.asarray(batch.codes), (3, 72))
    end = end_token(60, SMALL)
    want = [list(range(40)), [3, end], [*range(15), end]]
    assert [np.flatnonzero(row).tolist() for row in np.asarray(x_NV)] == want


@pytest.mark.parametrize("unused", [2, 3])
def test_unused_tokens_have_no_nats_and_no_gradient(unused):
    """Six codes have nine places, of which the last is the end's, unused if it is told before."""
    end_first = unused == 3
    generator = random_generator(config=replace(SMALL, layers=1, end_first=end_first))
    batch = batch_of(generator, RECORDS, "FM", "01", TIGHT)

    @jax.jit
    @jax.value_and_grad
    def nats(params):
        return generator.graph.with_weights(params).log_likelihood(*map(jnp.asarray, batch)).sum()

    total, gradient = nats(generator.params)
    head, slope = generator.params["head"], gradient["head"]
    np.testing.assert_array_equal(
        np.isneginf(head["bias_GB"][...]).ravel(), [0] * 6 + [1, 1, unused == 3]
    )
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))
    for name, axis in (("bias_GB", 1), ("write_GHB", 2), ("direct_GBB", 2), ("code_GBH", 1)):
        idle = np.take(slope[name][...][2], range(unused), axis=axis - 1)
        assert np.all(np.asarray(idle) == 0), name
    changed = jax.tree.map(lambda leaf: leaf, generator.params)
    changed["head"]["write_GHB"] = head["write_GHB"].at[2, :, :unused].add(100.0)
    changed["head"]["code_GBH"] = head["code_GBH"].at[2, :unused].add(100.0)
    assert nats(changed)[0] == total


def test_vocabularies_of_one_class_share_what_is_compiled():
    config = GeneratorConfig()
    one, two = (outline(codes, 8, config) for codes in (2600, 2700))
    assert one[0] == two[0]
    assert hash(one[0]) == hash(two[0])
    assert one[1] == two[1]
    assert outline(5000, 8, config)[1] != one[1]


def all_records(codes: int, most: int) -> list[list[list[int]]]:
    visits = [np.flatnonzero(x).tolist() for x in itertools.product([0, 1], repeat=codes)]
    return [
        list(record)
        for length in range(1, most + 1)
        for record in itertools.product(visits, repeat=length)
    ]


@pytest.mark.parametrize("end_first", [True, False])
def test_probabilities_of_all_records_sum_to_one(end_first):
    config = GeneratorConfig(
        width=16, layers=1, heads=2, head_hidden=8, block=3, max_visits=2, batch_subjects=512,
        end_first=end_first,
    )  # fmt: skip
    generator = random_generator(3, config)
    records = all_records(3, 2)
    subjects = pl.DataFrame({"label": [True] * len(records), "sex": ["M"] * len(records)})
    cohort = cohort_from_lists(records, subjects, generator.vocabulary)
    assert np.exp(log_likelihood(generator, cohort)).sum() == pytest.approx(1, abs=1e-5)


def test_codes_of_a_last_visit_know_that_it_is_one_and_of_which_label():
    generator = random_generator(config=replace(SMALL, max_visits=2))
    halo = generator.graph.with_weights(generator.params)
    subjects = pl.DataFrame({"label": [True, False], "sex": ["M", "M"]})
    condition_NK = generator.conditions.encode(subjects)
    h_ND, open_NV = jnp.zeros((2, 16)), jnp.zeros((2, halo.head.tokens), bool)
    others_NV, last_NV = (
        np.asarray(halo._logits(h_ND, x_NV, condition_NK))[:, :6]
        for x_NV in (open_NV, open_NV.at[:, -1].set(True))
    )
    np.testing.assert_array_equal(others_NV[0], others_NV[1])
    assert np.all(last_NV != others_NV) and np.all(last_NV[0] != last_NV[1])


def with_systems(generator: Generator, system_of_code: list[int]) -> Generator:
    """The same with those systems of codes."""
    member_VS = np.zeros_like(generator.params["systems"]["member_VS"])
    for code, system in enumerate(system_of_code):
        member_VS[code, system] = system >= 0
    return replace(generator, params=replaced(generator.params, {"systems.member_VS": member_VS}))


@pytest.mark.parametrize("end_first", [True, False])
@pytest.mark.parametrize("head", ["block", "halo"])
def test_a_visit_of_told_systems_is_drawn_as_its_probability_says(head, end_first):
    """All of three codes (one in each system, one in none), two systems and the end: 64 visits."""
    config = replace(SMALL, head=head, end_first=end_first, systems=2)
    generator = with_systems(random_generator(3, config, seed=3), [0, 1, -1])
    halo = generator.graph.with_weights(generator.params)
    V, lanes = halo.head.tokens, 40_000
    used = [0, 1, 2, V - 3, V - 2, V - 1]
    x_NV = np.zeros((64, V), bool)
    x_NV[:, used] = list(itertools.product([False, True], repeat=6))
    subjects = pl.DataFrame({"label": [True] * lanes, "sex": ["M"] * lanes})
    condition_LK = generator.conditions.encode(subjects)
    h_LD = jnp.broadcast_to(np.random.default_rng(0).normal(size=16), (lanes, 16))
    logits_NV = np.asarray(halo._logits(h_LD[:64], jnp.asarray(x_NV), condition_LK[:64]))
    with np.errstate(invalid="ignore"):
        nats_NV = np.where(x_NV, logits_NV, 0) - np.logaddexp(logits_NV, 0)
    probability_N = np.exp(nats_NV.sum(axis=1))
    assert probability_N.sum() == pytest.approx(1, abs=1e-5)
    closed_N = (x_NV[:, 0] & ~x_NV[:, V - 3]) | (x_NV[:, 1] & ~x_NV[:, V - 2])
    assert np.all(probability_N[closed_N] == 0)

    threshold_LV = jax.random.logistic(jax.random.key(1), (lanes, V))
    drawn_LV, last_L = halo.draw(h_LD, threshold_LV, jnp.zeros(lanes, int), condition_LK)
    kind_L = np.asarray(drawn_LV)[:, :3] @ [1, 2, 4] + 8 * np.asarray(last_L)
    kind_N = x_NV[:, :3] @ [1, 2, 4] + 8 * x_NV[:, -1]
    expected = lanes * np.bincount(kind_N, probability_N, minlength=16)
    seen = np.bincount(kind_L, minlength=16)
    assert stats.chisquare(seen, expected * lanes / expected.sum()).pvalue > 1e-3


def test_nothing_is_told_where_records_have_one_visit():
    assert "ending" in random_generator().params
    assert "ending" not in random_generator(config=replace(SMALL, max_visits=1)).params
    assert "ending" not in random_generator(config=replace(SMALL, end_first=False)).params


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


def test_batches_hold_everyone_once():
    rng = np.random.default_rng(0)
    records = [[[0, 1]] * rng.integers(1, 9) for _ in range(400)]
    records[7] = [list(range(500)), [3]]
    subjects = pl.DataFrame({"label": [True] * 400, "sex": ["F"] * 400})
    generator = random_generator(600)
    cohort = cohort_from_lists(records, subjects, generator.vocabulary)
    seen, shapes = [], set()
    for places, batch in batches(cohort, generator.conditions, 8, 8, 602):
        shapes.add(tuple(array.shape for array in batch))
        for place, subject in enumerate(places):
            visits_N = np.sort(batch.grid[batch.grid != PADDING])
            of_subject = visits_N[batch.place[visits_N] // 8 == place]
            visits = [batch.codes[batch.owner == n] for n in of_subject]
            lists = [lists[lists != PADDING].tolist() for lists in visits]
            assert lists[-1].pop() == 602
            assert lists == records[subject]
            # They are neighbours on their bench, in order.
            bench, seat = np.nonzero(np.isin(batch.grid, of_subject))
            assert set(np.diff(bench)) <= {0}
            assert set(np.diff(seat)) <= {1}
            assert batch.grid[bench, seat].tolist() == of_subject.tolist()
            seen.append(subject)
    assert len(shapes) == 1
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
