"""Reads pictures whose bytes were changed at random: python fuzz_pictures.py COUNT SEED (see tests/fuzzing.py)."""

from __future__ import annotations

import contextlib
import logging
import random
import sys
import tempfile
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))
import fuzzing

from convmae.engine.errors import UserError
from convmae.engine.pictures.images import Box, look_at, read_crop, read_image, resize_crop
from convmae.engine.pictures.reading import Reading
from convmae.engine.pictures.value_ranges import check_ranges

READINGS = [Reading(channels, values, 10**6) for channels in (3, 1, 4) for values in (None, (0.0, 4095.0))]
_PILLOW = {
    "jpg": "JPEG",
    "png": "PNG",
    "tif": "TIFF",
    "webp": "WEBP",
    "gif": "GIF",
    "bmp": "BMP",
    "jp2": "JPEG2000",
    "ico": "ICO",
}


def files() -> Iterator[tuple[str, bytes]]:
    """Yields the ending and the bytes of small files of every kind."""
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[274] = 6
    for ending, kind in _PILLOW.items():
        for mode in ("RGB", "L", "RGBA", "P", "1", "I;16"):
            file = BytesIO()
            picture = Image.fromarray(rng.integers(0, 4096, (20, 24)).astype(np.uint16)) if mode == "I;16" else colour
            try:
                (picture if mode == "I;16" else colour.convert(mode)).save(file, kind, exif=exif)
            except (OSError, ValueError, KeyError):  # no mode of that format
                continue
            yield ending, file.getvalue()
    for shape, dtype in (
        ((20, 24), np.float32),
        ((4, 20, 24), np.uint16),
        ((20, 24, 4), np.uint8),
        ((5, 20, 24), np.int32),
    ):
        values = rng.integers(0, 200, shape).astype(dtype)
        for ending in ("tif", "npy"):
            file = BytesIO()
            if ending == "npy":
                np.save(file, values)
            else:
                tifffile.imwrite(file, values, compression="zlib" if dtype == np.uint16 else None)
            yield ending, file.getvalue()


def fitting(ending: str, raw: bytes, folder: Path) -> list[Reading]:
    """Returns the readings that take a file as it is."""
    path, found = folder / f"whole.{ending}", []
    path.write_bytes(raw)
    for reading in READINGS:
        with contextlib.suppress(UserError):
            read_image(path, reading)
            found.append(reading)
    return found


def main() -> None:
    logging.disable()  # tifffile tells of each tag
    warnings.simplefilter("ignore")  # Pillow's of broken metadata
    with tempfile.TemporaryDirectory() as folder:
        known = [(ending, raw, fitting(ending, raw, Path(folder))) for ending, raw in files()]

        def whole() -> None:
            assert {ending for ending, _, fit in known if fit} == {ending for ending, _, _ in known}

        def read(draw: random.Random) -> None:
            ending, raw, fit = draw.choice(known)
            path, reading = Path(folder, f"a.{ending}"), draw.choice([*fit, *READINGS])
            path.write_bytes(fuzzing.change(raw, draw))
            match draw.randrange(3):
                case 0:
                    read_image(path, reading)
                case 1:
                    look_at(path, reading)
                    check_ranges([path], reading, lambda fault: None)
                case _:
                    crop = read_crop(path, lambda height, width: Box(0, 0, height, width), 8, reading)
                    resize_crop(*crop, 8)

        fuzzing.run(read, whole)


if __name__ == "__main__":
    main()
