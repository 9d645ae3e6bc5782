"""State dicts of PyTorch, read without PyTorch and without running what a pickle may hold.

A file that `torch.save` wrote is a zip: `data.pkl` says which tensors there are, `data/0`, `data/1`
... hold their bytes. The description is a pickle, which could name any function to be called; this
reader knows the four that a state dict needs and refuses all others.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file

from equipoise.errors import DataError

_STORAGES: Final[Mapping[str, Any]] = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


def read_state(path: Path | str) -> dict[str, npt.NDArray[Any]]:
    """The tensors of a state dict by name, from safetensors or from `torch.save` (1.6 or later).

    A checkpoint that holds its state dict under "model", as HALO's do, is looked into; nothing else
    of it is read. Raises `DataError` for anything else, and for a pickle that asks for a call.
    """
    path = Path(path)
    try:
        if not zipfile.is_zipfile(path):
            return dict(load_file(path))
        with zipfile.ZipFile(path) as archive:
            found = _description(archive)
            state = found.get("model", found)
            return {
                name: _array(archive, tensor)
                for name, tensor in state.items()
                if isinstance(tensor, _Tensor)
            }
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        EOFError,
        IndexError,
        zipfile.BadZipFile,
        SafetensorError,
        pickle.UnpicklingError,
    ) as error:
        raise DataError(
            table=str(path),
            want="a state dict, of torch.save or safetensors",
            got=str(error) or type(error).__name__,
            hint="Files of PyTorch before 1.6: load and save them again",
        ) from None


@dataclass(frozen=True)
class _Storage:
    file: str
    dtype: Any
    elements: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


class _Names(pickle.Unpickler):
    """Tensors as `_Tensor`; nothing else that has a name."""

    root = ""

    def find_class(self, module: str, name: str) -> Any:
        known: Mapping[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        }
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) in known:
            return known[module, name]
        raise pickle.UnpicklingError(f"a file that asks to call {module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, _, elements = pid
        return _Storage(f"{self.root}data/{int(key)}", dtype, int(elements))


def _description(archive: zipfile.ZipFile) -> Mapping[str, Any]:
    (name,) = (name for name in archive.namelist() if name.count("/") == 1 and "data.pkl" in name)
    with archive.open(name) as file:
        names = _Names(file)
        names.root = name.removesuffix("data.pkl")
        found = names.load()
    if not isinstance(found, Mapping):
        raise ValueError(f"a {type(found).__name__}")
    return found


def _array(archive: zipfile.ZipFile, tensor: _Tensor) -> npt.NDArray[Any]:
    storage = tensor.storage
    flat = np.frombuffer(archive.read(storage.file), np.dtype(storage.dtype))
    ends = [(size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True)]
    inside = min([tensor.offset, *tensor.strides, *tensor.shape], default=0) >= 0
    if not inside or (0 not in tensor.shape and tensor.offset + sum(ends) >= len(flat)):
        raise ValueError(f"a tensor of shape {tensor.shape} beyond its {len(flat)} elements")
    bytes_apart = [stride * flat.itemsize for stride in tensor.strides]
    view = np.lib.stride_tricks.as_strided(
        flat[tensor.offset :], tensor.shape, bytes_apart, writeable=False
    )
    return np.array(view)
