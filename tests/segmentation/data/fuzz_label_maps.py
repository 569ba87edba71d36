"""Checks and reads label maps that were changed at random: python fuzz_label_maps.py COUNT SEED (see tests/fuzzing.py)."""

from __future__ import annotations

import logging
import random
import sys
import tempfile
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))
import fuzzing

from convmae.segmentation.checks.splits import check_split
from convmae.segmentation.config import SegmentationDataOptions
from convmae.segmentation.data.layout import read_label

KINDS = {"png": "PNG", "bmp": "BMP", "tif": "TIFF", "gif": "GIF"}


def files() -> list[tuple[str, bytes]]:
    """Returns the ending and the bytes of a label map of 24 x 20 pixels in each format and mode."""
    values = np.random.default_rng(0).integers(0, 4, (20, 24)).astype(np.uint8)
    indexed = Image.fromarray(values)
    indexed.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    found = []
    for ending, kind in KINDS.items():
        for picture in (Image.fromarray(values), indexed, Image.fromarray(values > 1)):
            file = BytesIO()
            picture.save(file, kind)
            found.append((ending, file.getvalue()))
    return found


def main() -> None:
    logging.disable()  # tifffile tells of each tag
    warnings.simplefilter("ignore")  # Pillow's of broken metadata
    known = files()
    with tempfile.TemporaryDirectory() as name:
        options = SegmentationDataOptions(root=name, max_pixels=10**6)
        images, labels = Path(name, options.train_images), Path(name, options.train_labels)
        for folder in (images, labels):
            folder.mkdir(parents=True)
        Image.new("RGB", (24, 20)).save(images / "a.png")

        def read(draw: random.Random) -> None:
            ending, raw = draw.choice(known)
            take(ending, fuzzing.change(raw, draw))

        def take(ending: str, raw: bytes) -> None:
            path = labels / f"a.{ending}"
            path.write_bytes(raw)
            try:
                check_split("training", options, 4, None)  # which reports all, and refuses nothing
                read_label(path, 4, reduce_zero_label=False, max_pixels=options.max_pixels)
            finally:
                path.unlink()

        fuzzing.run(read, lambda: [take(*one) for one in known])


if __name__ == "__main__":
    main()
