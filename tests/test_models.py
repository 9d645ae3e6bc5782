"""The models: equal to scikit-learn's, weights count as copies do, the user's own among them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler

from equipoise.errors import UsageError
from equipoise.evaluate import nearest
from equipoise.evaluate.downstream import MODELS, logistic_regression, models_named
from equipoise.evaluate.nearest import nearest_neighbors, nearest_rows
from equipoise.evaluate.own import EstimatorError, from_estimator
from toys import toy_cohort

random = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def data(subjects: int = 80, seed: int = 0) -> tuple[sparse.csr_array, np.ndarray[Any, Any]]:
    X, y, _, _ = toy_cohort(subjects, seed=seed).to_sklearn()
    return X, y


def ones(rng: np.random.Generator, rows: int, columns: int) -> sparse.csr_array:
    return sparse.csr_array((rng.random((rows, columns)) < 0.3).astype(np.float32))


@given(random, st.integers(1, 40), st.integers(1, 12), st.integers(1, 6))
def test_nearest_rows_are_those_of_a_plain_search(
    rng: np.random.Generator, number: int, columns: int, k: int
) -> None:
    rows, queries = ones(rng, number, columns), ones(rng, 7, columns)
    k = min(k, number)
    near, far = rows.toarray(), queries.toarray()
    distance = ((far[:, None] - near[None]) ** 2).sum(axis=2)
    expected = np.argsort(distance, axis=1, kind="stable")[:, :k]
    assert np.array_equal(nearest_rows(queries, rows, k), expected)


def test_neighbors_vote_as_in_scikit_learn_where_nothing_is_equally_near() -> None:
    rng = np.random.default_rng(0)
    X, y = ones(rng, 300, 200), (rng.random(300) < 0.4).astype(np.int8)
    queries = ones(rng, 50, 200)
    # Ties are everywhere in rows of ones; where the sixth is as near as the fifth they may differ.
    six = nearest_rows(queries, X, 6)
    d = [((queries[[q]] - X[[r]]).toarray() ** 2).sum() for q in range(50) for r in six[q, 4:]]
    clear = np.flatnonzero(np.diff(np.reshape(d, (50, 2)), axis=1)[:, 0] > 0)
    assert len(clear) > 5
    theirs = KNeighborsClassifier(5, algorithm="brute").fit(X, y).predict_proba(queries)[:, 1]
    ours = nearest_neighbors(X, y, None, 0, 1).scores(queries)
    assert np.allclose(ours[clear], theirs[clear])


def test_neighbors_of_too_many_rows_are_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = data(200)
    monkeypatch.setattr(nearest, "MOST_ROWS", 100)
    fitted = nearest_neighbors(X, y, None, 0, 1)
    assert fitted.remark == f"the nearest of a sample of 100 of {X.shape[0]} rows"
    assert np.array_equal(fitted.scores(X), nearest_neighbors(X, y, None, 0, 1).scores(X))


@pytest.mark.parametrize("name", ["logistic_regression", "knn"])
def test_a_weight_of_two_is_a_copy(name: str) -> None:
    X, y = data()
    twice = np.random.default_rng(0).random(len(y)) < 0.3
    place = np.repeat(np.arange(len(y)), np.where(twice, 2, 1))
    weighted = MODELS[name](X, y, np.where(twice, 2.0, 1.0), 0, 1).scores(X)
    if name == "knn":
        # A copy takes the place of a neighbour, so only the votes of the five can be compared.
        near = nearest_rows(X, X, 5)
        weight = np.where(twice, 2.0, 1.0)[near]
        assert np.allclose(weighted, (weight * y[near]).sum(1) / weight.sum(1))
    else:
        copied = MODELS[name](X[place], y[place], None, 0, 1).scores(X)
        assert np.allclose(weighted, copied, atol=1e-4)


@pytest.mark.parametrize("name", ["neural_network", "random_forest", "xgboost"])
def test_weights_are_heard(name: str) -> None:
    X, y = data(600)
    heavy = MODELS[name](X, y, np.where(y == 1, 20.0, 1.0), 0, 1).scores(X)
    assert heavy.mean() > MODELS[name](X, y, None, 0, 1).scores(X).mean()


@pytest.mark.parametrize("name", MODELS)
def test_one_positive_is_enough_to_be_fitted(name: str) -> None:
    X, _ = data(20)
    y = np.zeros(X.shape[0], np.int8)
    y[3] = 1
    scores = MODELS[name](X, y, None, 0, 1).scores(X)
    assert np.isfinite(scores).all()


def test_all_is_five_and_others_are_named() -> None:
    assert list(models_named(["all"])) == list(MODELS)
    assert len(MODELS) == 5
    with pytest.raises(UsageError, match=r"smoke is no model; want one of knn.*or package.module"):
        models_named(["smoke"])


# ---- the user's own ----


def linear() -> LogisticRegression:
    return LogisticRegression(C=1.0, max_iter=1000)


class Sulking(LogisticRegression):  # type: ignore[misc]
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        raise ValueError("patient 17 is odd")


def test_an_own_estimator_is_one_of_the_models() -> None:
    X, y = data()
    own = models_named(["test_models:linear"])["test_models:linear"]
    ours = logistic_regression(X, y, None, 0, 1).scores(X)
    assert np.allclose(own(X.astype(np.float64), y, None, 0, 1).scores(X), ours)
    weight = np.where(y == 1, 9.0, 1.0)
    assert own(X, y, weight, 0, 1).scores(X).mean() > ours.mean()
    assert own(X, y, None, 0, 1).scores(X[:0]).shape == (0,)


def test_a_pipeline_takes_no_weights_and_says_so() -> None:
    X, y = data()
    own = from_estimator("mine", make_pipeline(MaxAbsScaler(), linear()))
    assert own(X, y, None, 0, 1).remark == ""
    assert own(X, y, np.ones(len(y)), 0, 1).remark == "its fit takes no sample_weight: all alike"


def test_what_is_no_classifier_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="mine has no predict_proba"):
        from_estimator("mine", RidgeClassifier())
    with pytest.raises(
        UsageError,
        match="thing: ModuleNotFoundError: No module named 'nowhere'; want package.module:",
    ):
        models_named(["nowhere:thing"])
    with pytest.raises(UsageError, match="test_models:thing"):
        models_named(["test_models:thing"])
    (tmp_path / "broken_model.py").write_text("def f(:")
    (tmp_path / "picky_model.py").write_text("class Picky:\n def __init__(self, x): pass")
    (tmp_path / "local_model.py").write_text("from sklearn.naive_bayes import BernoulliNB as Bayes")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    assert "local_model:Bayes" in models_named(["local_model:Bayes"])
    for name, error in (("broken_model:f", "SyntaxError"), ("picky_model:Picky", "TypeError")):
        with pytest.raises(UsageError, match=f"{name}: {error}: "):
            models_named([name])


def test_an_estimator_that_fails_is_named_and_quotes_nobody() -> None:
    X, y = data(20)
    with pytest.raises(EstimatorError) as told:
        from_estimator("sulk", Sulking())(X, y, None, 0, 1)
    assert str(told.value) == "sulk: fit raised ValueError"
