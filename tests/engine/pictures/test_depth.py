"""Pictures beyond 8 bits become bytes by their kind or by the range that is given, never by what they hold."""

import re
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from convmae.engine.faults import Fault
from convmae.engine.options import DataOptions
from convmae.engine.pictures.images import Box, look_at, read_crop, read_image
from convmae.engine.pictures.reading import Reading

TWELVE_BITS = Reading(range=(0, 4095))


def scene(dtype: type = np.float64, top: float = 1.0, shape: tuple[int, ...] = (24, 32)) -> NDArray:
    """Numbers from 0 to ``top``."""
    return (np.random.default_rng(0).random(shape) * top).astype(dtype)


def grey(path: Path, reading: Reading = TWELVE_BITS) -> NDArray:
    """The channel of a picture whose three are equal."""
    pixels = np.asarray(read_image(path, reading))
    assert pixels.dtype == np.uint8
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def scaled(values: NDArray, low: float, high: float) -> NDArray:
    """Straight from the definition."""
    return np.floor((np.clip(values.astype(np.float64), low, high) - low) / (high - low) * 255 + 0.5)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bits_are_scaled_by_their_kind_whatever_a_frame_holds(tmp_path: Path, ending: str) -> None:
    for top in (200, 300, 4095, 65535):
        values, path = scene(np.uint16, top), tmp_path / f"{top}.{ending}"
        Image.fromarray(values).save(path)
        assert np.array_equal(grey(path, Reading()), scaled(values, 0, 65535))
        assert np.array_equal(grey(path), scaled(values, 0, 4095))  # what is beyond is white


def test_byte_order_and_signs_are_those_of_the_file(tmp_path: Path) -> None:
    values = scene(np.uint16, 65535)
    pack = "MM\0*", (8).to_bytes(4, "big")
    tags = [
        (256, 4, 32),
        (257, 4, 24),
        (258, 3, 16),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 0),
        (278, 4, 24),
        (279, 4, 1536),
    ]

    def tiff(extra: list[tuple[int, int, int]], data: bytes) -> bytes:
        entries = sorted({tag: (kind, value) for tag, kind, value in [*tags, *extra]}.items())
        end = 8 + 2 + 12 * len(entries) + 4
        body = b"".join(
            tag.to_bytes(2, "big")
            + kind.to_bytes(2, "big")
            + (1).to_bytes(4, "big")
            + (end if tag == 273 else value).to_bytes(2 if kind == 3 else 4, "big").ljust(4, b"\0")
            for tag, (kind, value) in entries
        )
        return pack[0].encode() + pack[1] + len(entries).to_bytes(2, "big") + body + bytes(4) + data

    (tmp_path / "big.tif").write_bytes(tiff([], values.astype(">u2").tobytes()))
    assert np.array_equal(grey(tmp_path / "big.tif", Reading()), scaled(values, 0, 65535))
    signed = (values.astype(np.int32) - 32768).astype(np.int16)
    (tmp_path / "signed.tif").write_bytes(tiff([(339, 3, 2)], signed.astype(">i2").tobytes()))
    assert np.array_equal(grey(tmp_path / "signed.tif", Reading()), scaled(signed, -32768, 32767))
    hounsfield = Reading(range=(-1024, 3071))
    assert np.array_equal(grey(tmp_path / "signed.tif", hounsfield), scaled(signed, -1024, 3071))


def test_white_may_be_zero(tmp_path: Path) -> None:
    values = scene(np.uint16, 65535)
    Image.fromarray(values).save(tmp_path / "a.tif", tiffinfo={262: 0})
    assert np.array_equal(grey(tmp_path / "a.tif", Reading()), 255 - scaled(values, 0, 65535))


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_floats_and_32_bits_need_a_range(tmp_path: Path, dtype: type) -> None:
    values = scene(dtype, 200 if dtype == np.float32 else 2**30)
    path = tmp_path / "a.tif"
    Image.fromarray(values).save(path)
    for read in (read_image, look_at):
        with pytest.raises(
            Fault, match=rf"32-bit .* {re.escape(f'{values.max():g}')}\. Give .* data\.range=\["
        ) as caught:
            read(path)
        assert caught.value.kind == "pictures of unknown range"
    top = float(values.max()) / 2
    assert np.array_equal(grey(path, Reading(range=(0, top))), scaled(values, 0, top))


@pytest.mark.filterwarnings("error")
def test_what_is_no_finite_number_is_black(tmp_path: Path) -> None:
    values = scene(np.float32)
    values[0], values[1], values[2] = np.nan, np.inf, -np.inf
    Image.fromarray(values).save(tmp_path / "a.tif")
    found = grey(tmp_path / "a.tif", Reading(range=(0, 1)))
    assert (found[:3] == 0).all()
    assert np.array_equal(found[3:], scaled(values[3:], 0, 1))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.ppm", "a.jp2"])
