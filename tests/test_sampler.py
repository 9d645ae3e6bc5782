"""FairPlaySampler: imbalanced-learn's contract, cells of class x group, real rows as they were."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from imblearn.pipeline import Pipeline
from imblearn.utils.estimator_checks import (
    check_dataframe_column_names_consistency,
    check_param_validation,
    estimator_checks_generator,
)
from scipy import sparse
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.preprocessing import OneHotEncoder

from equipoise import DataError, FairPlaySampler, UsageError
from equipoise.generator import GeneratorConfig

TINY = GeneratorConfig(
    width=8,
    layers=1,
    heads=1,
    head_hidden=8,
    block=64,
    batch_subjects=32,
    max_steps=2,
    evaluate_every=1,
    patience=1,
)
LEARNING = GeneratorConfig(
    width=16,
    layers=1,
    heads=1,
    head_hidden=16,
    block=8,
    batch_subjects=32,
    learning_rate=5e-3,
    max_steps=200,
    evaluate_every=100,
)
#: imbalanced-learn's checks that do not apply: name -> reason. All apply.
EXPECTED_FAILURES: dict[str, str] = {}
N, P = 120, 6


def sampler(**settings) -> FairPlaySampler:
    return FairPlaySampler(**{"random_state": 0, "config": TINY, **settings})


CHECKS = [
    *estimator_checks_generator(sampler(), expected_failed_checks=EXPECTED_FAILURES, mark="xfail"),
    (sampler(), lambda it: check_param_validation("FairPlaySampler", it)),
    (sampler(), lambda it: check_dataframe_column_names_consistency("FairPlaySampler", it)),
]


@pytest.fixture
def ones() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows of 0 and 1, y, race and sex; every cell of the three has someone in it."""
    rng = np.random.default_rng(3)
    X = (rng.random((N, P)) < 0.4).astype(np.float32)
    y = (np.arange(N) % 4 == 0).astype(int)
    race = rng.choice(["Black", "White"], N, p=[0.3, 0.7])
    return X, y, race, rng.choice(["F", "M"], N)


def sizes(*keys) -> dict[tuple, int]:
    return pd.DataFrame(dict(enumerate(keys))).value_counts().to_dict()


@pytest.mark.parametrize(
    ("estimator", "check"),
    CHECKS,
    ids=lambda it: getattr(getattr(it, "func", None), "__name__", type(it).__name__),
)
def test_checks_of_imbalanced_learn(estimator, check) -> None:
    check(estimator)


def test_parameters_are_stored_as_given() -> None:
    names = ["race"]
    ours = sampler(ratio=0.5, min_cell=3, leave_small=True, sensitive_features=names)
    assert ours.get_params()["sensitive_features"] is names
    assert clone(ours).get_params() == ours.get_params()


@pytest.mark.parametrize("attributes", [0, 1, 2])
def test_every_cell_reaches_the_largest(ones, attributes) -> None:
    X, y, race, sex = ones
    given = [None, race, pd.DataFrame({"race": race, "sex": sex})][attributes]
    before = sizes(y, *(race, sex)[:attributes])
    ours = sampler()
    X_new, y_new = ours.fit_resample(X, y, sensitive_features=given)
    after = ours.sensitive_features_
    assert type(after) is type(given)
    keys = [] if given is None else np.asarray(after).reshape(len(y_new), -1).T
    assert sizes(y_new, *keys) == dict.fromkeys(before, max(before.values()))
    assert (np.flatnonzero(ours.synthetic_) == np.arange(N, len(y_new))).all()
    assert X_new[:N].tobytes() == X.tobytes()
    assert (y_new[:N] == y).all()
    assert given is None or np.array_equal(np.asarray(after)[:N], np.asarray(given))


