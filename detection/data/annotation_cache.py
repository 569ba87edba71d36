"""What large annotation files say, kept as arrays, so that the text is read once.

The files lie in the user's cache folder: a data folder is often read-only or shared. They are safetensors, which run no code,
and are one for each annotation file, replaced when it changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from convmae.engine.errors import UserError
from convmae.engine.files import save_atomically
from convmae.engine.log import log


def cache_path(source: Path) -> Path | None:
    """Returns where the arrays of a file are kept, under XDG_CACHE_HOME or ~/.cache; None for a user without a home."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(given if os.path.isabs(given) else os.path.expanduser("~/.cache"))
    name = f"{source.stem}-{hashlib.sha256(os.fsencode(os.path.realpath(source))).hexdigest()[:16]}.safetensors"
    return folder / "convmae" / name if folder.is_absolute() else None


def stamp(source: Path, code: str) -> str:
    """Returns a text that is another when the file or the code that reads it has changed. Raises OSError for no file."""
    state = source.stat()
    # ctime too: copying tools set a file's old mtime, no tool sets its ctime.
    return json.dumps([os.path.realpath(source), state.st_size, state.st_mtime_ns, state.st_ctime_ns, code])


def load_arrays(path: Path, expected: str) -> dict[str, NDArray] | None:
    """Returns the arrays in a cache file; None if it is not there, has another stamp or is damaged."""
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, "np") as file:
            notes = file.metadata() or {}
            if notes.get("stamp") != expected:
                return None
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no dict)
    except (OSError, safetensors.SafetensorError) as error:
        log.info(f"the cache {path} can't be read ({error}) and is made anew")
        return None
    if notes.get("checksum") != _checksum(arrays):
        log.info(f"the cache {path} is damaged and is made anew")
        return None
    return arrays


def save_arrays(path: Path, arrays: dict[str, NDArray], stamp: str) -> None:
    """Writes a cache file, whole or not at all; where that is impossible, it says so and the run goes on without."""
    whole = {name: np.ascontiguousarray(values) for name, values in arrays.items()}  # a view would be saved as it lies
    content = safetensors.numpy.save(whole, {"stamp": stamp, "checksum": _checksum(whole)})
    try:
        save_atomically(lambda file: file.write(content), path)
    except UserError as error:
        log.info(f"the next start reads the annotations again, for they can't be kept: {error}")


def _checksum(arrays: dict[str, NDArray]) -> str:
    total = 0
    for name in sorted(arrays):
        values = np.ascontiguousarray(arrays[name])
        total = zlib.crc32(values.data, zlib.crc32(f"{name} {values.dtype} {values.shape}".encode(), total))
    return str(total)
