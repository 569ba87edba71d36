"""Reads files of PyTorch, of pickled arrays and of safetensors whole, without ever running code that they name."""

from __future__ import annotations

import argparse
import collections
import io
import pathlib
import pickle
import re
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors.torch import load_file as load_safetensors

EXPECTED = "expected weights saved as .pth, .pt, .bin, .pkl or .safetensors"


class CheckpointError(ValueError):
    """Weights that can't be used: the message says what was found and what was expected."""


class DamagedFile(CheckpointError):
    """A file that was cut off or altered, or never was one of weights."""


class _Discarded:
    """Stands in for bookkeeping of a training run, such as log buffers; its content is never used."""


def _discard(*_: object) -> _Discarded:
    return _Discarded()


def read_file(path: Path, device: str = "cpu") -> Any:
    """Returns what a file holds; on the ``device`` "meta" tensors of PyTorch's own files come without values.

    A zip archive's own sums are compared first, which PyTorch leaves undone: they cost a tenth of the time of reading.

    Raises:
        DamagedFile: it was cut off or altered, or is no file of weights.
        CheckpointError: there is none, it can't be opened, or it holds objects that are not weights.
    """
    if not path.is_file():
        raise CheckpointError(f"{'a folder' if path.is_dir() else 'no file'} at {path}; {EXPECTED}")
    try:
        return _read(path, device)
    except CheckpointError as error:
        raise type(error)(f"{path} {error}") from None
    except PermissionError as error:
        raise CheckpointError(f"{path} can't be opened ({error.strerror}); {EXPECTED}") from None
    except Exception as error:  # a damaged pickle raises nearly anything
        text = " ".join(str(error).split()) or type(error).__name__
        refused = re.search(r"nsupported (?:global: )?GLOBAL (\S+)", text)  # torch's words, both kinds of refusal
        if refused:
            raise CheckpointError(f"{path} {_refusal(refused.group(1))}") from None
        reason = text.split("WeightsUnpickler error: ")[-1][:120]
        raise DamagedFile(f"{path} can't be read, it is damaged or no checkpoint ({reason}); {EXPECTED}") from error


def _read(path: Path, device: str) -> object:
    with path.open("rb") as file:
        head = file.read(16)
        file.seek(0)
        if path.suffix == ".safetensors" or _is_safetensors(head):
            return load_safetensors(path)
        if head.startswith(b"PK"):
            _check_sums(file)
            file.seek(0)
            return torch_load(file, device)
        if head.startswith(b"\x80"):
            return _read_pickle(file, device)
    found = "an empty file" if not head else f"a file that begins with {head[:8]!r}"
    raise DamagedFile(f"is {found}; {EXPECTED}")


def _check_sums(file: BinaryIO) -> None:
    """Raises DamagedFile where a part of a zip archive isn't what was written."""
    with zipfile.ZipFile(file) as archive:
        # PyTorch leaves all sums out where `torch.serialization.set_crc32_options(False)` asks for it.
        altered = archive.testzip() if any(part.CRC for part in archive.infolist()) else None
    if altered:
        raise DamagedFile(f"is damaged: its part {altered} is not what was written; {EXPECTED}")


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


def _read_pickle(file: BinaryIO, device: str) -> object:
    first = _ArrayUnpickler(file, encoding="latin1").load()
    if (
        isinstance(first, int) and first == torch.serialization.MAGIC_NUMBER
    ):  # a file of PyTorch before 1.6 is a row of pickles
        file.seek(0)
        return torch_load(file, device)
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
