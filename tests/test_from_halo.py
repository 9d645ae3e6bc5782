"""Weights of the public HALO: read without running code, and giving HALO's own logits."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

from equipoise.cohort import cohort_from_lists
from equipoise.errors import DataError
from equipoise.generator import from_halo_checkpoint, load_generator, sample
from equipoise.generator.batches import Shape, pad
from equipoise.generator.conditions import Conditions
from equipoise.generator.network import end_token, multi_hot
from equipoise.generator.torch_state import _array, _Storage, _Tensor, read_state
from equipoise.vocabulary import Vocabulary
from generator_toys import ToyPlan

GOLDEN = Path(__file__).parent / "golden"
CODES, LEVELS = 21, ["a", "b", "c", "d"]
VOCABULARY = Vocabulary.of_codes([f"C{i:02d}" for i in range(CODES)])


def conditions() -> Conditions:
    cells = [(label, level, 1) for label in (False, True) for level in LEVELS]
    frame = pl.DataFrame(cells, schema=["label", "group", "subjects"], orient="row")
    return Conditions(frame, ("group",))


def imported(path: Path):
    return from_halo_checkpoint(path, VOCABULARY, conditions(), heads=3)


def subjects_of(x_BLV: np.ndarray) -> pl.DataFrame:
    level_B = x_BLV[:, 1, CODES + 1 : CODES + 5].argmax(1)
    return pl.DataFrame(
        {"label": x_BLV[:, 1, CODES] > 0, "group": [LEVELS[level] for level in level_B]}
    )


def logits_of(generator, x_BLV: np.ndarray) -> list[np.ndarray]:
    """(visits, codes + 1) of each subject: codes, then the end."""
    ended_B = x_BLV[:, 2:, -2].argmax(1) + 1
    records = [
        [np.flatnonzero(visit[:CODES]).tolist() for visit in record[2 : 2 + visits]]
        for record, visits in zip(x_BLV, ended_B, strict=True)
    ]
    cohort = cohort_from_lists(records, subjects_of(x_BLV), generator.vocabulary)
    visits = int(ended_B.sum())
    shape = Shape(len(x_BLV), 4, visits, 2 * visits, len(x_BLV))
    end = end_token(CODES, generator.config)
    batch = pad(cohort.nested, generator.conditions.encode(cohort.subjects), shape, end)

    @jax.jit
    def run(params, batch):
        halo = generator.graph.with_weights(params)
        visits_ND = halo.coarse.embed_lists(batch.owner, batch.codes, visits)
        h_ND = halo.coarse(batch.conditions, visits_ND, batch.grid, batch.place)
        x_NV = multi_hot(batch.owner, batch.codes, (visits, halo.head.tokens))
        return halo.head.logits(h_ND, x_NV)

    logits_NV = np.asarray(run(generator.params, jax.tree.map(jnp.asarray, batch)))
    wanted = [*range(CODES), end]
    return np.split(logits_NV[:, wanted], np.cumsum(ended_B)[:-1])


def assert_same_logits(folder: Path) -> None:
    with np.load(folder / "halo.npz") as arrays:
        x_BLV, want_BLV = arrays["x"], arrays["logits"]
    for got_TV, want_LV in zip(
        logits_of(imported(folder / "halo.pt"), x_BLV), want_BLV, strict=True
    ):
        want_TV = want_LV[1 : 1 + len(got_TV)][:, [*range(CODES), -2]]
        assert np.abs(want_TV).max() > 1
        np.testing.assert_allclose(got_TV, want_TV, atol=1e-5, rtol=1e-5)


def test_logits_are_halos_own():
    """Against logits that PyTorch gave (benches/halo_torch.py, kept in tests/golden)."""
    assert_same_logits(GOLDEN)


@pytest.mark.slow
def test_logits_are_halos_own_whatever_the_version_of_pytorch(tmp_path):
    """The same with the PyTorch that is installed, in this environment or the system's."""
    script = Path(__file__).parents[1] / "benches" / "halo_torch.py"
    pythons = [sys.executable, shutil.which("python3", path="/usr/bin:/bin")]
    able = [
        python
        for python in pythons
        if python and not subprocess.call([python, "-c", "import torch"], stderr=subprocess.DEVNULL)
    ]
    if not able and "CI" not in os.environ:
        pytest.skip("no Python here has PyTorch: pip install torch, or apt install python3-torch")
    subprocess.run([able[0], script, tmp_path], check=True)
    assert_same_logits(tmp_path)


