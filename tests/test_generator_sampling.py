"""Sampling a plan: exactness, repeatability, refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy import stats

from equipoise.cohort import Cohort, cohort_from_lists
from equipoise.errors import DataError, UsageError
from equipoise.generator import GeneratorConfig, log_likelihood, sample
from generator_toys import SMALL, ToyPlan, plan_of, random_generator
from test_generator_model import all_records


@pytest.fixture(scope="module", params=["block", "halo"])
def generator(request):
    return random_generator(config=replace(SMALL, head=request.param))


def same(one: Cohort, two: Cohort) -> bool:
    return (
        one.subjects.equals(two.subjects)
        and one.visits.equals(two.visits)
        and np.array_equal(one.visit_offsets, two.visit_offsets)
        and np.array_equal(one.code_offsets, two.code_offsets)
        and np.array_equal(one.codes, two.codes)
    )


def test_batch_changes_nothing_and_seed_everything(generator):
    plan = plan_of([30, 0, 25, 40])
    first = sample(generator, plan, seed=3, batch=1)
    assert len(np.unique(np.diff(first.visit_offsets))) > 2
    for batch in (7, 64, 256):
        assert same(sample(generator, plan, seed=3, batch=batch), first)
    for seed in (4, 3 + 2**32):
        assert not same(sample(generator, plan, seed=seed), first)


def test_a_part_of_the_plan_is_that_part_of_the_whole(generator):
    plan = plan_of([30, 0, 25, 40])
    whole = sample(generator, plan)
    part = sample(generator, plan, numbers=range(20, 70))
    want = whole.take(np.arange(20, 70))
    assert part.subjects.equals(want.subjects)
    assert np.array_equal(part.codes, want.codes)
    for wrong in (range(90, 96), range(0, 10, 2)):
        with pytest.raises(UsageError, match="within 0"):
            sample(generator, plan, numbers=wrong)


def test_the_cohort_is_what_the_plan_asked_for(generator):
    told = []
    plan = plan_of([5, 0, 3, 2])
    cohort = sample(generator, plan, progress=lambda *what: told.append(what))
    assert cohort.subjects.columns == ["subject_id", "label", "split", "synthetic", "sex"]
    assert cohort.subjects["subject_id"].to_list() == list(range(10))
    assert cohort.subjects["sex"].to_list() == ["F"] * 5 + ["M"] * 5
    assert cohort.subjects["label"].to_list() == [False] * 8 + [True] * 2
    assert cohort.subjects["synthetic"].all()
    assert cohort.subjects["split"].unique().to_list() == ["train"]
    lengths = np.diff(cohort.visit_offsets)
    assert lengths.min() >= 1
    assert lengths.max() <= generator.config.max_visits
    labels = cohort.visits["label"].to_numpy()
    assert labels.sum() == 2
    assert labels[cohort.visit_offsets[9:] - 1].all()
    assert cohort.visits["visit_id"].to_list() == list(range(len(labels)))
    assert cohort.codes.max() == 5, "no unused token and no end marker"
    assert cohort.codes.dtype == np.int32
    owner = np.repeat(np.arange(len(labels)), np.diff(cohort.code_offsets))
    assert np.all((np.diff(cohort.codes) > 0) | (np.diff(owner) > 0))
    assert told[-1] == ("sample", 10, 10)


def test_nothing_asked_nothing_made(generator):
    cohort = sample(generator, plan_of([0, 0, 0, 0]))
    assert len(cohort) == len(cohort.visits) == len(cohort.codes) == 0


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (plan_of([1, 1, 1, 1], sexes="FFM?"), "label=True, sex=?"),
        (plan_of([1, 1, -1, 1]), "got -1"),
        (plan_of([1, 1, None, 1]), "got None"),
        (ToyPlan(plan_of([1, 1, 1, 1]).cells, ["race"]), "by the generator's groups (sex)"),
        (ToyPlan(plan_of([1, 1, 1, 1]).cells.drop("synthetic")), "column synthetic"),
    ],
)
def test_a_plan_that_cannot_be_met_is_refused(generator, plan, words):
    with pytest.raises(DataError) as error:
        sample(generator, plan)
    assert words in str(error.value)


def test_an_unseen_cell_of_which_none_is_asked_is_no_trouble(generator):
    assert len(sample(generator, plan_of([1, 1, 1, 0], sexes="FFM?"))) == 3


def test_batch_must_be_positive(generator):
    with pytest.raises(UsageError, match="batch"):
        sample(generator, plan_of([1, 1, 1, 1]), batch=0)


@pytest.mark.parametrize("end_first", [True, False])
@pytest.mark.parametrize("head", ["block", "halo"])
def test_sampled_records_follow_the_exact_probabilities(head, end_first):
    """All records of at most two visits of three codes: 72 of them, chi-square of 20,000 draws."""
    config = GeneratorConfig(
        width=16, layers=1, heads=2, head_hidden=8, block=3, max_visits=2, batch_subjects=512
    )
    by_visit = head == "block"
    config = replace(config, head=head, condition_every_visit=by_visit, end_first=end_first)
    generator = random_generator(3, config, seed=2, spread=0.6 if head == "block" else 0.3)
    records = all_records(3, 2)
    subjects = pl.DataFrame({"label": [True] * len(records), "sex": ["M"] * len(records)})
    cohort = cohort_from_lists(records, subjects, generator.vocabulary)
    expected = 20_000 * np.exp(log_likelihood(generator, cohort))

    drawn = sample(generator, plan_of([0, 0, 0, 20_000]), seed=5)
    place = {str(record): i for i, record in enumerate(records)}
    visits = np.split(drawn.codes, drawn.code_offsets[1:-1])
    observed = np.zeros(len(records))
    for start, stop in zip(drawn.visit_offsets[:-1], drawn.visit_offsets[1:], strict=True):
        observed[place[str([visit.tolist() for visit in visits[start:stop]])]] += 1
    common = expected >= 5
    observed = np.append(observed[common], observed[~common].sum())
    expected = np.append(expected[common], expected[~common].sum())
    statistic = ((observed - expected) ** 2 / np.maximum(expected, 1e-9)).sum()
    assert len(expected) > 60
    assert stats.chi2.sf(statistic, len(expected) - 1) > 1e-3
