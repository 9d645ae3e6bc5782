"""Systems of codes, told before the codes."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from equipoise.cohort import cohort_from_lists
from equipoise.generator import GeneratorConfig, load_generator, sample, train_generator
from equipoise.generator.systems import Seen, systems_of
from equipoise.vocabulary import Vocabulary
from generator_toys import plan_of


@pytest.mark.parametrize(
    ("names", "systems"),
    [
        (["ICD10:A", "ICD10:B", "ICD9:A", "smoker"], [0, 0, 1, -1]),
        (["ICD9:A", "ICD9:B"], [-1, -1]),
        (["A", "ICD8:B", "x ICD9:C"], [-1, -1, -1]),
        ([], []),
    ],
)
def test_columns_are_of_a_system_if_there_are_several(names, systems):
    assert systems_of(Vocabulary.of_codes(names)).tolist() == systems


def toy_cohort(subjects: int = 300):
    """Visits of one, two or three codes of one system, or now and then of none."""
    vocabulary = Vocabulary.of_codes([f"ICD{v}:{c}" for v in (10, 9) for c in "ABCD"] + ["other"])
    rng = np.random.default_rng(0)
    records = []
    for _ in range(subjects):
        side = 4 * int(rng.random() < 0.4)
        codes = side + rng.permutation(4)[: rng.integers(1, 4)]
        other = [8] if rng.random() < 0.5 else []
        records.append([sorted({*codes.tolist(), *other} if rng.random() < 0.95 else {*other})])
    frame = {"label": rng.random(subjects) < 0.5, "sex": rng.choice(["F", "M"], subjects)}
    return cohort_from_lists(records, pl.DataFrame(frame), vocabulary)


def test_it_starts_from_how_often_visits_are_of_a_system():
    cohort = toy_cohort()
    x = cohort.matrix().toarray()
    ten, nine = x[:, :4].any(axis=1), x[:, 4:8].any(axis=1)
    seen = Seen.of(cohort, 2)
    assert seen.visits().tolist() == [ten.sum()] * 4 + [nine.sum()] * 4 + [len(x)]
    start = seen.weights(16)
    assert start["systems.member_VS"].sum(axis=0).tolist() == [4, 4]

    def share(log_odds):
        return 1 / (1 + np.exp(-log_odds))

    bias, direct = start["systems.bias_S"], start["systems.direct_SS"]
    assert share(bias[0]) == pytest.approx(ten.mean(), abs=0.01)
    assert share(bias[1]) == pytest.approx(nine[~ten].mean(), abs=0.01)
    assert share(bias[1] + direct[0, 1]) == pytest.approx(0, abs=0.01)


def test_synthetic_visits_are_of_one_system_as_real_ones_are(tmp_path):
    cohort = toy_cohort()
    config = GeneratorConfig.for_cohort(cohort)
    assert config.systems == 2
    generator = train_generator(cohort, ["sex"], config=config)
    generator.save(tmp_path / "model")
    loaded = load_generator(tmp_path / "model")
    member = np.asarray(loaded.params["systems"]["member_VS"])
    np.testing.assert_allclose(member[: len(cohort.vocabulary)], Seen.of(cohort, 2).member_VS)
    drawn = sample(loaded, plan_of([500] * 4))
    x = drawn.matrix().toarray()
    ten, nine = x[:, :4].any(axis=1), x[:, 4:8].any(axis=1)
    assert (ten & nine).mean() < 0.01
    real = cohort.matrix().toarray()
    assert ten.mean() == pytest.approx(real[:, :4].any(axis=1).mean(), abs=0.08)
    of_none = ~real[:, :8].any(axis=1)
    assert (~ten & ~nine).mean() == pytest.approx(of_none.mean(), abs=0.05)
