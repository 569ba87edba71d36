"""Pictures of every kind become RGB, or are named."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from convmae.engine.errors import UserError
from convmae.engine.images import IMAGENET_MEAN, IMAGENET_STD, list_images, normalize, read_image, to_tensor


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "I;16", "I", "F", "YCbCr"])
def test_every_mode_is_read(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode in ("CMYK", "I;16", "I", "F", "YCbCr") else "a.png")
    if mode == "I;16":
        image = Image.fromarray(np.full((4, 6), 40000, np.uint16))
    elif mode in ("I", "F"):
        image = Image.fromarray(np.full((4, 6), 156, np.int32 if mode == "I" else np.float32))
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


def test_a_folder_is_listed_with_what_lies_below_it(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    for name in ("b/c/2.JPG", "b/1.png", ".hidden.png", "note.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in list_images(tmp_path)] == ["1.png", "2.JPG"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no pictures"):
        list_images(tmp_path / "empty")
    with pytest.raises(UserError, match="no folder"):
        list_images(tmp_path / "nowhere")


def test_normalising_takes_out_imagenets_statistics() -> None:
    image = to_tensor(Image.new("RGB", (2, 2), (255, 0, 51)))
    expected = [(value - m) / s for value, m, s in zip((1, 0, 0.2), IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    torch.testing.assert_close(normalize(image[None])[0, :, 0, 0], torch.tensor(expected), rtol=1e-5, atol=1e-5)
