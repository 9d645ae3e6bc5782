"""Steps of training: the optimiser's options, batches without padding, dropout, what goes wrong."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import polars as pl
import pytest

from equipoise.cohort import Cohort, cohort_from_lists
from equipoise.errors import DataError
from equipoise.generator import (
    GeneratorConfig,
    fitting,
    log_likelihood,
    sample,
    train_generator,
)
from equipoise.generator.batches import real_shares, shape_of
from equipoise.generator.conditions import Conditions
from equipoise.generator.dealing import Deck, deal
from equipoise.generator.optimiser import Optimiser, learning_rate
from equipoise.vocabulary import Vocabulary
from generator_toys import SMALL, ToyPlan, plan_of, random_generator
from toys import toy_cohort

BY = ["race", "sex"]
TINY = replace(SMALL, layers=1, max_steps=6, evaluate_every=2, learning_rate=1e-3)


def one_code(lengths: np.ndarray, codes: int = 3) -> Cohort:
    """Subjects of so many visits, each with the first code."""
    records = [[[0]] * length for length in lengths]
    subjects = pl.DataFrame({"label": np.arange(len(lengths)) % 2 == 0})
    return cohort_from_lists(
        records, subjects, Vocabulary.of_codes([f"C{i}" for i in range(codes)])
    )


@pytest.mark.parametrize("mean", [1.5, 2.3, 3.4])
@pytest.mark.parametrize(("rows", "parts"), [(16, 1), (64, 1), (64, 4)])
def test_little_is_computed_for_nothing(mean, rows, parts):
    """Visits as in MIMIC-IV: most subjects have one, few up to 20."""
    lengths = np.minimum(np.random.default_rng(0).geometric(1 / mean, 4000), 20)
    shares = real_shares(one_code(lengths), rows, 20, parts)
    assert 0.85 < shares.visits <= 1
    assert 0.5 < shares.attention <= 1


@pytest.mark.parametrize("parts", [1, 3])
def test_chunks_hold_everyone_once_in_all_lengths_and_other_company_each_time(parts):
    lengths = np.random.default_rng(1).integers(1, 9, 203)
    cohort = one_code(lengths)
    deck = Deck.of(cohort, 32, parts)
    shape = shape_of(cohort, deck, 8)
    one, two = (deal(deck, np.random.default_rng(seed)) for seed in (0, 1))
    for hands in (one, two):
        assert sorted(np.concatenate([hand.subjects for hand in hands])) == list(range(203))
        assert len(hands) == 7
        visits = [lengths[hand.subjects].sum() for hand in hands]
        assert max(visits) - min(visits) <= 1
        for hand in hands:
            assert {1, 8} <= set(lengths[hand.subjects])
            of_parts = np.bincount(hand.part, lengths[hand.subjects], parts)
            assert of_parts.max() - of_parts.min() <= 8
            assert of_parts.max() <= shape.visits
    assert {frozenset(hand.subjects) for hand in one} != {frozenset(hand.subjects) for hand in two}


def test_the_schedule_is_that_of_optax():
    config = replace(TINY, schedule="cosine", warmup_steps=10, max_steps=50)
    wanted = optax.warmup_cosine_decay_schedule(0, config.learning_rate, 10, 50)
    for step in (1, 9, 10, 11, 30, 50):
        assert learning_rate(config, step) == pytest.approx(float(wanted(step)), abs=1e-9)
    constant = replace(config, schedule="constant")
    assert [learning_rate(constant, step) for step in (5, 10, 49)] == [5e-4, 1e-3, 1e-3]


def test_a_step_is_that_of_adamw_after_clipping():
    names = ("head.bias_GB", "coarse.condition_KD", "norm.scale", "head.write_GHB", "feed.kernel")
    params = {name: jnp.full(3, 0.5) for name in names}
    gradient = {name: jnp.full(3, 3.0) for name in names}
    optimiser = Optimiser(clip_norm=1.0, weight_decay=0.1)
    after, _ = optimiser.step(params, optimiser.start(params), gradient, jnp.asarray(0.01))
    for adam, multiplied in (
        (optax.adam(0.01), False),
        (optax.adamw(0.01, weight_decay=0.1), True),
    ):
        wanted = optax.chain(optax.clip_by_global_norm(1.0), adam)
        update, _ = wanted.update(gradient, wanted.init(params), params)
        for name in names[3:] if multiplied else names[:3]:
            times = 10 if name == "head.bias_GB" else 1  # log-odds take longer steps
            wanted_3 = params[name] + times * update[name]
            np.testing.assert_allclose(after[name], wanted_3, rtol=1e-6)
    free, _ = Optimiser(0, 0).step(params, Optimiser(0, 0).start(params), gradient, 0.01)
    assert not np.array_equal(free[names[3]], after[names[3]])
    # Adam's first step is as long whatever the gradient.
    np.testing.assert_allclose(free[names[0]], after[names[0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dtype", "float16"),
        ("schedule", "linear"),
        ("condition_dropout", 1.0),
        ("clip_norm", -1.0),
        ("warmup_steps", "many"),
        ("learning_rate", float("nan")),
        ("width", 0),
        ("width", 64.0),
        ("batch_subjects", 4.5),
    ],
)
def test_a_wrong_setting_is_named(name, value):
    with pytest.raises(DataError, match=f"column {name}"):
        GeneratorConfig(**{name: value})


@pytest.fixture(scope="module")
def small() -> Cohort:
    return toy_cohort(120, 24, seed=1)


@pytest.fixture(scope="module")
def plain(small):
    return train_generator(small, BY, 1, config=TINY)


def test_parts_of_a_step_change_rounding_only(small, plain):
    cut = train_generator(small, BY, 1, config=replace(TINY, accumulate=3))
    for name in ("train_nll", "tuning_nll"):
        np.testing.assert_allclose(cut.history[name], plain.history[name], rtol=1e-5)
    assert not np.array_equal(cut.history["train_nll"], plain.history["train_nll"])


def test_parts_that_have_no_subject_change_rounding_only(small):
    few = replace(TINY, batch_subjects=3)
    whole = train_generator(small, BY, 1, config=few)
    cut = train_generator(small, BY, 1, config=replace(few, accumulate=5))
    np.testing.assert_allclose(cut.history["tuning_nll"], whole.history["tuning_nll"], rtol=1e-5)


def test_options_change_what_is_learned(small, plain):
    options = {"schedule": "cosine", "warmup_steps": 3, "clip_norm": 0.1, "weight_decay": 0.1}
    other = train_generator(small, BY, 1, config=replace(TINY, **options))
    assert other.history["learning_rate"].to_list() == pytest.approx([2e-3 / 3, 7.5e-4, 0])
    assert not np.allclose(other.history["tuning_nll"], plain.history["tuning_nll"], rtol=1e-4)
    assert np.isfinite(log_likelihood(other, small)).all()


def test_training_says_how_it_goes(small):
    told = []
    config = replace(TINY, max_steps=4)
    generator = train_generator(small, BY, 1, config=config, watch=told.append)
    assert [look["step"] for look in told] == [2, 4]
    for look, row in zip(told, generator.history.iter_rows(named=True), strict=True):
        assert look.pop("subjects_per_second") > 0
        assert look == row
    assert generator.report["ended"] == "all steps done"
    assert generator.report["dtype"] == "float32"
    assert 0.85 < generator.report["real_share_visits"] <= 1


@pytest.mark.slow
def test_bfloat16_learns_about_as_well():
    cohort, tuning = toy_cohort(400, 24, seed=1), toy_cohort(200, 24, seed=2)
    config = replace(TINY, max_steps=150, evaluate_every=50, learning_rate=3e-3)
    best = {}
    for dtype in ("float32", "bfloat16"):
        generator = train_generator(cohort, BY, config=replace(config, dtype=dtype), tuning=tuning)
        assert {a.dtype for a in jax.tree.leaves(generator.params)} == {jnp.dtype("float32")}
        assert generator.report["dtype"] == dtype
        best[dtype] = generator.history["tuning_nll"].min()
        start = generator.history["tuning_nll"][0]
        assert best[dtype] < start - 0.2
    assert best["bfloat16"] != best["float32"]
    assert best["bfloat16"] == pytest.approx(best["float32"], rel=0.01)


def test_a_group_is_hidden_as_often_as_asked_and_the_label_never():
    cells = pl.DataFrame(
        {
            "label": [True, False] * 500,
            "race": ["Asian", "Black", "White", "White"] * 250,
            "sex": ["F", "M", "M", "F"] * 250,
        }
    )
    conditions = Conditions.of(cells, BY, may_hide=True)
    bits = conditions.encode(cells)
    hidden = conditions.hide(bits, 0.3, np.random.default_rng(0))
    np.testing.assert_array_equal(hidden[:, 0], bits[:, 0])
    race, sex = hidden[:, 1:4].sum(1), hidden[:, 4:6].sum(1)
    assert 0.25 < 1 - race.mean() < 0.35
    assert 0.25 < 1 - sex.mean() < 0.35
    assert 0.05 < ((race == 0) & (sex == 0)).mean() < 0.13
    assert np.all(hidden <= bits)
    np.testing.assert_array_equal(conditions.hide(bits, 0, np.random.default_rng(0)), bits)
    np.testing.assert_array_equal(conditions.encode(cells.drop("race"))[:, 1:4], 0)


def test_without_dropout_no_group_may_be_left_out(plain, small):
    plan = ToyPlan(pl.DataFrame({"label": [True], "sex": ["F"], "synthetic": [3]}), ["sex"])
    with pytest.raises(DataError, match="condition_dropout above 0"):
        sample(plain, plan)
    with pytest.raises(DataError, match="race"):
        log_likelihood(plain, replace(small, subjects=small.subjects.drop("race")))
    with pytest.raises(DataError, match=r"by \(age, sex\)"):
        sample(random_generator(), replace(plan_of([1] * 4), by=["age", "sex"]))


@pytest.mark.slow
def test_asked_for_sex_alone_it_gives_the_mixture_of_races():
    cohort = toy_cohort(900, 16, seed=1)
    config = replace(
        GeneratorConfig.for_cohort(cohort), condition_dropout=0.4, max_steps=500, block=17
    )
    generator = train_generator(cohort, BY, config=config)
    plan = ToyPlan(
        pl.DataFrame({"label": [False, False], "sex": ["F", "M"], "synthetic": [1500, 1500]}),
        ["sex"],
    )
    made = sample(generator, plan, seed=2)
    assert made.groups == ["sex"]
    for sex in ("F", "M"):
        there = cohort.filter((cohort.subjects["sex"] == sex) & ~cohort.subjects["label"])
        real = there.matrix().mean(axis=0)
        drawn = made.filter(made.subjects["sex"] == sex).matrix().mean(axis=0)
        # Columns 5 and 6 are those of one race, which a fifth of the subjects have.
        assert np.abs(drawn[:7] - real[:7]).max() < 0.07, sex
    nats = log_likelihood(generator, replace(cohort, subjects=cohort.subjects.drop("race")))
    assert nats.mean() < log_likelihood(generator, cohort).mean()


def test_a_loss_that_is_not_finite_keeps_the_last_good_weights(small, plain, monkeypatch):
    def broken(config: GeneratorConfig, step: int) -> float:
        return float("nan") if step == 3 else learning_rate(config, step)

    monkeypatch.setattr(fitting, "learning_rate", broken)
    generator = train_generator(small, BY, 1, config=TINY)
    assert generator.report["best_step"] == 2
    assert generator.history.equals(plain.history.head(1))
    # The step that broke the weights is the one before the loss that shows it.
    assert generator.report["ended"] == "the loss was nan at step 4, with learning rate 0.001"
    assert np.isfinite(log_likelihood(generator, small)).all()


def test_a_loss_that_was_never_finite_is_an_error_with_step_and_rate(small):
    with pytest.raises(
        DataError, match=r"finite likelihood.* at step 2, with learning rate 1e\+30"
    ):
        train_generator(small, BY, config=replace(TINY, learning_rate=1e30))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"),
    ],
)
def test_out_of_memory_names_the_sizes(small, monkeypatch, error):
    def exhausted(*_: object) -> None:
        raise error

    monkeypatch.setattr(fitting, "_train_step", exhausted)
    with pytest.raises(DataError, match=r"memory for [\d,]+ weights.*batch of 16 subjects") as told:
        train_generator(small, BY, config=TINY)
    assert "lower batch_subjects" in str(told.value)


def test_weights_that_no_memory_holds_are_named(small):
    with pytest.raises(DataError, match=r"memory for [\d,]{15,} weights"):
        train_generator(small, BY, config=replace(TINY, width=2**24))


def test_another_error_of_the_device_is_not_taken_for_memory(small, monkeypatch):
    def broken(*_: object) -> None:
        raise jax.errors.JaxRuntimeError("INTERNAL: fire")

    monkeypatch.setattr(fitting, "_train_step", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="fire"):
        train_generator(small, BY, config=TINY)


def test_a_cohort_without_codes_is_refused():
    empty = cohort_from_lists(
        [[[]]] * 20, pl.DataFrame({"label": [True, False] * 10}), Vocabulary.of_codes(["A", "B"])
    )
    with pytest.raises(DataError, match="at least one code"):
        train_generator(empty, [], config=TINY)


def test_one_subject_is_refused_unless_there_are_others_to_tune_on():
    one = one_code(np.array([2]))
    with pytest.raises(DataError, match="for tuning; got none of 1 that can be used"):
        train_generator(one, [], config=TINY)
    config = replace(TINY, max_steps=2)
    generator = train_generator(one, [], config=config, tuning=one_code(np.array([2])))
    assert generator.report["subjects_trained"] == 1


def test_a_vocabulary_of_one_column_works():
    cohort = one_code(np.array([1, 2] * 20), codes=1)
    generator = train_generator(cohort, [], config=replace(TINY, max_steps=2))
    cells = pl.DataFrame({"label": [True], "synthetic": [200]})
    made = sample(generator, ToyPlan(cells, []))
    assert len(made.vocabulary) == 1
    assert len(made.codes) > 0.8 * len(made.visits)
