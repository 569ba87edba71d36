"""Pictures of other channels than RGB: every file's bands as they are in it, and those of other numbers refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from convmae.engine.errors import UserError
from convmae.engine.faults import Fault
from convmae.engine.pictures.bands import OTHER_BANDS
from convmae.engine.pictures.folders import list_images
from convmae.engine.pictures.images import (
    Box,
    as_rgb,
    channel_statistics,
    look_at,
    normalize,
    read_crop,
    read_image,
    resize_crop,
)
from convmae.engine.pictures.reading import Reading
from convmae.engine.pictures.value_ranges import check_ranges

HEIGHT, WIDTH = 20, 30


def values(channels: int, dtype: str = "uint8", high: int = 256) -> NDArray[Any]:
    return np.random.default_rng(0).integers(0, high, (HEIGHT, WIDTH, channels)).astype(dtype)


def bands_of(path: Path, channels: int, **options: Any) -> NDArray[np.uint8]:
    """What is read of a file, [H, W, C]; its header says the same size."""
    picture = read_image(path, Reading(channels, **options))
    assert isinstance(picture, torch.Tensor)
    assert picture.dtype == torch.uint8
    assert look_at(path, Reading(channels, **options)).size == (picture.shape[2], picture.shape[1])
    return picture.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("channels", [2, 4, 6, 13])
def test_bands_of_tiff(channels: int, planar: str, tmp_path: Path) -> None:
    given = values(channels)
    written = given if planar == "contig" else given.transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "a.tif", written, photometric="minisblack", planarconfig=planar, compression="zlib")
    assert np.array_equal(bands_of(tmp_path / "a.tif", channels), given)


@pytest.mark.parametrize("metadata", [{"imagej": True, "metadata": {"axes": "CYX"}}, {"photometric": "minisblack"}])
def test_pages_of_tiff_are_bands(metadata: dict[str, Any], tmp_path: Path) -> None:
    given = values(5)
    tifffile.imwrite(tmp_path / "a.tif", given.transpose(2, 0, 1), **metadata)
    assert np.array_equal(bands_of(tmp_path / "a.tif", 5), given)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("channels", [1, 4, 6])
def test_arrays_of_numpy(channels: int, order: tuple[int, int, int], tmp_path: Path) -> None:
    given = values(channels)
    np.save(tmp_path / "a.npy", given.transpose(order))
    assert np.array_equal(bands_of(tmp_path / "a.npy", channels), given)
    np.save(tmp_path / "two.npy", given[..., 0])
    assert np.array_equal(bands_of(tmp_path / "two.npy", 1)[..., 0], given[..., 0])
    assert list_images(tmp_path) == [tmp_path / "a.npy", tmp_path / "two.npy"]


def test_three_bands_of_an_array_or_of_floats_are_rgb(tmp_path: Path) -> None:
    given = values(3)
    np.save(tmp_path / "a.npy", given)
    tifffile.imwrite(tmp_path / "a.tif", given.astype(np.float32), photometric="rgb")
    np.save(tmp_path / "grey.npy", given[..., 0])
    for name in ("a.npy", "a.tif"):
        assert np.array_equal(np.array(read_image(tmp_path / name, Reading(range=(0, 255)))), given)
    assert np.array_equal(np.array(read_image(tmp_path / "grey.npy")), given[..., :1].repeat(3, 2))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "lzw.tif", "a.webp"])
def test_the_fourth_band_is_no_transparency(name: str, tmp_path: Path) -> None:
    given = values(4)
    options = {"a.webp": {"lossless": True, "exact": True}, "lzw.tif": {"compression": "tiff_lzw"}}
    Image.fromarray(given).save(tmp_path / name, **options.get(name, {}))
    assert np.array_equal(bands_of(tmp_path / name, 4), given)


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16", "1", "P", "CMYK", "LA", "RGBA"])
def test_one_channel_is_grey_of_any_picture(mode: str, tmp_path: Path) -> None:
    picture = Image.fromarray(values(3))
    if mode == "I;16":
        picture = Image.fromarray(values(1, "uint16", 65536)[..., 0])
    elif mode != "RGB":
        picture = picture.convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    picture.save(path)
    assert np.array_equal(bands_of(path, 1)[..., 0], np.array(read_image(path).convert("L")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_bands_are_turned_as_exif_says(orientation: int, tmp_path: Path) -> None:
    given = values(6)
    tags = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", given, photometric="minisblack", planarconfig="contig", extratags=tags)
    picture = Image.fromarray(given[..., 0])
    picture.getexif()[274] = orientation
    upright = np.array(ImageOps.exif_transpose(picture))
    assert np.array_equal(bands_of(tmp_path / "a.tif", 6)[..., 0], upright)
    assert look_at(tmp_path / "a.tif", Reading(6)).turned == (orientation != 1)


def write(path: Path, kind: str) -> None:
    if kind.startswith("array"):
        np.save(path, values(int(kind[-1])))
    elif kind.startswith(
        "tiff"
    ):  # Pillow takes the first of separate bands, and the first three of four, for the picture
        planar = "separate" if kind == "tiff 6" else "contig"
        given = values(int(kind[-1])) if planar == "contig" else values(6).transpose(2, 0, 1)
        photometric = "rgb" if kind == "tiff 4" else "minisblack"
        tifffile.imwrite(
            path, given, photometric=photometric, planarconfig=planar, extrasamples=(0,) if kind == "tiff 4" else None
        )
    else:
        Image.fromarray(values(int(kind[-1])).squeeze()).save(path)


@pytest.mark.parametrize(
    ("kind", "channels"),
    [
        ("tiff 4", 3), ("tiff 6", 3), ("tiff 6", 1), ("tiff 2", 3), ("tiff 6", 4), ("array 4", 3), ("array 6", 1),
        ("array 3", 1), ("array 1", 4), ("png 3", 4), ("png 1", 4), ("png 4", 6),
    ],
)  # fmt: skip
def test_other_numbers_of_bands_are_refused(kind: str, channels: int, tmp_path: Path) -> None:
    path = tmp_path / {"a": "a.npy", "t": "a.tif", "p": "a.png"}[kind[0]]
    write(path, kind)
    found = "1 band" if kind[-1] == "1" else f"{kind[-1]} bands"
    for read in (read_image, look_at):
        with pytest.raises(
            UserError, match=rf"has {found}, model.in_chans is {channels}.* set model.in_chans={kind[-1]}"
        ):
            read(path, Reading(channels))


def test_a_transparent_picture_of_a_model_of_rgb_lies_on_white_as_ever(tmp_path: Path) -> None:
    given = values(4)
    given[..., 3] = 0
    for name in ("a.png", "a.tif"):
        Image.fromarray(given).save(tmp_path / name)
        assert (np.array(read_image(tmp_path / name)) == 255).all()


BROKEN = {
    "objects.npy": (lambda path: np.save(path, np.array([{}], dtype=object)), "can't be read as an array"),
    "strings.npy": (lambda path: np.save(path, np.array([["a"]])), "expected numbers of shape"),
    "four.npy": (lambda path: np.save(path, np.zeros((2, 3, 4, 5))), "expected numbers of shape"),
    "either.npy": (lambda path: np.save(path, np.zeros((4, 9, 4))), "two axes may be the bands"),
    "text.npy": (lambda path: path.write_text("no array"), "can't be read as an array"),
    "text.tif": (lambda path: path.write_text("no TIFF"), "can't be read as a picture"),
    "many.tif": (
        lambda path: tifffile.imwrite(path, np.zeros((2, 3, 8, 8), np.uint8), imagej=True),
        "Z: 2, C: 3|T: 2, ",
    ),
    "gone.npy": (lambda path: None, "There is no picture"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_files_that_hold_no_picture_are_named(name: str, tmp_path: Path) -> None:
    make, said = BROKEN[name]
    make(tmp_path / name)
    for read in (read_image, look_at):
        with pytest.raises(UserError, match=said):
            read(tmp_path / name, Reading(4))


@pytest.mark.parametrize("name", ["a.npy", "a.tif"])
def test_files_that_are_cut_off_are_seen_by_their_header(name: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", values(6))
    tifffile.imwrite(tmp_path / "a.tif", values(6), photometric="minisblack", planarconfig="contig")
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-100])
    for read in (read_image, look_at):
        with pytest.raises(UserError, match="can't be read as"):
            read(path, Reading(6))


@pytest.mark.parametrize("name", ["a.npy", "a.tif"])
def test_too_many_pixels_are_refused_by_the_header(name: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", values(6))
    tifffile.imwrite(tmp_path / "a.tif", values(6), photometric="minisblack", planarconfig="contig")
    for read in (read_image, look_at):
        with pytest.raises(UserError, match="pixels"):
            read(tmp_path / name, Reading(6, max_pixels=HEIGHT * WIDTH - 1))
        read(tmp_path / name, Reading(6, max_pixels=HEIGHT * WIDTH))


def test_a_range_scales_every_band(tmp_path: Path) -> None:
    given = values(6, "uint16", 4096)
    np.save(tmp_path / "a.npy", given)
    expected = np.floor(given / 4095 * 255 + 0.5)
    assert np.array_equal(bands_of(tmp_path / "a.npy", 6, range=(0, 4095)), expected)


@pytest.mark.parametrize("name", ["a.npy", "a.tif"])
def test_what_is_doubtful_of_bands_is_said(name: str, tmp_path: Path) -> None:
    def write(given: NDArray[Any]) -> None:
        np.save(tmp_path / "a.npy", given)
        tifffile.imwrite(tmp_path / "a.tif", given, photometric="minisblack", planarconfig="contig")

    def said(channels: int = 6, **options: Any) -> list[str]:
        faults: list[Fault] = []
        check_ranges([tmp_path / name], Reading(channels, **options), faults.append)
        return [fault.kind for fault in faults]

    write(values(6))
    assert said() == []
    assert said(4) == said(3) == [OTHER_BANDS]
    write(values(6, "uint16", 1000))
    assert said() == ["splits that use less than a tenth of their range"]
    assert said(range=(0, 1000)) == []
    write(values(6, "float32"))
    assert said() == ["pictures of unknown range"]
    with pytest.raises(UserError, match=r"data.range=\[0,2[56]"):
        read_image(tmp_path / name, Reading(6))
    assert np.array_equal(bands_of(tmp_path / name, 6, range=(0, 255)), values(6))


def test_pages_that_are_bands_are_no_frames_passed_over(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", values(5).transpose(2, 0, 1), photometric="minisblack")
    faults: list[Fault] = []
    check_ranges([tmp_path / "a.tif"], Reading(5), faults.append)
    assert not faults
    check_ranges([tmp_path / "a.tif"], Reading(), faults.append)
    assert [fault.kind for fault in faults] == ["files of several frames"]


@pytest.mark.parametrize("ending", [".tif", ".png"])
def test_a_band_that_is_called_transparency_is_doubted(ending: str, tmp_path: Path) -> None:
    faults: list[Fault] = []
    cut_out = values(4)
    cut_out[..., 3] = np.where(np.arange(WIDTH) < 5, 0, 255)
    for name, given in (("bands", values(4)), ("cut out", cut_out)):
        Image.fromarray(given).save(tmp_path / f"{name}{ending}")
        check_ranges([tmp_path / f"{name}{ending}"], Reading(), faults.append)
        check_ranges([tmp_path / f"{name}{ending}"], Reading(4), faults.append)
    (fault,) = faults
    assert fault.kind == "splits whose transparency may be a band"
    assert "model.in_chans=4" in str(fault)


def test_arrays_beside_pictures_are_passed_over_and_said(tmp_path: Path) -> None:
    np.save(tmp_path / "features.npy", np.zeros(7))
    Image.fromarray(values(3)).save(tmp_path / "a.png")
    faults: list[Fault] = []
    assert list_images(tmp_path, faults.append) == [tmp_path / "a.png"]
    assert [fault.kind for fault in faults] == ["folders with files that may be pictures"]


def test_a_crop_of_bands_is_that_of_each_band(tmp_path: Path) -> None:
    given = values(6)
    np.save(tmp_path / "a.npy", given)
    Image.fromarray(given[..., :3]).save(tmp_path / "a.png")
    found = resize_crop(*read_crop(tmp_path / "a.npy", lambda *_: Box(2, 3, 16, 12), 8, Reading(6)), 8)
    expected = resize_crop(*read_crop(tmp_path / "a.png", lambda *_: Box(2, 3, 16, 12), 8), 8)
    assert found.shape == (6, 8, 8)
    assert (found[:3].int() - expected.int()).abs().max() <= 1  # another kernel of PyTorch's


def test_what_is_drawn_of_bands() -> None:
    bands = torch.from_numpy(values(6)).permute(2, 0, 1)
    assert np.array_equal(np.array(as_rgb(bands)), values(6)[..., :3])
    for channels in (1, 2):
        assert np.array_equal(np.array(as_rgb(bands[:channels])), values(6)[..., :1].repeat(3, 2))
    picture = Image.fromarray(values(3))
    assert as_rgb(picture) is picture


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_are_normalised_by_the_statistics_of_their_channels(channels: int) -> None:
    images = torch.from_numpy(values(channels)).permute(2, 0, 1)[None]
    mean, std = (torch.tensor(part)[:, None, None] for part in channel_statistics(channels))
    torch.testing.assert_close(normalize(images), (images / 255 - mean) / std)
    assert mean.mean() == pytest.approx(0.449, abs=1e-4)  # ImageNet's mean over RGB
