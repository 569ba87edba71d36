"""What stands in for the classes and functions that a pickle of weights names; each checks what it is given."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_REPEATED = 1 << 20  # values that a tensor of stride 0 may make of fewer


class Refused(ValueError):
    """A file that names what is no weight, or says what can't be."""


def not_a_weight(name: str) -> Refused:
    """Returns the refusal of a file that names a class or function that no weights need."""
    return Refused(
        f"names {name}, which is not a weight: reading it could run code, so the file is refused; expected tensors only. Ask "
        "its author for a plain state dict or a .safetensors file"
    )


class _Mapping(dict):
    """An OrderedDict; what hangs on it, such as the versions of a state dict's modules, is left out."""

    def __setstate__(self, state: object) -> None:
        pass


class _Namespace(argparse.Namespace):
    """The options of a run."""

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update({name: value for name, value in state.items() if isinstance(name, str)})


class Discarded:
    """Stands in for bookkeeping of a training run, such as log buffers; its content is never used."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _Dtype:
    """numpy.dtype of numbers alone."""

    def __init__(self, name: object = "", *_: object) -> None:
        if not (isinstance(name, str) and re.fullmatch(r"[<>=|]?(b1|[iu][1248]|f[248]|c8|c16)", name)):
            raise not_a_weight(f"numpy.dtype {name!r}")
        self.numpy = np.dtype(name)

    def __setstate__(self, state: object) -> None:
        """Takes the byte order, the one part of a dtype's state that numbers have."""
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "=", "|"):
            raise Refused(f"has a dtype of the state {state!r:.60}")
        self.numpy = self.numpy.newbyteorder(order)


class Array:
    """numpy.ndarray; becomes one when all has been read."""

    def __init__(self, *_: object) -> None:
        self.values: NDArray[Any] = np.empty(0, np.float32)

    def __setstate__(self, state: object) -> None:
        if not (isinstance(state, tuple) and len(state) == 5):
            raise Refused(f"has an array of the state {state!r:.60}")
        _, shape, dtype, by_column, data = state
        self.values = _array(data, dtype, shape, "F" if by_column else "C").values


def _array(data: object, dtype: object, shape: object, order: Any = "C", *_: object) -> Array:
    """An array from its bytes."""
    if isinstance(data, str):  # Python 2's bytes
        data = data.encode("latin1")
    if not (
        isinstance(data, (bytes, bytearray)) and isinstance(dtype, _Dtype) and _are_whole(shape) and order in ("C", "F")
    ):
        raise Refused("has an array that is none of numbers")
    if math.prod(shape) * dtype.numpy.itemsize != len(data):
        raise Refused(f"has an array of {shape} in {len(data)} bytes")
    native = dtype.numpy.newbyteorder("=")
    made = Array()
    made.values = np.frombuffer(data, dtype.numpy).astype(native).reshape(shape, order=order)
    return made


def _scalar(dtype: object, data: object = None) -> Any:
    """A number of numpy's from its bytes."""
    if isinstance(data, str):
        data = data.encode("latin1")
    if not (isinstance(dtype, _Dtype) and isinstance(data, bytes) and len(data) == dtype.numpy.itemsize):
        raise Refused("has a number of numpy's that is none")
    return np.frombuffer(data, dtype.numpy)[0]


class _StorageType(NamedTuple):
    dtype: torch.dtype


class Storage(NamedTuple):
    values: Tensor  # [N]


class Storages:
    """The storages of a file by key; ``load(key, dtype, count)`` gives one that was not asked for before."""

    def __init__(self, load: Callable[[str, torch.dtype, int], Tensor]) -> None:
        self._load, self._known = load, {}  # type: tuple[Any, dict[str, Storage]]

    def __call__(self, given: object) -> Storage:
        if not (isinstance(given, tuple) and len(given) >= 5):
            raise Refused(f"has a storage {given!r:.60}")
        kind, storage_type, key, _, count = given[:5]
        view = (
            given[5] if len(given) > 5 else None
        )  # of a storage in a storage, which PyTorch has not written since 0.4
        if (
            kind != "storage"
            or not isinstance(storage_type, _StorageType)
            or type(key) is not str
            or not _is_whole(count)
            or view
        ):
            raise Refused(f"has a storage {given!r:.60}")
        if key not in self._known:
            self._known[key] = Storage(self._load(key, storage_type.dtype, count))
        return self._known[key]


