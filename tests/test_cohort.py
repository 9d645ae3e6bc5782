"""Cohorts: taking, joining, storing, and what a classifier gets."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import equipoise as eq
from equipoise import schema, store
from equipoise.cohort import cohort_from_lists, last_visit_labels
from equipoise.vocabulary import Vocabulary
from toys import toy_cohort


def lists_of(cohort: eq.Cohort) -> list[list[list[int]]]:
    """Nested lists, subject by subject."""
    visits = [
        cohort.codes[start:end].tolist()
        for start, end in zip(cohort.code_offsets, cohort.code_offsets[1:], strict=False)
    ]
    offsets = cohort.visit_offsets
    return [visits[start:end] for start, end in pairwise(offsets)]


@given(st.lists(st.integers(0, 29), max_size=40), st.integers(0, 5))
def test_taking_equals_indexing_lists(places: list[int], seed: int) -> None:
    cohort = toy_cohort(30, seed=seed)
    taken = cohort.take(np.array(places, np.int64))
    whole = lists_of(cohort)
    assert lists_of(taken) == [whole[place] for place in places]
    assert taken.subjects.equals(cohort.subjects[places])
    assert len(taken.visits) == sum(len(whole[place]) for place in places)


@given(st.integers(1, 30), st.integers(1, 30))
def test_concat_equals_joining_lists(a: int, b: int) -> None:
    first, second = toy_cohort(a, seed=1), toy_cohort(b, seed=2)
    both = eq.concat([first, second])
    assert lists_of(both) == lists_of(first) + lists_of(second)
    assert both.subjects.equals(pl.concat([first.subjects, second.subjects]))


def test_concat_refuses_another_vocabulary() -> None:
    with pytest.raises(eq.DataError, match="one vocabulary for all"):
        eq.concat([toy_cohort(5, columns=24), toy_cohort(5, columns=25)])
    with pytest.raises(eq.DataError, match="at least one"):
        eq.concat([])


def test_a_classifier_gets_the_visits_with_known_labels() -> None:
    vocabulary = Vocabulary.of_codes(["a", "b", "c"])
    subjects = pl.DataFrame({"label": [True, None, False], "sex": ["F", "M", "M"]})
    cohort = cohort_from_lists([[[0], [0, 2]], [[1], []], [[2, 1]]], subjects, vocabulary)
    X, y, groups, visits = cohort.to_sklearn()
    # The second subject's last visit is unknown; the one before it is no death.
    assert X.toarray().tolist() == [[1, 0, 0], [1, 0, 1], [0, 1, 0], [0, 1, 1]]
    assert y.tolist() == [0, 1, 0, 0]
    assert groups["sex"].to_list() == ["F", "F", "M", "M"]
    assert visits[schema.SUBJECT_ID].to_list() == [0, 0, 1, 2]


def test_labels_sit_on_the_last_visit() -> None:
    labels = pl.Series([True, False, None, True])
    got = last_visit_labels(np.array([0, 2, 3, 5, 5]), labels)
    assert got.to_list() == [False, True, False, False, None]


def test_splits_and_groups() -> None:
    cohort = toy_cohort(20)
    assert cohort.groups == ["sex", "race"]
    with pytest.raises(eq.DataError, match="one of sex, race"):
        cohort.check_groups(["colour"])
    names = pl.Series(schema.SPLIT, [schema.TRAIN] * 12 + [schema.TUNING] * 3 + [None] * 5)
    split = eq.Cohort(**{**vars(cohort), "subjects": cohort.subjects.with_columns(names)})
    assert len(split.split_named(schema.TRAIN)) == 12
    assert len(split.split_named(schema.TRAIN, schema.TUNING)) == 15


def test_contradicting_offsets_are_refused() -> None:
    cohort = toy_cohort(5)
    with pytest.raises(eq.DataError, match="code_offsets"):
        eq.Cohort(**{**vars(cohort), "codes": cohort.codes[:-1]})
    with pytest.raises(eq.DataError, match="column label"):
        eq.Cohort(**{**vars(cohort), "subjects": cohort.subjects.drop("label")})


def test_saving_gives_the_same_bytes_and_loads_back(tmp_path: Path) -> None:
    cohort = toy_cohort(50)
    for name in ("a", "b"):
        cohort.save(tmp_path / name, seed=3)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name
    again = eq.Cohort.load(tmp_path / "a")
    assert lists_of(again) == lists_of(cohort)
    assert again.subjects.equals(cohort.subjects)
    assert not again.codes.flags.writeable, "the codes are mapped from disk"


def test_a_folder_is_finished_or_absent(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(RuntimeError), store.writing(out, "cohort") as draft:
        (draft / "half").write_text("written")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    toy_cohort(3).save(out)
    with pytest.raises(eq.UsageError, match="--force"):
        toy_cohort(3).save(out)
    toy_cohort(4).save(out, force=True)
    assert len(eq.Cohort.load(out)) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    other = tmp_path / "precious"
    other.mkdir()
    (other / "thesis.txt").write_text("not ours")
    with pytest.raises(eq.UsageError, match="not written by equipoise"):
        toy_cohort(3).save(other, force=True)
    assert (other / "thesis.txt").exists()


@given(st.lists(st.integers(0, 5), max_size=9))
def test_codes_are_taken_without_their_subjects_as_with_them(places):
    cohort = toy_cohort(6, seed=3)
    whole, alone = cohort.take(np.array(places, int)), cohort.nested.take(np.array(places, int))
    assert len(alone) == len(places)
    for name in ("visit_offsets", "code_offsets", "codes"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(whole, name))
    np.testing.assert_array_equal(alone.subject_of_visit(), whole.subject_of_visit())
