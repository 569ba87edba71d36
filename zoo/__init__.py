"""Weights that come with the package and are found by name; README.md tells of each what it is and how it came about."""

from __future__ import annotations

import os
from pathlib import Path

_FOLDER, _ENDING = Path(__file__).parent, ".safetensors"


def shipped_weights() -> list[str]:
    """Returns the names of the weights that come with the package."""
    return sorted(path.stem for path in _FOLDER.glob(f"*{_ENDING}"))


def shipped_file(weights: str | Path) -> Path | None:
    """Returns the file of shipped weights by their name alone; None for a file of the user's and for any other path."""
    name = str(weights)
    if os.path.exists(name) or name not in shipped_weights():
        return None
    return _FOLDER / f"{name}{_ENDING}"
