"""The diffusion of visits against enumeration: its bound, its sampler, what it learns."""

from __future__ import annotations

from functools import partial
from itertools import permutations, product
from math import comb

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from flax import nnx
from scipy import sparse, stats

from equipoise.balance import mcrage, plan_balance
from equipoise.balance.diffusion.config import DiffusionConfig
from equipoise.balance.diffusion.mcrage import (
    SAMPLED,
    Denoiser,
    Model,
    Rows,
    bound_covered,
    chances,
    cover,
    draw,
    fit,
    initialise,
    nats,
    train_step,
)
from equipoise.balance.diffusion.variables import Variables, variables_of
from equipoise.balance.rows import rows_of
from equipoise.cohort import Cohort, cohort_from_lists
from equipoise.errors import DataError
from equipoise.generator.network import taken_apart
from equipoise.vocabulary import Vocabulary
from generator_toys import random_weights
from toys import toy_cohort

SMALL = DiffusionConfig(width=32, layers=1, batch_rows=64, evaluate_every=50, learning_rate=3e-3)
SHORT = DiffusionConfig(width=16, layers=1, batch_rows=32, evaluate_every=10, max_steps=20)
Floats = npt.NDArray[np.float64]


def vocabulary(names: list[str], labs: dict[str, int]) -> Vocabulary:
    """Codes of these names, and so many bins of each lab."""
    codes = Vocabulary.of_codes(names).columns
    bins = [name for name, number in labs.items() for _ in range(number)]
    numbers = pl.Series("bin", [b for number in labs.values() for b in range(number)], pl.Int8)
    of_labs = Vocabulary.of_codes(bins, "lab").columns.with_columns(numbers)
    return Vocabulary(pl.concat([codes, of_labs]))


#: Two codes, a lab of two bins: 2 x 2 x 3 visits.
TINY = vocabulary(["A", "B"], {"L": 2})
SPACE = np.array([[*c, *b] for c in product([0, 1], [0, 1]) for b in ([0, 0], [1, 0], [0, 1])])


def variables(of: Vocabulary = TINY, X: npt.NDArray[np.int64] = SPACE) -> Variables:
    return variables_of(of, sparse.csr_array(X.astype(np.float32)))


def random_model(config: DiffusionConfig = SMALL, columns: int = 4, bits: int = 2) -> Model:
    """Log-odds of size 1 that depend on everything."""
    known = variables() if columns == 4 else variables(Vocabulary.of_codes(["C"] * columns))
    X = sparse.csr_array(np.zeros((1, columns), np.float32))
    graph, params = initialise(Rows(X, np.zeros((1, bits), np.float32)), known, config, 0)
    return Model(graph, random_weights(params, seed=3, spread=0.6), known, config, ())


def losses(model: Model, bits: list[float], known: tuple[int, ...]) -> Floats:
    """(12, D) nats of each variable of each visit of the space, these variables uncovered."""
    n = len(SPACE)
    mask = jnp.zeros((n, 3), bool).at[:, list(known)].set(True)
    x, given = jnp.asarray(SPACE > 0), jnp.tile(jnp.array(bits), (n, 1))
    denoiser: Denoiser = model.graph.with_weights(model.params)
    logits = denoiser(x, mask, given, jnp.asarray(model.variables.variable))
    return np.asarray(nats(logits, x, model.variables), np.float64)


