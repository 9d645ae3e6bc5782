"""FairPlaySampler keeps imbalanced-learn's contract, and fills cells of class and groups."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
from imblearn.pipeline import make_pipeline
from imblearn.utils.estimator_checks import parametrize_with_checks
from scipy import sparse
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

import equipoise as eq
from equipoise.generator import GeneratorConfig
from toys import toy_cohort

TINY = GeneratorConfig(
    width=8, layers=1, heads=1, head_hidden=8, block=64, max_visits=1, batch_subjects=64,
    max_steps=2, evaluate_every=1, patience=1,
)  # fmt: skip


def sampler(**options: Any) -> eq.FairPlaySampler:
    return eq.FairPlaySampler(config=TINY, random_state=0, **options)


@pytest.mark.slow
@parametrize_with_checks([sampler()])
def test_imbalanced_learns_own_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def data() -> tuple[sparse.csr_array, np.ndarray[Any, Any], pd.DataFrame]:
    cohort = toy_cohort(150, max_visits=1)
    X, y, groups, _ = cohort.to_sklearn()
    return X, y, pd.DataFrame({name: groups[name].to_list() for name in ("sex", "race")})


@pytest.mark.parametrize("columns", [["sex"], ["sex", "race"]])
def test_every_cell_is_filled_and_real_rows_come_first(columns: list[str]) -> None:
    X, y, groups = data()
    mine = sampler()
    X_new, y_new = mine.fit_resample(X, y, sensitive_features=groups[columns])
    before = Counter(zip(y, *(groups[c] for c in columns), strict=True))
    after = Counter(zip(y_new, *mine.sensitive_features_.T, strict=True))
    assert set(after) == set(before)
    assert set(after.values()) == {max(before.values())}
    assert not mine.synthetic_[: len(y)].any()
    assert mine.synthetic_[len(y) :].all()
    assert np.array_equal(y_new[: len(y)], y)
    assert (X_new[: len(y)] != X).nnz == 0
    assert set(np.unique(X_new.data)) == {1.0}
    assert (X_new.dtype, X_new.format, y_new.dtype) == (X.dtype, "csr", y.dtype)


def test_a_ratio_fills_its_share_and_strategies_go_by_class() -> None:
    X, y, groups = data()
    _, y_new = sampler(ratio=0.5).fit_resample(X, y)
    rare, frequent = y.sum(), len(y) - y.sum()
    assert y_new.sum() == rare + round((frequent - rare) * 0.5)
    assert sampler(ratio=0.0).fit_resample(X, y)[0].shape == X.shape
    _, y_new = sampler(sampling_strategy={1: 60}).fit_resample(X, y)
    assert y_new.sum() == 60
    with pytest.raises(ValueError, match="with sensitive features want 'auto'"):
        sampler(sampling_strategy="all").fit_resample(X, y, sensitive_features=groups)


def test_the_same_state_gives_the_same_rows() -> None:
    X, y, groups = data()
    mine = sampler()
    first, again = (
        one.fit_resample(X, y, sensitive_features=groups["sex"])[0] for one in (mine, clone(mine))
    )
    assert (first != again).nnz == 0
    other = clone(mine).set_params(random_state=1).fit_resample(X, y)[0]
    assert first.shape != other.shape or (first != other).nnz


def test_formats_and_types_come_out_as_they_go_in() -> None:
    X, y, _ = data()
    for kind in (np.float32, np.int8, bool):
        out, _ = sampler().fit_resample(X.astype(kind), y)
        assert out.dtype == kind
    dense, _ = sampler().fit_resample(X.toarray(), y)
    assert isinstance(dense, np.ndarray)
    frame = pd.DataFrame(X.toarray(), columns=[f"c{i}" for i in range(X.shape[1])])
    out, labels = sampler().fit_resample(frame, pd.Series(np.where(y, "died", "lived"), name="end"))
    assert list(out.columns) == list(frame.columns)
    assert labels.name == "end"
    assert np.array_equal(out.to_numpy(), dense)
    assert Counter(labels).total() == len(dense)


def test_numbers_are_drawn_among_the_real_ones() -> None:
    X, y, _ = data()
    rng = np.random.default_rng(0)
    age, marker = rng.integers(20, 90, len(y)), np.where(rng.random(len(y)) < 0.5, 0, 3.25)
    both = np.column_stack([X.toarray(), age, marker])
    mine = sampler()
    out, _ = mine.fit_resample(both, y)
    new = out[mine.synthetic_]
    assert set(new[:, -2]) <= set(age)
    assert set(new[:, -1]) <= {0, 3.25}


def test_it_works_in_a_pipeline_with_groups_among_the_columns() -> None:
    X, y, groups = data()
    sex = sparse.csr_array((groups[["sex"]] == "F").to_numpy().astype(np.float32))
    whole = sparse.csr_array(sparse.hstack([X, sex], format="csr"))
    place = whole.shape[1] - 1
    mine = sampler(sensitive_features=[place])
    X_new, y_new = mine.fit_resample(whole, y)
    cells = Counter(zip(y_new, X_new[:, [place]].toarray().ravel(), strict=True))
    assert len(cells) == 4
    assert len(set(cells.values())) == 1
    pipeline = make_pipeline(mine, LogisticRegression(max_iter=500))
    scores = cross_val_score(pipeline, whole, y, cv=2, scoring="roc_auc", error_score="raise")
    assert (scores > 0.6).all()


def test_what_cannot_be_balanced_is_refused() -> None:
    X, y, groups = data()
    with pytest.raises(ValueError, match="want 150 rows as in X, got 149"):
        sampler().fit_resample(X, y, sensitive_features=groups["sex"][1:])
    with pytest.raises(ValueError, match="more than 1 class"):
        sampler().fit_resample(X, np.zeros(len(y)))
    with pytest.raises(ValueError, match="'ratio' parameter of FairPlaySampler must be"):
        sampler(ratio=2).fit_resample(X, y)
    with pytest.raises(ValueError, match="given twice"):
        sampler(sensitive_features=[0]).fit_resample(X, y, sensitive_features=groups["sex"])