def _tensor(
    storage: object,
    offset: object,
    size: object,
    stride: object,
    grad: object = False,
    hooks: object = None,
    metadata: object = None,
    *_: object,
) -> Tensor:
    """A tensor from its place in a storage, which it may not leave."""
    if not (isinstance(storage, Storage) and _is_whole(offset) and _are_whole(size) and _are_whole(stride)):
        raise Refused("has a tensor of no known form")
    values, count = storage.values, math.prod(size)
    if len(size) != len(stride) or len(size) > 64:
        raise Refused(f"has a tensor of the size {size} with the strides {stride}")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) if count else offset - 1
    if last >= len(values):
        raise Refused(f"has a tensor of {size} beyond its storage of {len(values)} values")
    if count > max(len(values), _REPEATED):
        raise Refused(
            f"has a tensor of {size} that makes {count:,} values of the {len(values):,} in its storage; expected "
            f"{_REPEATED:,} at most: save it by .contiguous()"
        )
    if isinstance(metadata, dict) and (metadata.get("neg") or metadata.get("conj")):
        raise Refused(
            "has a tensor whose values are those of its storage with another sign; expected the values themselves: save it by "
            ".resolve_neg() and .resolve_conj()"
        )
    return values.as_strided(size, stride, offset if count else 0)


def _tensor_of_dtype(
    storage: object,
    offset: object,
    size: object,
    stride: object,
    grad: object,
    hooks: object,
    dtype: object,
    metadata: object = None,
    *_: object,
) -> Tensor:
    """A tensor of a dtype that has no storage type of its own; its storage is of bytes."""
    if not (isinstance(storage, Storage) and isinstance(dtype, torch.dtype) and storage.values.dtype == torch.uint8):
        raise Refused("has a tensor of no known form")
    whole = len(storage.values) // dtype.itemsize * dtype.itemsize
    return _tensor(Storage(storage.values[:whole].view(dtype)), offset, size, stride, metadata=metadata)


def _without_values(dtype: object, size: object, stride: object, *_: object) -> Tensor:
    """A tensor that was saved without values, whose name and shape a message can tell."""
    if not (isinstance(dtype, torch.dtype) and _are_whole(size)):
        raise Refused("has a tensor of no known form")
    return torch.empty(size, dtype=dtype, device="meta")


def _quantised(*_: object) -> Tensor:
    raise Refused(
        "has quantised tensors, whose integers are no weights by themselves; expected floats: save the model as it was"
    )


def _parameter(data: object, *_: object) -> Tensor:
    if not isinstance(data, Tensor):
        raise Refused("has a parameter that is no tensor")
    return data


def _tensor_with_attributes(rebuild: object, kind: object, args: object, state: object) -> Tensor:
    """A tensor that attributes hang on, which are left out."""
    if rebuild not in (_tensor, _tensor_of_dtype, _parameter) or not isinstance(args, tuple):
        raise Refused("has a tensor of a class of its own; expected plain tensors")
    made: Tensor = rebuild(*args)
    return made


