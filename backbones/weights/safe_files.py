"""Reads files of PyTorch, of pickled arrays and of safetensors whole, without ever running code that they name."""

from __future__ import annotations

import os
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import safe_open
from safetensors.torch import load_file as load_safetensors

from convmae.backbones.weights.pickles import read_pickle, read_zip
from convmae.backbones.weights.stand_ins import Refused

EXPECTED = "expected weights saved as .pth, .pt, .bin, .pkl or .safetensors"


class CheckpointError(ValueError):
    """Weights that can't be used: the message says what was found and what was expected."""


class DamagedFile(CheckpointError):
    """A file that was cut off or altered, or never was one of weights."""


def read_file(path: Path, values: bool = True, sums: bool = True) -> Any:
    """Returns what a file holds; without ``values`` tensors are on the device "meta", and of safetensors only texts are there.

    The sums of a zip archive are compared, which PyTorch leaves undone: they cost a tenth of the time of reading. Without
    ``values`` and ``sums`` hardly anything of a file is read.

    Raises:
        DamagedFile: it was cut off or altered, or is no file of weights.
        CheckpointError: there is none, it can't be opened, or it holds objects that are not weights.
    """
    if not os.path.isfile(path):
        found = "a folder" if os.path.isdir(path) else "a pipe or device" if os.path.exists(path) else "no file"
        raise CheckpointError(f"{found} at {path}; {EXPECTED}")
    try:
        return _read(path, values, sums)
    except Refused as error:
        raise CheckpointError(f"{path} {error}") from None
    except DamagedFile as error:
        raise DamagedFile(f"{path} {error}") from None
    except PermissionError as error:
        raise CheckpointError(f"{path} can't be opened ({error.strerror}); {EXPECTED}") from None
    except Exception as error:  # a damaged pickle raises nearly anything
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise DamagedFile(f"{path} can't be read, it is damaged or no checkpoint ({reason}); {EXPECTED}") from error


def _read(path: Path, values: bool, sums: bool) -> object:
    with path.open("rb") as file:
        head = file.read(16)
        file.seek(0)
        if path.suffix == ".safetensors" or _is_safetensors(head):
            return load_safetensors(path) if values else _texts(path)
        if head.startswith(b"PK"):
            if sums and not values:
                _check_sums(file)
            return read_zip(file, values)
        if head.startswith(b"\x80"):
            return read_pickle(file, values)
    found = "an empty file" if not head else f"a file that begins with {head[:8]!r}"
    raise DamagedFile(f"is {found}; {EXPECTED}")


def _texts(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})


def _check_sums(file: BinaryIO) -> None:
    """Raises DamagedFile where a part of a zip archive isn't what was written."""
    with zipfile.ZipFile(file) as archive:
        # PyTorch leaves all sums out where `torch.serialization.set_crc32_options(False)` asks for it.
        altered = archive.testzip() if any(part.CRC for part in archive.infolist()) else None
    if altered:
        raise DamagedFile(f"is damaged: its part {altered} is not what was written; {EXPECTED}")


def _is_safetensors(head: bytes) -> bool:
    return len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 1 << 30
