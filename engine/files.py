"""Files that are either whole or not there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch


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


def save_weights(state: dict[str, torch.Tensor], path: Path) -> Path:
    """Writes named weights as ``{"model": ...}`` (.pth) or as safetensors, by the ending, and returns the path."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    if path.suffix == ".safetensors":
        save_atomically(lambda file: file.write(safetensors.torch.save(plain, {"format": "pt"})), path)
    else:
        save_atomically(lambda file: torch.save({"model": plain}, file), path)
    return path