def test_ratio_small_cells_and_strategies(ones) -> None:
    X, y, race, _ = ones
    before = sizes(y, race)
    most = max(before.values())

    def after(**settings) -> dict[tuple, int]:
        ours = sampler(**settings)
        _, y_new = ours.fit_resample(X, y, sensitive_features=race)
        return sizes(y_new, ours.sensitive_features_)

    half = {cell: n + round(0.5 * (most - n)) for cell, n in before.items()}
    assert after(ratio=0.5) == half
    smallest = min(before, key=before.get)
    left = after(leave_small=True, min_cell=before[smallest] + 1)
    assert left == {cell: before[smallest] if cell == smallest else most for cell in before}
    minority = {cell: most if cell[0] == 1 else n for cell, n in before.items()}
    assert after(sampling_strategy="minority") == minority
    assert sizes(sampler(sampling_strategy={1: 41}).fit_resample(X, y)[1]) == {(0,): 90, (1,): 41}
    assert sizes(sampler(sampling_strategy=0.5).fit_resample(X, y)[1]) == {(0,): 90, (1,): 45}


@pytest.mark.parametrize("kind", ["csr_matrix", "csr_array", "csc_matrix", "csc_array"])
def test_sparse_stays_sparse(ones, kind) -> None:
    dense, y, race, _ = ones
    X = getattr(sparse, kind)(dense)
    X.data[0] = 0  # A stored zero is the user's, too.
    kept = X.copy()
    X_new, _ = sampler().fit_resample(X, y, sensitive_features=race)
    assert type(X_new) is type(X) and X_new.dtype == X.dtype
    real = X_new[:N]
    for part in ("data", "indices", "indptr"):
        assert getattr(real, part).tobytes() == getattr(kept, part).tobytes()
        assert getattr(X, part).tobytes() == getattr(kept, part).tobytes()
    assert set(X_new.data) <= {0, 1}


def test_dataframes_keep_their_columns_and_types(ones) -> None:
    X, y, race, sex = ones
    ages = np.random.default_rng(0).integers(18, 90, N)
    frame = pd.DataFrame(X.astype(bool), columns=list("abcdef"))
    frame.insert(2, "race", pd.Categorical(race))
    frame["sex"], frame["age"] = sex, ages
    frame.index = frame.index + 1000
    ours = sampler(sensitive_features=["race", "sex"])
    X_new, y_new = ours.fit_resample(frame, pd.Series(y, name="died", index=frame.index))
    assert (X_new.dtypes == frame.dtypes).all()
    pd.testing.assert_frame_equal(X_new[:N], frame.reset_index(drop=True))
    assert y_new.name == "died" and y_new.index.equals(X_new.index)
    pd.testing.assert_frame_equal(ours.sensitive_features_, X_new[["race", "sex"]])
    counts = sizes(y_new, X_new["race"].astype(str), X_new["sex"])
    assert set(counts.values()) == {max(sizes(y, race, sex).values())}
    # What is drawn for a number is one of the real ones.
    assert set(X_new["age"]) <= set(ages)
    assert list(ours.feature_names_in_) == list(frame.columns)


def test_text_classes_and_unknown_groups(ones) -> None:
    X, _, race, _ = ones
    y = np.array(["home", "home", "ward", "home", "died", "ward"])[np.arange(N) % 6]
    groups = pd.Series(race).mask(np.arange(N) < 7)
    before = sizes(y[7:], race[7:])
    ours = sampler()
    _, y_new = ours.fit_resample(X, y, sensitive_features=groups)
    after = ours.sensitive_features_
    assert after[:7].isna().all() and after[7:].notna().all()
    assert sizes(y_new[7:], after[7:]) == dict.fromkeys(before, max(before.values()))
    assert y_new.dtype == y.dtype


def test_a_polars_frame_comes_back_as_one(ones) -> None:
    X, y, race, sex = ones
    frame = pl.DataFrame(X.astype(bool), schema=list("abcdef")).with_columns(
        pl.Series("race", race, pl.Categorical), pl.Series("age", np.arange(N) % 7)
    )
    frame = frame.select("a", "race", pl.exclude("a", "race"))
    ours = sampler(sensitive_features="race")
    X_new, y_new = ours.fit_resample(frame, pl.Series("died", y))
    assert X_new.schema == frame.schema and X_new[:N].equals(frame)
    assert isinstance(y_new, pl.Series) and y_new.name == "died" and len(y_new) == len(X_new)
    assert ours.sensitive_features_.equals(X_new.select("race"))
    counts = sizes(y_new.to_numpy(), X_new["race"].cast(pl.String).to_numpy())
    assert set(counts.values()) == {max(sizes(y, race).values())}
    assert set(X_new["age"]) <= set(range(7))

    # The same rows as from pandas; groups beside X may be polars as well, and have unknown ones.
    columns = frame.drop("race").to_pandas()
    plain, _ = sampler().fit_resample(columns, y, sensitive_features=race)
    groups = pl.DataFrame({"race": race, "sex": sex})
    table, _ = sampler().fit_resample(frame.drop("race"), y, sensitive_features=groups["race"])
    assert table.equals(pl.from_pandas(plain))
    hidden = groups.with_columns(pl.when(pl.int_range(N) >= 7).then("race").alias("race"))
    ours = sampler()
    ours.fit_resample(X, y, sensitive_features=hidden)
    assert ours.sensitive_features_["race"].null_count() == 7


