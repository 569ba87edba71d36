"""Which files of a folder are pictures."""

from __future__ import annotations

import os
from pathlib import Path

from convmae.engine.errors import UserError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif"}


def list_images(folder: str | Path) -> list[Path]:
    """Returns the pictures in a folder and the folders below it, sorted. Raises UserError if there are none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: expected one that holds pictures.")
    found = [
        Path(parent, name)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
    ]
    if not found:
        raise UserError(f"{folder} holds no pictures: expected files ending in {', '.join(sorted(SUFFIXES))}.")
    return sorted(found)
