"""TIFF files whose strips or tiles come to more than their header says are read to that, or refused."""

import lzma
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile

from convmae.engine.errors import UserError
from convmae.engine.pictures.images import read_image
from convmae.engine.pictures.reading import Reading

SIDE, BANDS = 64, 4


def write_tiff(path: Path, packed: bytes, compression: int, tile: int = 0) -> None:
    """A picture of 16 bits in one strip or tile with these bytes."""
    parts = {322: tile, 323: tile, 324: 0, 325: len(packed)} if tile else {273: 0, 278: SIDE, 279: len(packed)}
    tags = {256: SIDE, 257: SIDE, 258: 16, 259: compression, 262: 1, 277: BANDS, 284: 1, **parts}
    start = 8 + 2 + 12 * len(tags) + 4
    samples = struct.pack(f"<{BANDS}H", *[16] * BANDS)
    tags[258], tags[324 if tile else 273] = start, start + len(samples)
    entries = [
        struct.pack("<HHII", number, 3 if number == 258 else 4, BANDS if number == 258 else 1, value)
        for number, value in sorted(tags.items())
    ]
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(entries) + bytes(4) + samples + packed)


@pytest.mark.parametrize(("compression", "pack"), [(8, zlib.compress), (32946, zlib.compress), (34925, lzma.compress)])
def test_a_strip_is_inflated_to_its_size_alone(tmp_path: Path, compression: int, pack) -> None:
    path, reading = tmp_path / "a.tif", Reading(BANDS, range=(0, 65535), max_pixels=10**6)
    given = np.random.default_rng(0).integers(0, 2**16, (SIDE, SIDE, BANDS)).astype("<u2")
    write_tiff(path, pack(given.tobytes()), compression)
    whole = read_image(path, reading)
    write_tiff(path, pack(given.tobytes() + bytes(2**25)), compression)
    tracemalloc.start()
    assert (read_image(path, reading) == whole).all()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24  # of which LZMA's dictionary is half
    write_tiff(path, pack(given.tobytes())[:-20], compression)
    with pytest.raises(UserError, match="a compressed part of it is cut off"):
        read_image(path, reading)


def test_a_tile_is_no_larger_than_its_picture_or_usual_tiles(tmp_path: Path) -> None:
    path, reading = tmp_path / "a.tif", Reading(BANDS, range=(0, 65535))
    write_tiff(path, zlib.compress(bytes(2**22)), 8, 2**16)
    with pytest.raises(UserError, match=r"is 64 x 64 pixels in tiles of 4294967296; expected 16777216 at most"):
        read_image(path, reading)
    given = np.random.default_rng(0).integers(0, 2**16, (SIDE, SIDE, BANDS)).astype(np.uint16)
    tifffile.imwrite(path, given, tile=(256, 256), compression="zlib", photometric="minisblack", planarconfig="contig")
    assert np.array_equal(read_image(path, reading)[:, 0, 0], np.round(given[0, 0] / 65535 * 255).astype(np.uint8))
