"""Pictures of every kind become RGB, or are named."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from convmae.engine.errors import UserError
from convmae.engine.pictures.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Box,
    normalize,
    read_crop,
    read_image,
    resize_crop,
    to_tensor,
)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "I;16", "YCbCr", "LAB"])
def test_every_mode_is_read(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode in ("CMYK", "I;16", "YCbCr", "LAB") else "a.png")
    if mode == "I;16":
        image = Image.fromarray(np.full((4, 6), 156 * 257, np.uint16))
    elif mode == "LAB":
        profiles = (ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"))
        to_lab = ImageCms.buildTransform(*profiles, "RGB", "LAB")
        image = ImageCms.applyTransform(Image.new("RGB", (6, 4), (156, 156, 156)), to_lab)
    else:
        image = Image.new("RGB", (6, 4), (156, 156, 156)).convert(mode)
    image.save(path)
    read = read_image(path)
    assert (read.mode, read.size) == ("RGB", (6, 4))
    if mode != "1":
        assert np.abs(np.asarray(read).astype(int) - 156).max() <= 4  # a palette holds the nearest colour


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (6, 4))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").size == (4, 6)


def test_a_file_that_is_cut_off_or_no_picture_is_named(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(whole)
    (tmp_path / "cut.jpg").write_bytes(whole.read_bytes()[:1000])
    (tmp_path / "text.jpg").write_text("hello")
    for name in ("cut.jpg", "text.jpg", "nowhere.jpg"):
        with pytest.raises(UserError, match=name):
            read_image(tmp_path / name)


def test_normalising_takes_out_imagenets_statistics() -> None:
    image = to_tensor(Image.new("RGB", (2, 2), (255, 0, 51)))
    expected = [(value - m) / s for value, m, s in zip((1, 0, 0.2), IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    torch.testing.assert_close(normalize(image[None])[0, :, 0, 0], torch.tensor(expected), rtol=1e-5, atol=1e-5)


def photograph(height: int, width: int) -> Image.Image:
    """A picture with detail at several scales."""
    rng = np.random.default_rng(0)
    picture = np.full((height, width, 3), 128.0)
    for cells in (4, 16, 64, 256):
        grid = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        picture += (np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC)) - 127.5) / cells**0.5
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("crop", "decoded", "tolerance"),
    [
        (Box(30, 55, 301, 202), (1200, 900), 0.5),  # as the file is: rounding alone
        (Box(30, 55, 400, 500), (600, 450), 1.5),  # decoded at half its size
        (Box(101, 203, 790, 810), (300, 225), 1.5),  # at a quarter
    ],
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_crop_is_close_to_decoding_all_and_resizing_by_pillow(
    tmp_path: Path, crop: Box, decoded: tuple[int, int], tolerance: float, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    photograph(900, 1200).save(tmp_path / "a.jpg", quality=90, exif=exif)
    if orientation == 6:  # a quarter turn: the picture is upright 1200 high and 900 wide
        crop, decoded = Box(crop.left, crop.top, crop.width, crop.height), decoded[::-1]
    seen = []

    def choose(height: int, width: int) -> Box:
        seen.append((width, height))
        return crop

    image, scaled = read_crop(tmp_path / "a.jpg", choose, 96)
    assert image.size == decoded
    whole = read_image(tmp_path / "a.jpg")
    assert seen == [whole.size]
    box = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
    expected = to_tensor(whole.resize((96, 96), Image.Resampling.BICUBIC, box=box))
    found = resize_crop(image, scaled, 96)
    assert (found.dtype, found.shape) == (torch.uint8, (3, 96, 96))
    assert (found.float() - expected.float()).abs().mean() < tolerance


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P", "I;16"])
def test_a_crop_of_any_mode_is_that_of_the_whole_picture(tmp_path: Path, mode: str) -> None:
    picture = photograph(60, 80)
    path = tmp_path / ("a.jpg" if mode in ("L", "CMYK") else "a.png")
    if mode == "I;16":
        Image.fromarray(np.asarray(picture.convert("L"), dtype=np.uint16) * 257).save(path)
    else:
        picture.convert(mode).save(path)
    crop = Box(3, 5, 40, 30)
    image, scaled = read_crop(path, lambda height, width: crop, 32)
    assert scaled == crop
    assert np.array_equal(np.asarray(image), np.asarray(read_image(path)))