def test_the_imported_generator_samples_and_is_saved(tmp_path):
    generator = imported(GOLDEN / "halo.pt")
    plan = ToyPlan(conditions().cells.rename({"subjects": "synthetic"}), ["group"])
    cohort = sample(generator, plan)
    assert len(cohort) == 8
    assert cohort.codes.max() < CODES
    assert np.diff(cohort.visit_offsets).max() <= 4
    generator.save(tmp_path / "model")
    again = sample(load_generator(tmp_path / "model"), plan)
    assert np.array_equal(cohort.codes, again.codes)


def test_safetensors_serve_as_well(tmp_path):
    state = read_state(GOLDEN / "halo.pt")
    save_file({name: np.ascontiguousarray(array) for name, array in state.items()}, tmp_path / "h")
    one, two = imported(GOLDEN / "halo.pt"), imported(tmp_path / "h")
    assert all(map(np.array_equal, jax.tree.leaves(one.params), jax.tree.leaves(two.params)))


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as archive:
        archive.writestr("evil/data.pkl", pickle.dumps({"model": Evil(tmp_path / "ran")}))
    with pytest.raises(DataError, match="asks for posix.mkdir"):
        imported(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def rewritten(path, change):
    """The golden checkpoint with another description, as a zip."""
    with zipfile.ZipFile(GOLDEN / "halo.pt") as good, zipfile.ZipFile(path, "w") as bad:
        for name in good.namelist():
            data = good.read(name)
            bad.writestr(name, change(data) if name.endswith("data.pkl") else data)
    return path


def test_a_tensor_larger_than_its_bytes_is_refused():
    """A stride of 0 would make any shape of one element."""
    evil = _Tensor(_Storage("s", np.float32, 1), 0, (1 << 40,), (0,))
    with pytest.raises(ValueError, match="made of 1 elements"):
        _array(evil, np.zeros(1, np.float32).tobytes())


def test_a_packed_archive_is_refused_unread(tmp_path):
    """A few of its bytes could become any number."""
    path = tmp_path / "packed.pt"
    packed = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(GOLDEN / "halo.pt") as good, packed as archive:
        for name in good.namelist():
            archive.writestr(name, good.read(name))
    with pytest.raises(DataError, match="packed, which torch.save never does"):
        read_state(path)


def test_tensors_of_one_storage_share_its_bytes(tmp_path):
    """As tied weights do; a thousand that name one would cost no more."""
    first, second = (b"X\x01\x00\x00\x00%dq" % storage for storage in (0, 1))
    state = read_state(rewritten(tmp_path / "tied.pt", lambda it: it.replace(second, first, 1)))
    visits, places = (state[f"transformer.{name}_embed_mat.weight"] for name in ("vis", "pos"))
    assert np.shares_memory(visits, places)
    assert np.array_equal(visits.ravel()[: places.size], places.ravel())


def test_an_archive_that_cannot_be_inflated_is_refused(tmp_path):
    path = rewritten(tmp_path / "halo.pt", lambda data: data)
    data = bytearray(path.read_bytes())
    start = data.index(b"PK\x01\x02")
    data[start + 8] |= 1  # The directory says that the first file is encrypted.
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match="state dict"):
        imported(path)


@pytest.mark.parametrize("damage", ["cut", "text", "tail", "missing"])
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    data = (GOLDEN / "halo.pt").read_bytes()
    path = tmp_path / "halo.pt"
    if damage != "missing":
        path.write_bytes({"cut": data[: len(data) // 2], "text": b"no", "tail": data[100:]}[damage])
    with pytest.raises(DataError, match="state dict"):
        imported(path)


def test_a_tensor_beyond_its_bytes_is_refused(tmp_path):
    """Strides are taken from the file: none may reach outside of its storage."""
    with (
        zipfile.ZipFile(GOLDEN / "halo.pt") as good,
        zipfile.ZipFile(tmp_path / "bad.pt", "w") as bad,
    ):
        for name in good.namelist():
            data = good.read(name)
            bad.writestr(name, data[: len(data) // 2] if "/data/" in name else data)
    with pytest.raises(DataError, match="beyond its"):
        imported(tmp_path / "bad.pt")


def test_another_vocabulary_or_other_conditions_are_refused(tmp_path):
    short = Vocabulary.of_codes([f"C{i:02d}" for i in range(CODES - 1)])
    with pytest.raises(DataError, match="20 codes, 5 label bits"):
        from_halo_checkpoint(GOLDEN / "halo.pt", short, conditions())
    save_file({"transformer.vis_embed_mat.weight": np.zeros((12, 29), np.float32)}, tmp_path / "h")
    with pytest.raises(DataError, match="pos_embed_mat"):
        imported(tmp_path / "h")
