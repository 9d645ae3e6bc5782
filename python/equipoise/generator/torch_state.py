"""State dicts of PyTorch, read without PyTorch and without running what a pickle may hold.

A file that `torch.save` wrote is a zip: `data.pkl` says which tensors there are, `data/0`, `data/1`
... hold their bytes. The description is a pickle, a program that may call any function by name. It
is not run here: its instructions are listed by `pickletools`, and the few that build a state dict
are followed; whatever else it asks for is refused.
"""

from __future__ import annotations

import pickletools
import zipfile
import zlib
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from math import prod
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

    They are views of the bytes that were read, which are no more than the file has. A checkpoint
    that holds its state dict under "model", as HALO's do, is looked into; nothing else of it is
    read. Raises `DataError` for anything else, and for a file that asks for other calls.
    """
    path = Path(path)
    try:
        if not zipfile.is_zipfile(path):
            return dict(load_file(path))
        with zipfile.ZipFile(path) as archive:
            found = _description(archive)
            state = found.get("model", found)
            tensors = {name: it for name, it in state.items() if isinstance(it, _Tensor)}
            # Once each: many tensors may name one of them.
            files = {tensor.storage.file for tensor in tensors.values()}
            stored = {file: _read(archive, file) for file in sorted(files)}
            return {name: _array(it, stored[it.storage.file]) for name, it in tensors.items()}
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        EOFError,
        IndexError,
        OverflowError,
        RuntimeError,  # As for an encrypted archive.
        zipfile.BadZipFile,
        zlib.error,
        SafetensorError,
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


_KNOWN: Final[Mapping[str, Callable[..., Any]]] = {
    "collections OrderedDict": dict,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": lambda tensor, *_: tensor,
    **{f"torch {name}": lambda: None for name in _STORAGES},
}
_PLAIN: Final = [
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "BINFLOAT",
]
_CONSTANTS: Final[Mapping[str, Any]] = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_DICT": {},
    "EMPTY_LIST": [],
    "EMPTY_TUPLE": (),
}
_IDLE: Final = ("PROTO", "FRAME", "STOP")


class _Builder:
    """Follows the instructions of a description, on a stack as pickles want it."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def follow(self, name: str, argument: Any) -> None:
        """One instruction; raises `ValueError` for one that no state dict needs."""
        if name in _CONSTANTS:
            self.stack.append(copy(_CONSTANTS[name]))
        elif name in _PLAIN:
            self.stack.append(argument)
        elif name not in _IDLE and not self._contain(name) and not self._remember(name, argument):
            self._call(name, argument)

    def _contain(self, name: str) -> bool:
        """Tuples, lists and dictionaries."""
        match name:
            case "TUPLE":
                self.stack.append(tuple(self._since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.stack.append(tuple(self._pop(int(name[-1]))))
            case "APPEND" | "APPENDS":
                items = self._pop(1) if name == "APPEND" else self._since_mark()
                self.stack[-1].extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._pop(2) if name == "SETITEM" else self._since_mark()
                self.stack[-1].update(zip(items[::2], items[1::2], strict=True))
            case "BUILD":
                self._pop(1)  # Attributes of a dictionary, such as the versions of modules.
            case _:
                return False
        return True

    def _remember(self, name: str, argument: Any) -> bool:
        match name:
            case "MARK":
                self.marks.append(len(self.stack))
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case _:
                return False
        return True

    def _call(self, name: str, argument: Any) -> None:
        match name:
            case "GLOBAL" | "STACK_GLOBAL":
                asked = argument or " ".join(self._pop(2))
                if asked not in _KNOWN:
                    raise ValueError(f"a file that asks for {asked.replace(' ', '.')}")
                self.stack.append(asked)
            case "BINPERSID":
                _, kind, key, _, elements = self.stack.pop()
                dtype = _STORAGES[kind.removeprefix("torch ")]
                self.stack.append(_Storage(f"{self.root}data/{int(key)}", dtype, int(elements)))
            case "REDUCE":
                known, arguments = self._pop(2)
                self.stack.append(_KNOWN[known](*arguments))
            case _:
                raise ValueError(f"a file with the instruction {name}")

    def _pop(self, count: int) -> list[Any]:
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def _since_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items


def _description(archive: zipfile.ZipFile) -> Mapping[str, Any]:
    (name,) = (name for name in archive.namelist() if name.count("/") == 1 and "data.pkl" in name)
    builder = _Builder(name.removesuffix("data.pkl"))
    for opcode, argument, _ in pickletools.genops(_read(archive, name)):
        builder.follow(opcode.name, argument)
    (found,) = builder.stack
    if not isinstance(found, Mapping):
        raise ValueError(f"a {type(found).__name__}")
    return found


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    """A file of the archive; raises `ValueError` for a packed one, which may be of any size."""
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} packed, which torch.save never does")
    return archive.read(name)


def _array(tensor: _Tensor, stored: bytes) -> npt.NDArray[Any]:
    flat = np.frombuffer(stored, np.dtype(tensor.storage.dtype))
    ends = [(size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True)]
    inside = min([tensor.offset, *tensor.strides, *tensor.shape], default=0) >= 0
    if not inside or (0 not in tensor.shape and tensor.offset + sum(ends) >= len(flat)):
        raise ValueError(f"a tensor of shape {tensor.shape} beyond its {len(flat)} elements")
    if prod(tensor.shape) > len(flat):
        raise ValueError(f"a tensor of shape {tensor.shape} made of {len(flat)} elements")
    bytes_apart = [stride * flat.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(
        flat[tensor.offset :], tensor.shape, bytes_apart, writeable=False
    )