def test_colours_of_16_bits(tmp_path: Path, name: str) -> None:
    values, path = scene(np.uint16, 4095, (48, 64, 3)), tmp_path / name
    if name == "a.jp2":  # which OpenCV writes with small losses
        values = np.linspace(0, 4095, values.size).reshape(values.shape).astype(np.uint16)
    assert cv2.imwrite(str(path), values[..., ::-1])
    found = np.asarray(read_image(path, TWELVE_BITS)).astype(int)
    assert np.abs(found - scaled(values, 0, 4095)).max() <= (2 if name == "a.jp2" else 0)
    by_kind = np.asarray(read_image(path)).astype(int)
    assert np.abs(by_kind - scaled(values, 0, 65535)).max() <= 1


def test_an_alpha_of_16_bits_is_not_of_the_range(tmp_path: Path) -> None:
    values, path = scene(np.uint16, 4095, (24, 32, 3)), tmp_path / "a.png"
    alpha = np.full((24, 32), 65535, np.uint16)
    alpha[:4] = 0
    assert cv2.imwrite(str(path), np.dstack([values[..., ::-1], alpha]))
    found = np.asarray(read_image(path, TWELVE_BITS))
    assert (found[:4] == 255).all()
    assert np.array_equal(found[4:], scaled(values[4:], 0, 4095))


@pytest.mark.parametrize("largest", [1000, 4095, 65535])
def test_a_portable_greymap_says_what_is_white(tmp_path: Path, largest: int) -> None:
    values = scene(np.uint16, largest)
    (tmp_path / "a.pgm").write_bytes(f"P5\n32 24\n{largest}\n".encode() + values.astype(">u2").tobytes())
    assert np.array_equal(grey(tmp_path / "a.pgm", Reading()), scaled(values, 0, largest))
    assert np.array_equal(grey(tmp_path / "a.pgm", Reading(range=(0, 500))), scaled(values, 0, 500))


def test_bytes_stay_as_they_are_beside_deeper_pictures(tmp_path: Path) -> None:
    values = scene(np.uint8, 255)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.array_equal(grey(tmp_path / "a.png"), values)


def test_colours_that_a_range_is_not_for_are_refused(tmp_path: Path) -> None:
    assert cv2.imwrite(str(tmp_path / "a.tif"), scene(np.uint16, 4095, (24, 32, 4)), [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    raw = bytearray((tmp_path / "a.tif").read_bytes())
    place = raw.index((262).to_bytes(2, "little") + (3).to_bytes(2, "little"))
    raw[place + 8] = 5  # separated: CMYK
    (tmp_path / "cmyk.tif").write_bytes(raw)
    assert read_image(tmp_path / "cmyk.tif").mode == "RGB"
    with pytest.raises(Fault, match=r"cmyk\.tif .*mode CMYK.* leave data\.range out"):
        read_image(tmp_path / "cmyk.tif", TWELVE_BITS)


def test_a_cut_off_picture_of_16_bit_colours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), scene(np.uint16, 4095, (240, 320, 3)))
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(Exception, match=r"a\.png can't be read"):
        read_image(path, TWELVE_BITS)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["grey 8", "grey 16", "colour 16", "compressed"])
def test_a_turned_tiff_is_turned_once(tmp_path: Path, turn: int, kind: str) -> None:
    values = scene(np.uint8, 255)
    views = {2: values[:, ::-1], 3: values[::-1, ::-1], 4: values[::-1], 5: values.T, 6: np.rot90(values, -1)}
    expected = {1: values, 7: values.T[::-1, ::-1], 8: np.rot90(values), **views}[turn]
    path, reading = tmp_path / "a.tif", Reading(range=(0, 65535))
    kept = {"grey 8": values, "compressed": values}.get(kind, values.astype(np.uint16) * 257)
    if kind == "colour 16":
        cv2.imwrite(str(tmp_path / "rgb.png"), np.dstack([kept] * 3))
        exif = Image.Exif()
        exif[0x0112] = turn
        raw = (tmp_path / "rgb.png").read_bytes()
        block = b"eXIf" + exif.tobytes()[6:]

        path = tmp_path / "a.png"
        path.write_bytes(
            raw[:33] + (len(block) - 4).to_bytes(4, "big") + block + zlib.crc32(block).to_bytes(4, "big") + raw[33:]
        )
    else:
        compression = "tiff_lzw" if kind == "compressed" else None
        Image.fromarray(kept).save(path, tiffinfo={274: turn}, compression=compression)
    look = look_at(path, reading)
    assert (look.size, look.turned) == (expected.shape[::-1], turn != 1)
    assert np.array_equal(grey(path, reading), expected)


def test_a_crop_is_scaled_as_the_whole_picture(tmp_path: Path) -> None:
    values = scene(np.uint16, 4095)
    Image.fromarray(values).save(tmp_path / "a.png")
    picture, crop = read_crop(tmp_path / "a.png", lambda height, width: Box(1, 2, 8, 8), 8, TWELVE_BITS)
    assert crop == Box(1, 2, 8, 8)
    assert np.array_equal(np.asarray(picture)[..., 0], scaled(values, 0, 4095))


def test_a_range_is_checked_when_a_run_starts() -> None:
    assert DataOptions().reading().range is None
    assert DataOptions(range=[-1.5, 2]).reading().range == (-1.5, 2)
    for values in ([5.0, 5.0], [4095.0, 0.0]):
        with pytest.raises(Exception, match=r"data\.range is .* such as \[0, 4095\]"):
            DataOptions(range=values).reading()