def test_the_same_seed_gives_the_same_rows(ones) -> None:
    X, y, race, _ = ones
    X = np.column_stack([X, np.random.default_rng(1).normal(size=N)])
    one, again, other = (
        sampler(random_state=seed).fit_resample(X, y, sensitive_features=race)[0]
        for seed in (5, 5, 6)
    )
    assert one.tobytes() == again.tobytes() != other.tobytes()


def test_rows_are_those_of_their_class_and_group() -> None:
    rng = np.random.default_rng(0)
    y, group = rng.random(400) < 0.25, rng.random(400) < 0.3
    high = rng.normal(np.where(group, 10.0, -10.0))
    X = np.column_stack([y ^ (rng.random(400) < 0.05), high])
    ours = sampler(config=LEARNING)
    X_new, y_new = ours.fit_resample(X, y, sensitive_features=group)
    new = ours.synthetic_
    assert (X_new[new, 0] == y_new[new]).mean() > 0.85
    assert ((X_new[new, 1] > 0) == ours.sensitive_features_[new]).mean() > 0.85


def test_a_pipeline_under_cross_validation(ones) -> None:
    X, y, race, _ = ones
    model = Pipeline([("balance", sampler()), ("model", LogisticRegression())])
    assert np.isfinite(cross_val_score(model, sparse.csr_matrix(X), y, error_score="raise")).all()

    frame = pd.DataFrame(X, columns=list("abcdef")).assign(race=race)
    encode = make_column_transformer((OneHotEncoder(), ["race"]), remainder="passthrough")
    steps = [("balance", sampler(sensitive_features="race")), ("encode", encode)]
    model = Pipeline([*steps, ("model", LogisticRegression())])
    assert np.isfinite(cross_val_score(model, frame, y, error_score="raise")).all()


def test_groups_are_routed_through_a_pipeline(ones) -> None:
    X, y, race, _ = ones
    with sklearn.config_context(enable_metadata_routing=True):
        balance = sampler().set_fit_resample_request(sensitive_features=True)
        model = Pipeline([("balance", balance), ("model", LogisticRegression())])
        model.fit(X, y, sensitive_features=race)
    after = model["balance"].sensitive_features_
    assert len(after) == 4 * max(sizes(y, race).values())


def test_errors_say_what_to_do(ones) -> None:
    X, y, race, _ = ones
    frame = pd.DataFrame(X, columns=list("abcdef")).assign(race=race)
    with pytest.raises(DataError, match=f"sensitive_features: want {N} rows"):
        sampler().fit_resample(X, y, sensitive_features=race[1:])
    with pytest.raises(ValueError, match="more than 1 class"):
        sampler().fit_resample(X, np.zeros(N))
    with pytest.raises(ValueError, match="NaN"):
        sampler().fit_resample(np.where(X, np.nan, 0), y)
    with pytest.raises(DataError, match="X, column race: want a DataFrame with this column"):
        sampler(sensitive_features="race").fit_resample(X, y)
    with pytest.raises(UsageError, match="given twice"):
        sampler(sensitive_features="race").fit_resample(frame, y, sensitive_features=race)
    with pytest.raises(UsageError, match="config: want a GeneratorConfig or None, got dict"):
        sampler(config={"width": 8}).fit_resample(X, y)
    with pytest.raises(UsageError, match="sizes of classes say nothing of the groups"):
        sampler(sampling_strategy={1: 50}).fit_resample(X, y, sensitive_features=race)
