"""Folds keep subjects apart; thresholds are the best there are."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from equipoise.errors import DataError, UsageError
from equipoise.evaluate.folds import make_folds
from equipoise.evaluate.thresholds import f1_threshold, gbe_threshold

random = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@settings(max_examples=20)
@given(random, st.integers(2, 6), st.integers(12, 150), st.floats(0, 1))
def test_every_subject_is_held_out_once_and_never_in_two_parts(
    rng: np.random.Generator, folds: int, subjects: int, share: float
) -> None:
    labels = rng.random(subjects) < share
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = make_folds(labels, folds, seed=3)
    assert np.array_equal(np.sort(np.concatenate([f.held_out for f in made])), np.arange(subjects))
    for number, fold in enumerate(made):
        assert fold.number == number
        whole = np.concatenate([fold.train, fold.tuning, fold.held_out])
        assert np.array_equal(np.sort(whole), np.arange(subjects))
        rest = subjects - len(fold.held_out)
        assert rest // 8 <= len(fold.tuning) <= max(1, -(-rest // 8) + 1)
        again = make_folds(labels, folds, seed=3)[number]
        assert np.array_equal(fold.tuning, again.tuning)


def test_folds_share_the_positives_and_depend_on_the_seed() -> None:
    labels = np.arange(200) < 40
    made = make_folds(labels, 5, seed=0)
    assert [int(labels[fold.held_out].sum()) for fold in made] == [8] * 5
    assert [int(labels[fold.tuning].sum()) for fold in made] == [4] * 5
    assert not np.array_equal(made[0].held_out, make_folds(labels, 5, seed=1)[0].held_out)


@settings(max_examples=10)
@given(random, st.integers(2, 4))
def test_a_person_stays_on_one_side(rng: np.random.Generator, folds: int) -> None:
    person = rng.integers(0, 25, 100)
    for fold in make_folds(rng.random(100) < 0.2, folds, keep_together=person):
        parts = [set(person[part]) for part in (fold.train, fold.tuning, fold.held_out)]
        assert sum(len(part) for part in parts) == len(set().union(*parts))
        assert all(parts)


def test_folds_that_cannot_be_filled() -> None:
    with pytest.raises(UsageError, match="want 2 or more, got 1"):
        make_folds(np.ones(9, bool), 1)
    with pytest.raises(UsageError, match="want at most 3"):
        make_folds(np.ones(9, bool), 5, keep_together=np.repeat([1, 2, 3], 3))


@given(random, st.integers(1, 60))
def test_no_threshold_beats_the_f1_optimum(rng: np.random.Generator, n: int) -> None:
    y, score = rng.random(n) < 0.3, rng.integers(0, 8, n) / 8
    y[0] = True
    best = f1_threshold(y, score)
    scores = {t: f1_score(y, score >= t) for t in np.unique(score)}
    assert best.reached == pytest.approx(max(scores.values()))
    equal = [t for t, value in scores.items() if value == pytest.approx(best.reached)]
    assert best.value == max(equal)


@given(random, st.integers(2, 60))
def test_the_gbe_threshold_flags_as_many_as_there_are(rng: np.random.Generator, n: int) -> None:
    y, score = rng.random(n) < 0.3, rng.permutation(n) / n
    y[0] = True
    found = gbe_threshold(y, score)
    assert found.value == np.sort(score)[-y.sum()]
    assert found.reached == 1
    ties = np.round(score, 1)
    near = gbe_threshold(y, ties)
    distances = [abs(np.log((ties >= t).sum() / y.sum())) for t in np.unique(ties)]
    assert abs(np.log(near.reached)) == pytest.approx(min(distances))


def test_thresholds_that_do_not_exist() -> None:
    assert f1_threshold([0, 0], [0.1, 0.2]).status == "no_positives"
    assert f1_threshold([], []).status == "empty"
    assert np.isnan(f1_threshold([1, 0], [np.nan, 0.2]).value)
    with pytest.raises(DataError, match="want positives"):
        gbe_threshold([0, 0], [0.1, 0.2])
    # 1 flagged of 2 positives, or 4: equally far from 2, so the one that under-serves nobody.
    assert gbe_threshold([1, 1, 0, 0], [0.9, 0.5, 0.5, 0.5]).reached == 2
