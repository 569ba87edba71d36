"""How large a picture may be, and that what stands beside its pixels refuses none."""

import json
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from convmae.engine.errors import UserError
from convmae.engine.faults import Fault
from convmae.engine.options import DataOptions
from convmae.engine.pictures import limits
from convmae.engine.pictures.images import Box, look_at, read_crop, read_image, resize_crop
from convmae.engine.pictures.limits import own_limits
from convmae.engine.pictures.reading import Reading
from convmae.segmentation.config import SegmentationDataOptions
from convmae.segmentation.data.layout import read_label

SMALL = Reading(max_pixels=1000)


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def header(width: int, height: int) -> bytes:
    """A PNG that says how large it is, and no more: whoever decodes it fails."""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", b"")
    )


def test_a_picture_of_too_many_pixels_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "scan.png"
    path.write_bytes(header(14500, 14500))
    for read in (read_image, look_at):
        with pytest.raises(
            Fault,
            match=r"scan\.png is 14500 x 14500 pixels, 210 million; .* 180 million\. .*data\.max_pixels=210250000",
        ):
            read(path)
    with pytest.raises(Fault, match="14500 x 14500"):
        read_crop(path, lambda height, width: Box(0, 0, 8, 8), 8)


@pytest.mark.filterwarnings("error")
def test_the_limit_can_be_raised_and_holds_for_label_maps(tmp_path: Path) -> None:
    pixels, path = picture()[..., 0] % 3, tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    below, enough = DataOptions(max_pixels=767).reading(), SegmentationDataOptions(max_pixels=768)
    with pytest.raises(Fault, match=r"32 x 24 pixels, 768; data\.max_pixels is 767"):
        read_image(path, below)
    with pytest.raises(Fault, match=r"data\.max_pixels is 767"):
        read_label(path, 3, False, below.max_pixels)
    assert read_image(path, enough.reading()).size == (32, 24)
    assert np.array_equal(read_label(path, 3, False, enough.max_pixels), pixels)


@pytest.mark.filterwarnings("error")
def test_below_the_limit_pillow_neither_warns_nor_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # 24 x 32 are more than it refuses
    Image.fromarray(picture()).save(tmp_path / "a.png")
    image, crop = read_crop(tmp_path / "a.png", lambda height, width: Box(0, 0, height, width), 8)
    assert resize_crop(image, crop, 8).shape == (3, 8, 8)
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("where", ["before the pixels", "behind"])
@pytest.mark.parametrize("kind", ["iCCP", "zTXt", "iTXt", "tEXt"])
def test_large_profiles_and_texts_refuse_no_picture(tmp_path: Path, kind: str, where: str) -> None:
    data = bytes(3_000_000)
    packed = zlib.compress(data)
    head = {"iCCP": b"big\0\0", "zTXt": b"workflow\0\0", "iTXt": b"workflow\0\1\0\0\0", "tEXt": b"workflow\0"}[kind]
    path = tmp_path / "a.png"
    Image.fromarray(picture()).save(path)
    raw, extra = path.read_bytes(), chunk(kind.encode(), head + (b"x" * len(data) if kind == "tEXt" else packed))
    at = 33 if where == "before the pixels" else len(raw) - 12
    path.write_bytes(raw[:at] + extra + raw[at:])
    assert np.array_equal(np.asarray(read_image(path)), picture())
    assert look_at(path).size == (32, 24)
    Image.fromarray(picture()[..., 0] % 3).save(path)
    raw = path.read_bytes()
    path.write_bytes(raw[:33] + extra + raw[33:])
    assert np.array_equal(read_label(path, 3, False), picture()[..., 0] % 3)


@pytest.mark.parametrize(
    "broken",
    [
        chunk(b"iCCP", b"no profile"),  # neither a name nor a known compression
        chunk(b"iCCP", b"name\0\0not deflated"),
        chunk(b"zTXt", b"key\0\7of an unknown compression"),
        chunk(b"pHYs", b"\0"),
        chunk(b"gAMA", b""),
        chunk(b"tEXt", b"key\0value")[:-1] + b"!",  # damaged
        chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(3_000_000))),
    ],
    ids=["profile", "compression", "text", "resolution", "gamma", "checksum", "huge"],
)
def test_broken_metadata_of_a_png_refuse_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bytes
) -> None:
    monkeypatch.setattr(limits, "_OURS", [(PngImagePlugin, "MAX_TEXT_CHUNK", 1_000_000)])
    path, exif = tmp_path / "a.png", Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture()).save(path, exif=exif)
    raw = path.read_bytes()
    path.write_bytes(raw[:33] + broken + raw[33:])
    assert np.array_equal(np.asarray(read_image(path)), np.rot90(picture(), -1))
    assert look_at(path).size == (24, 32)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"a\.png can't be read"):  # broken pixels do
        read_image(path)


def test_metadata_that_are_none_refuse_no_picture(tmp_path: Path) -> None:
    for name, garbage in (("a.png", b"Exif\0\0garbage"), ("a.jpg", b"Exif\0\0garbage garbage")):
        Image.fromarray(picture()).save(tmp_path / name, exif=garbage, quality=100, subsampling=0)
        assert np.abs(np.asarray(read_image(tmp_path / name)).astype(int) - picture()).mean() < 8
        assert not look_at(tmp_path / name).turned
    Image.fromarray(picture()).save(tmp_path / "a.tif", tiffinfo={274: 77, 270: "x" * 3_000_000})
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.tif")), picture())


def test_pillows_limits_are_its_own_again_when_the_last_thread_leaves() -> None:
    def state() -> str:
        return json.dumps([Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY])

    before = state()

    def inside(number: int) -> bool:
        with own_limits():
            lifted = Image.MAX_IMAGE_PIXELS is None
            with own_limits():
                torch.rand(number + 1).sum()
            return lifted and Image.MAX_IMAGE_PIXELS is None

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(inside, range(200)))
    assert state() == before


@pytest.mark.parametrize(("mode", "key"), [("L", 7), ("RGB", (7, 8, 9)), ("P", 1)])
def test_a_transparent_colour_becomes_white(tmp_path: Path, mode: str, key: object) -> None:
    image = Image.new(mode, (4, 4), (7, 8, 9) if mode == "RGB" else 7 if mode == "L" else 1)
    if mode == "P":
        image.putpalette([50, 60, 70, 7, 8, 9])
    image.putpixel((0, 0), (50, 60, 70) if mode == "RGB" else 50 if mode == "L" else 0)
    image.save(tmp_path / "a.png", transparency=key)
    pixels = np.asarray(read_image(tmp_path / "a.png")).reshape(-1, 3)
    assert tuple(pixels[0]) == ((50, 50, 50) if mode == "L" else (50, 60, 70))
    assert (pixels[1:] == 255).all()
