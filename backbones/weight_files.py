"""Reads weight files of every kind met in the wild, without ever running code that a file names."""

from __future__ import annotations

import argparse
import collections
import io
import pathlib
import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors.torch import load_file as load_safetensors
from torch import Tensor

# Where training code keeps the weights inside a checkpoint, the most specific first.
CONTAINERS = ("state_dict", "model", "module", "model_state", "model_state_dict", "model_ema", "state_dict_ema")

_EXPECTED = "expected weights saved as .pth, .pt, .bin, .pkl or .safetensors"


class CheckpointError(ValueError):
    """Weights that can't be used: the message says what was found and what was expected."""


class _Discarded:
    """Stands in for bookkeeping of a training run, such as log buffers; its content is never used."""


def _discard(*_: object) -> _Discarded:
    return _Discarded()


def read_weights(path: str | Path) -> tuple[dict[str, Any], str]:
    """Reads a file of weights.

    Known layouts: PyTorch files of any age (zip and legacy), detectron2's pickles of numpy arrays, safetensors; the
    weights may stand at the top or under one of `CONTAINERS`. In a checkpoint of a run that averages its weights the
    average stands in their place, as in what the run evaluates and exports.

    Returns:
        The weights by name as the file names them, and where they were found ("FILE" or "FILE, under 'model'").

    Raises:
        CheckpointError: no such file, not a file of weights, damaged, or it holds objects that are not weights.
    """
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no file"
        raise CheckpointError(f"{found} at {path}; {_EXPECTED}")
    content = _guarded(path)
    state, inside = find_weights(content, str(path))
    source = f"{path}, under {inside}" if inside else str(path)
    average = content.get("average") if isinstance(content, Mapping) else None
    if not isinstance(average, Mapping):
        return state, source
    return {**state, **average["values"]}, f"{source}, averaged"


def find_weights(content: object, source: str) -> tuple[dict[str, Any], str]:
    """Finds the mapping of names to tensors in a checkpoint's content.

    Returns:
        The mapping, and the keys that lead to it ("'model'", or "" at the top).

    Raises:
        CheckpointError: there is none.
    """
    found = _search(content)
    if found is not None:
        return found
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{source} holds one {type(content).__name__}; expected tensors by name")
    keys = ", ".join(repr(key) for key in list(content)[:8]) or "nothing"
    raise CheckpointError(f"{source} holds {keys}; expected tensors by name, or these under 'model' or 'state_dict'")


def _search(content: object) -> tuple[dict[str, Any], str] | None:
    if not isinstance(content, Mapping):
        return None
    for key in CONTAINERS:
        found = _search(content.get(key))
        if found is not None:
            state, inside = found
            return state, f"'{key}'" + (f", {inside}" if inside else "")
    if any(isinstance(value, (Tensor, np.ndarray)) for value in content.values()):
        return dict(content), ""
    return None


def _guarded(path: Path) -> object:
    try:
        return _read(path)
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from None
    except Exception as error:  # a damaged pickle raises nearly anything
        text = " ".join(str(error).split()) or type(error).__name__
        refused = re.search(r"nsupported (?:global: )?GLOBAL (\S+)", text)  # torch's words, both kinds of refusal
        if refused:
            raise CheckpointError(f"{path} {_refusal(refused.group(1))}") from None
        reason = text.split("WeightsUnpickler error: ")[-1][:120]
        raise CheckpointError(
            f"{path} can't be read, it is damaged or no checkpoint ({reason}); {_EXPECTED}"
        ) from error


def _read(path: Path) -> object:
    with path.open("rb") as file:
        head = file.read(16)
        file.seek(0)
        if path.suffix == ".safetensors" or _is_safetensors(head):
            return load_safetensors(path)
        if head.startswith(b"PK"):
            return torch_load(file)
        if head.startswith(b"\x80"):
            return _read_pickle(file)
    found = "an empty file" if not head else f"a file that begins with {head[:8]!r}"
    raise CheckpointError(f"is {found}; {_EXPECTED}")


def _is_safetensors(head: bytes) -> bool:
    return len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 1 << 30


def _refusal(name: str) -> str:
    return (
        f"names {name}, which is not a weight: reading it could run code, so the file is refused; expected tensors "
        "only. Ask its author for a plain state dict or a .safetensors file"
    )


# ---------------------------------------------------------------------------------------------- PyTorch's own files


def torch_load(file: str | Path | BinaryIO | io.BytesIO, device: str = "cpu") -> Any:
    """Reads a file of PyTorch's, and what training code keeps in it; on the `device` "meta" tensors come without values."""
    with torch.serialization.safe_globals(_bookkeeping()):
        return torch.load(file, map_location=device, weights_only=True)


def _bookkeeping() -> list[Any]:
    """What training code stores beside the weights and what is harmless to build: options, paths, numbers of numpy."""
    numbers = (np.float64, np.float32, np.int64, np.int32, np.uint8, np.bool_)
    return [
        argparse.Namespace,
        np.dtype,
        np.ndarray,
        *{type(np.dtype(number)) for number in numbers},
        *((function, name) for name, function in _NUMPY.items()),
        *((pathlib.PurePosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")),
        (_encode_latin1, "_codecs.encode"),
        (_Discarded, "mmengine.logging.history_buffer.HistoryBuffer"),
        (_discard, "builtins.getattr"),  # a HistoryBuffer lists its own methods so
    ]


# ------------------------------------------------------------------------------ pickles: legacy PyTorch, numpy arrays


def _read_pickle(file: BinaryIO) -> object:
    first = _ArrayUnpickler(file, encoding="latin1").load()
    if (
        isinstance(first, int) and first == torch.serialization.MAGIC_NUMBER
    ):  # a file of PyTorch before 1.6 is a row of pickles
        file.seek(0)
        return torch_load(file)
    return first


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that can build numpy arrays, tensors and plain containers, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = _ALLOWED.get(f"{module}.{name}")
        if allowed is None:
            raise CheckpointError(_refusal(f"{module}.{name}"))
        return allowed


def _encode_latin1(text: str, encoding: str = "latin1") -> bytes:
    """Python 3 writes the bytes of an array so in protocol 2; other codecs have no place in one."""
    if encoding not in ("latin1", "latin-1"):
        raise CheckpointError(_refusal(f"_codecs.encode to {encoding}"))
    return text.encode("latin1")


def _load_storage(data: bytes) -> object:
    """PyTorch's own function of this place would read the bytes with an unrestricted unpickler."""
    return torch_load(io.BytesIO(data))


def _numpy_functions() -> dict[str, Any]:
    core = np._core if hasattr(np, "_core") else np.core  # numpy 2's name, numpy 1's name
    functions = {
        "multiarray._reconstruct": core.multiarray._reconstruct,
        "multiarray.scalar": core.multiarray.scalar,
        "numeric._frombuffer": core.numeric._frombuffer,
    }
    return {
        f"{folder}.{name}": function for folder in ("numpy.core", "numpy._core") for name, function in functions.items()
    }


_NUMPY = _numpy_functions()
_ALLOWED: dict[str, Any] = {
    "collections.OrderedDict": collections.OrderedDict,
    "argparse.Namespace": argparse.Namespace,
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "_codecs.encode": _encode_latin1,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
    "torch.storage._load_from_bytes": _load_storage,
    **_NUMPY,
}
