"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from convmae.engine.errors import UserError


def save_atomically(write: Callable[[Any], None], path: Path) -> None:
    """Calls ``write`` on a binary file beside ``path`` and moves it there once it is whole and on the disk."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Writes a text file and the folders above it. Raises UserError where that can't be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_atomically(lambda file: file.write(text.encode()), path)
    except OSError as error:
        raise UserError(f"{path} can't be written ({error.strerror}); give another place or make room.") from error


def save_weights(state: dict[str, torch.Tensor], path: Path, config: str = "") -> Path:
    """Writes named weights as ``{"model": ..., "config": ...}`` (.pth) or as safetensors, by the ending; returns the path.

    ``config`` is the YAML of the run that made them, so that tools know what the weights are.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    if path.suffix == ".safetensors":
        content = safetensors.torch.save(plain, {"format": "pt", "config": config})
        save_atomically(lambda file: file.write(content), path)
    else:
        save_atomically(lambda file: torch.save({"model": plain, "config": config}, file), path)
    return path


def read_config(path: Path) -> str:
    """Returns the YAML that ``save_weights`` put beside the weights, or "" where a file has none."""
    if path.suffix == ".safetensors":
        with safetensors.safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("config", "")
    with contextlib.suppress(
        pickle.UnpicklingError
    ):  # a file of others, with more in it than tensors: it has none of ours
        content = torch.load(path, map_location="meta", weights_only=True)
        return str(content.get("config", "")) if isinstance(content, dict) else ""
    return ""