def _encoded(text: object, encoding: object = "latin1") -> bytes:
    """Python 3 writes the bytes of an array so in protocol 2; other codecs have no place in one."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise not_a_weight(f"_codecs.encode to {encoding}")
    return text.encode("latin1")


def _bytearray(data: object = b"", encoding: object = "latin1") -> bytearray:
    return bytearray(
        _encoded(data, encoding) if isinstance(data, str) else bytes(data) if isinstance(data, bytes) else b""
    )


def _no_bytes() -> bytes:
    """Protocol 2 writes bytes that are none as a call."""
    return b""


def _path(*parts: object) -> str:
    return "/".join(map(str, parts))


def _device(*parts: object) -> str:
    return ":".join(map(str, parts))


def _is_whole(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 1 << 48


def _are_whole(values: object) -> TypeGuard[tuple[int, ...]]:
    return isinstance(values, tuple) and all(map(_is_whole, values))


_STORAGES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
    "Untyped": torch.uint8,
}
_QUANTISED = {"QInt8": torch.int8, "QUInt8": torch.uint8, "QInt32": torch.int32}
_DTYPES = [
    kind for kind in vars(torch).values() if isinstance(kind, torch.dtype) and not str(kind).startswith("torch.q")
]
# What a file may name, and what stands in for it.
KNOWN: dict[str, Any] = {
    "collections.OrderedDict": _Mapping,
    "collections.Counter": _Mapping,
    "argparse.Namespace": _Namespace,
    "_codecs.encode": _encoded,
    **{f"{module}.set": set for module in ("builtins", "__builtin__")},
    **{f"{module}.complex": complex for module in ("builtins", "__builtin__")},
    **{f"{module}.bytes": _no_bytes for module in ("builtins", "__builtin__")},
    **{f"{module}.bytearray": _bytearray for module in ("builtins", "__builtin__")},
    **{
        f"{module}.getattr": Discarded for module in ("builtins", "__builtin__")
    },  # a HistoryBuffer lists its own methods so
    "mmengine.logging.history_buffer.HistoryBuffer": Discarded,
    **{
        f"{module}.{name}": _path for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "PurePosixPath")
    },
    "torch.Size": tuple,
    "torch.device": _device,
    **{f"torch.{name}Storage": _StorageType(dtype) for name, dtype in (_STORAGES | _QUANTISED).items()},
    **{f"torch.cuda.{name}Storage": _StorageType(dtype) for name, dtype in _STORAGES.items()},
    "torch.storage.UntypedStorage": _StorageType(torch.uint8),
    **{str(dtype): dtype for dtype in _DTYPES},
    **{f"torch.{name}": name for name in ("per_tensor_affine", "per_channel_affine", "per_tensor_symmetric")},
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_meta_tensor_no_storage": _without_values,
    "torch._utils._rebuild_qtensor": _quantised,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _tensor_with_attributes,
    "torch._tensor.Tensor": Tensor,
    "torch.Tensor": Tensor,
    "torch.nn.parameter.Parameter": torch.nn.Parameter,
    "numpy.dtype": _Dtype,
    "numpy.ndarray": Array,
    **{
        f"numpy.{core}.{name}": stand_in
        for core in ("core", "_core")
        for name, stand_in in {
            "multiarray._reconstruct": Array,
            "multiarray.scalar": _scalar,
            "numeric._frombuffer": _array,
        }.items()
    },
}
# Named as arguments, never called: `_tensor_with_attributes` is told of them.
NAMES_ALONE = (Tensor, torch.nn.Parameter)
BUILT = (_Mapping, _Namespace, Discarded, _Dtype, Array)


def from_bytes(data: bytes, dtype: torch.dtype, count: int, swapped: bool) -> Tensor:
    """Returns ``count`` values from their bytes, in the other byte order if ``swapped``; raises Refused for too few."""
    if len(data) < count * dtype.itemsize:
        raise Refused(f"has {len(data)} bytes for {count} values of {dtype}")
    if count == 0:
        return torch.empty(0, dtype=dtype)
    content = bytearray(data)
    if swapped and dtype.itemsize > 1:
        part = dtype.itemsize // (2 if dtype.is_complex else 1)
        content = bytearray(np.frombuffer(data, f"V{part}").view(f"u{part}").byteswap().tobytes())
    return torch.frombuffer(content, dtype=dtype, count=count)
