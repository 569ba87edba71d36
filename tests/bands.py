"""Pictures of other channels than RGB, made of RGB ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

CHANNELS = (1, 4, 6)


def to_channels(path: Path, channels: int) -> Path:
    """Replaces a picture by a grey PNG, an RGBA one, or a TIFF of more bands, and returns the file."""
    with Image.open(path) as image:
        pixels = np.array(image.convert("RGB"))
    path.unlink()
    bands = np.concatenate([pixels, 255 - pixels], axis=2)[..., :channels]
    if channels in (1, 4):
        path = path.with_suffix(".png")
        Image.fromarray(bands.squeeze()).save(path)
    else:
        path = path.with_suffix(".tif")
        tifffile.imwrite(path, bands, photometric="minisblack", planarconfig="contig")
    return path