def chains(model: Model, bits: list[float], steps: int) -> list[Floats]:
    """For each order of the variables, the nats of every visit, uncovered in so many steps."""
    ways = []
    for order in permutations(range(3)):
        total = np.zeros(len(SPACE))
        for step in range(steps):
            now = [v for rank, v in enumerate(order) if rank * steps // 3 == step]
            before = [v for rank, v in enumerate(order) if rank * steps // 3 < step]
            total += losses(model, bits, tuple(before))[:, now].sum(1)
        ways.append(total)
    return ways


def places(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Which visit of the space each row is; fails for one that cannot be."""
    same = (rows[:, None, :] == SPACE[None]).all(-1)
    assert same.any(1).all(), "a row outside the space"
    return same.argmax(1)


def test_bins_of_a_lab_are_one_variable_unless_the_data_say_otherwise() -> None:
    of = vocabulary(["A", "B"], {"K": 3, "L": 2, "M": 1})
    one = variables(of, np.eye(8, dtype=np.int64))
    assert one.codes.tolist() == [0, 1, 7]
    assert one.bins.tolist() == [[2, 3, 4], [5, 6, 8]]
    assert one.variable.tolist() == [0, 1, 3, 3, 3, 4, 4, 2]
    assert one.value.tolist() == [0, 0, 0, 1, 2, 0, 1, 0]
    two = variables(of, np.vstack([np.eye(8, dtype=np.int64), [[0, 0, 1, 0, 1, 0, 0, 0]]]))
    assert two.codes.tolist() == [0, 1, 2, 3, 4, 7]
    assert two.bins.tolist() == [[5, 6]]
    assert two.number == 7


def test_what_is_uncovered_is_a_distribution() -> None:
    """Of each variable, given any others, the probabilities of its values add up to 1."""
    model = random_model()
    for known in [(), (0,), (2,), (0, 1)]:
        left = [v for v in range(3) if v not in known]
        total = np.exp(-losses(model, [1, 0], known)[:, left].sum(1))
        for fixed in np.unique(SPACE[:, [0, 1, 2, 3]][:, _columns(known)], axis=0):
            alike = (SPACE[:, _columns(known)] == fixed).all(1)
            assert total[alike].sum() == pytest.approx(1, abs=1e-5)


def _columns(known: tuple[int, ...]) -> list[int]:
    return [c for c, v in enumerate([0, 1, 2, 2]) if v in known]


def test_the_bound_of_all_covers_is_the_mean_over_all_orders_step_by_step() -> None:
    model = random_model()
    x, bits = jnp.asarray(SPACE > 0), jnp.tile(jnp.array([0.0, 1.0]), (len(SPACE), 1))
    denoiser: Denoiser = model.graph.with_weights(model.params)
    closed = np.zeros(len(SPACE))
    for mask in product([False, True], repeat=3):
        covered = jnp.tile(jnp.array(mask), (len(SPACE), 1))
        chance = 1 / 4 / comb(3, sum(mask))
        closed += chance * np.asarray(
            bound_covered(denoiser, x, bits, model.variables, covered), np.float64
        )
    np.testing.assert_allclose(closed, np.mean(chains(model, [0.0, 1.0], 3), axis=0), rtol=1e-5)


def test_covers_are_even_over_how_many_and_over_which() -> None:
    keys = jax.random.split(jax.random.key(0), 1000)
    covered = np.asarray(jax.vmap(lambda key: cover(key, 8, 3))(keys)).reshape(-1, 3)
    counts = np.bincount(covered @ [1, 2, 4], minlength=8)
    want = np.array([1 / 4 / comb(3, bin(mask).count("1")) for mask in range(8)])
    # Rows share their shares evenly, so that counts vary even less than by chance.
    assert stats.chisquare(counts, want * counts.sum()).pvalue > 1e-3


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_steps_are_uncovered_in_every_order_alike(steps: int) -> None:
    keys = jax.random.split(jax.random.key(1), 6000)
    when = np.asarray(jax.vmap(lambda key: chances(key, variables(), steps))(keys).when)
    found, counts = np.unique(when, axis=0, return_counts=True)
    want = {tuple(rank * steps // 3 for rank in order) for order in permutations(range(3))}
    assert {tuple(row) for row in found.tolist()} == want
    if len(want) > 1:
        assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_sampler_draws_from_the_law_of_its_steps(steps: int) -> None:
    """All 12 visits, against the mean over orders of the products of conditionals."""
    config = DiffusionConfig(width=32, layers=1, reverse_steps=steps)
    model = random_model(config)
    n = 40 * SAMPLED
    bits = np.repeat(np.array([[1, 0], [0, 1]], np.float32), n // 2, axis=0)
    drawn = places(draw(model, bits, 5).toarray())
    for cell, part in (([1.0, 0.0], drawn[: n // 2]), ([0.0, 1.0], drawn[n // 2 :])):
        law = np.exp(-np.array(chains(model, cell, steps))).mean(0)
        assert law.sum() == pytest.approx(1, abs=1e-4)
        counts = np.bincount(part, minlength=len(SPACE))
        assert stats.chisquare(counts, law / law.sum() * len(part)).pvalue > 1e-3


def test_it_learns_the_law_of_each_condition() -> None:
    """Two laws over the space with strong dependence: total variation below 0.05 of each."""
    rng = np.random.default_rng(0)
    laws = rng.dirichlet(np.full(len(SPACE), 0.4), size=2)
    cell = np.repeat([0, 1], 4000)
    seen = np.concatenate([rng.choice(len(SPACE), 4000, p=law) for law in laws])
    X = sparse.csr_array(SPACE[seen].astype(np.float32))
    rows = Rows(X, np.eye(2, dtype=np.float32)[cell])
    some = np.arange(0, 8000, 8)
    tune = Rows(X[some], rows.bits[some])
    config = DiffusionConfig(width=32, layers=1, learning_rate=3e-3, max_steps=800, batch_rows=256)
    model = fit(rows, tune, variables(), config, seed=1)
    drawn = places(draw(model, rows.bits, 2).toarray())
    for of in (0, 1):
        real = np.bincount(seen[cell == of], minlength=len(SPACE)) / 4000
        made = np.bincount(drawn[cell == of], minlength=len(SPACE)) / 4000
        assert np.abs(real - made).sum() / 2 < 0.05
    assert np.abs(laws[0] - laws[1]).sum() / 2 > 0.3


def planted(subjects: int, seed: int) -> Cohort:
    """Column 0 in cell (true, F) alone, 1 and 2 never apart, 3 and 4 never together."""
    rng = np.random.default_rng(seed)
    label, sex = rng.random(subjects) < 0.3, rng.choice(["F", "M"], subjects)
    records = []
    for s in range(subjects):
        own = [0] if label[s] and sex[s] == "F" and rng.random() < 0.9 else []
        own += [1, 2] if rng.random() < 0.4 else []
        own += [3] if rng.random() < 0.5 else [4]
        records.append([own])
    frame = pl.DataFrame({"label": label, "sex": sex})
    return cohort_from_lists(records, frame, Vocabulary.of_codes([f"C{i}" for i in range(5)]))


def test_a_column_of_one_cell_stays_there() -> None:
    train, tuning = planted(1500, 0), planted(300, 1)
    new = mcrage(train, ["sex"], tuning=tuning, seed=0, config=SMALL)
    new = new.filter(new.subjects["synthetic"])
    X = new.matrix().toarray()
    own = (new.subjects["label"] & (new.subjects["sex"] == "F")).to_numpy()
    assert X[own, 0].mean() == pytest.approx(0.9, abs=0.07)
    assert X[~own, 0].mean() < 0.05
    assert (X[:, 1] != X[:, 2]).mean() < 0.03
    assert (X[:, 3] == X[:, 4]).mean() < 0.03


@pytest.fixture(scope="module")
def balanced() -> tuple[Cohort, Cohort]:
    train = toy_cohort(150)
    return train, mcrage(train, ["sex"], tuning=toy_cohort(40, seed=1), seed=4, config=SHORT)


def same(a: Cohort, b: Cohort) -> bool:
    return a.subjects.equals(b.subjects) and (
        a.codes.tobytes() + a.code_offsets.tobytes() == b.codes.tobytes() + b.code_offsets.tobytes()
    )


def test_real_subjects_come_first_and_every_cell_is_filled(
    balanced: tuple[Cohort, Cohort],
) -> None:
    train, both = balanced
    assert same(both.take(np.arange(len(train))), train)
    assert both.subjects.group_by("label", "sex").len()["len"].n_unique() == 1
    new = both.filter(both.subjects["synthetic"])
    assert len(new) == plan_balance(train, ["sex"]).synthetic == len(new.visits)
    assert new.visits["label"].equals(new.subjects["label"])


def test_the_seed_decides(balanced: tuple[Cohort, Cohort]) -> None:
    train, both = balanced
    method = partial(mcrage, train, ["sex"], tuning=toy_cohort(40, seed=1), config=SHORT)
    assert same(method(seed=4), both)
    assert not same(method(seed=5), both)


def test_a_row_does_not_depend_on_its_company() -> None:
    model = random_model()
    bits = np.tile(np.array([[1, 0]], np.float32), (SAMPLED + 9, 1))
    whole = draw(model, bits, 0).toarray()
    assert np.array_equal(draw(model, bits[:7], 0).toarray(), whole[:7])
    others = bits.copy()
    others[1::2] = [0, 1]
    again = draw(model, others, 0).toarray()
    assert np.array_equal(again[::2], whole[::2])
    assert not np.array_equal(again[1::2], whole[1::2])
    assert len(np.unique(whole, axis=0)) > 4


def test_tuning_rows_tell_when_to_stop_and_are_not_learned_from() -> None:
    """One look at the last step: whatever the tuning rows are, the weights are the same."""
    X, cell = rows_of(toy_cohort(60), ["sex"])
    rows = Rows(X, np.eye(4, dtype=np.float32)[cell])
    of = variables_of(toy_cohort(60).vocabulary, X)
    config = DiffusionConfig(width=8, layers=1, max_steps=5)
    one, other = (
        fit(rows, Rows(X[part], rows.bits[part]), of, config, seed=0)
        for part in (slice(0, 20), slice(20, 40))
    )
    assert one.history != other.history
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True):
        assert np.array_equal(a, b)
    patient = DiffusionConfig(
        width=8, layers=1, learning_rate=0.3, evaluate_every=2, patience=2, max_steps=400
    )
    history = fit(rows, Rows(X[:20], rows.bits[:20]), of, patient, seed=0).history
    assert len(history) < 200
    assert len(history) - 1 - int(np.argmin(history)) == 2


def test_a_cell_of_one_subject_borrows_from_the_others() -> None:
    """Its rows are not that subject's again and again, and its label's columns are there."""
    train = toy_cohort(300, seed=2, max_visits=1)
    positives = np.flatnonzero(
        (train.subjects["label"] & (train.subjects["sex"] == "M")).to_numpy()
    )
    keep = np.ones(len(train), bool)
    keep[positives[1:]] = False
    train = train.filter(keep)
    both = mcrage(train, ["sex"], tuning=toy_cohort(60, seed=3), seed=0, config=SMALL)
    new = both.filter(
        both.subjects["synthetic"] & both.subjects["label"] & (both.subjects["sex"] == "M")
    )
    X = new.matrix().toarray()
    assert len(np.unique(X, axis=0)) > 50
    # Given by a label: 0.58 of the first three columns, against 0.08.
    assert X[:, :3].mean() > 0.3


def test_what_cannot_be_learned_from_is_refused() -> None:
    train = toy_cohort(60)
    method = partial(mcrage, train, ["sex"], seed=0)
    with pytest.raises(DataError, match=r"tuning: want visits .* got 0 such visits, 24 columns"):
        method(tuning=train.take(np.arange(0)), config=SHORT)
    with pytest.raises(DataError, match="tuning: want the vocabulary of train; got another"):
        method(tuning=toy_cohort(20, columns=25), config=SHORT)
    wild = DiffusionConfig(width=8, layers=1, max_steps=4, learning_rate=1e30)
    with pytest.raises(DataError, match=r"finite likelihood .* at step 4, with learning rate 1e"):
        method(tuning=train, config=wild)
    for name, value in (("width", 0), ("layers", 1.5), ("learning_rate", float("nan"))):
        with pytest.raises(DataError, match=f"DiffusionConfig, column {name}: want a"):
            DiffusionConfig(**{name: value})
    assert mcrage(train, ["sex"], tuning=train, seed=0, ratio=0.0) is train


def test_a_step_of_ten_thousand_columns_takes_a_few_hundred_megabytes() -> None:
    """What XLA plans to allocate, without allocating it: weights, moments, average; a batch."""
    columns, rows = 9671, 20_000
    config = DiffusionConfig.for_rows(rows, columns)
    of = variables(Vocabulary.of_codes(["C"] * columns), np.zeros((1, columns), np.int64))
    empty = nnx.eval_shape(lambda: Denoiser(columns, columns, 8, config))
    graph, params = taken_apart(empty)
    from equipoise.balance.diffusion.mcrage import _OPTIMISER

    moments = jax.eval_shape(_OPTIMISER.start, params)
    batch = (config.batch_rows, columns), (config.batch_rows, 8)
    x, bits = jax.ShapeDtypeStruct(batch[0], bool), jax.ShapeDtypeStruct(batch[1], np.float32)
    lowered = train_step.lower(graph, 1e-3, params, moments, of, jax.random.key(0), x, bits)
    plan = lowered.compile().memory_analysis()
    weights = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert weights == pytest.approx(3 * columns * config.width, rel=0.05)
    # Weights, two moments and the average stay; gradient and updates pass, and a batch's rows.
    bound = 4 * (8 * weights + 12 * config.batch_rows * columns)
    assert plan.argument_size_in_bytes + plan.temp_size_in_bytes < bound < 0.35e9
