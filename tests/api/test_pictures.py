"""Every form in which a picture can be given is one and the same picture; what is none is said of the right one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from convmae.engine.errors import UserError
from convmae.engine.pictures.reading import RGB, Reading
from convmae.pictures import sources

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
TENSOR = torch.from_numpy(PIXELS).permute(2, 0, 1)


def pixels_of(given: Any, reading: Reading = RGB, **options: str) -> list[np.ndarray]:
    return [np.asarray(source.read()) for source in sources(given, reading, **options)]


@pytest.mark.parametrize(
    "given",
    [
        PIXELS,
        TENSOR,
        TENSOR.float() / 255,
        TENSOR.double() / 255,
        Image.fromarray(PIXELS),
        Image.fromarray(np.dstack([PIXELS, np.full((5, 7), 255, np.uint8)])),  # opaque
        np.asfortranarray(PIXELS),
    ],
    ids=["array", "bytes", "floats", "doubles", "PIL", "RGBA", "columns first"],
)
def test_every_form_is_the_same_picture(given: Any) -> None:
    for form in (given, [given], (given for _ in range(1))):
        (found,) = pixels_of(form)
        np.testing.assert_array_equal(found, PIXELS)


def test_files_and_folders_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.png", "a.png", "deep/c.png"):
        Image.fromarray(PIXELS).save(tmp_path / name)
    found = list(sources([tmp_path, str(tmp_path / "b.png")], RGB))
    assert [source.path and source.path.relative_to(tmp_path).as_posix() for source in found] == [
        "a.png",
        "b.png",
        "deep/c.png",
        "b.png",
    ]
    assert all((np.asarray(source.read()) == PIXELS).all() for source in found)


def test_bgr_is_said_by_name_and_is_of_arrays_and_tensors_alone(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    given = [cv2.imread(str(tmp_path / "a.png")), TENSOR.flip(0), tmp_path / "a.png", Image.fromarray(PIXELS)]
    for found in pixels_of(given, channels="bgr"):
        np.testing.assert_array_equal(found, PIXELS)
    with pytest.raises(UserError, match="channels is 'gbr'; expected 'rgb' or 'bgr'"):
        pixels_of(PIXELS, channels="gbr")


def test_four_axes_are_a_list_and_grey_is_grey_in_all_channels() -> None:
    assert len(pixels_of(np.stack([PIXELS] * 3))) == len(pixels_of(torch.stack([TENSOR] * 3))) == 3
    for grey in (PIXELS[..., 0], PIXELS[..., :1], TENSOR[:1], TENSOR[0], Image.fromarray(PIXELS[..., 0])):
        (found,) = pixels_of([grey])
        np.testing.assert_array_equal(found, np.stack([PIXELS[..., 0]] * 3, axis=-1))


@pytest.mark.parametrize("channels", [1, 5])
def test_models_of_other_channels_take_as_many(channels: int) -> None:
    values = np.random.default_rng(1).integers(0, 256, (4, 6, channels), dtype=np.uint8)
    for given in (values, torch.from_numpy(values).permute(2, 0, 1)):
        (found,) = pixels_of(given, Reading(channels))
        np.testing.assert_array_equal(found, values.transpose(2, 0, 1))
    with pytest.raises(
        UserError, match=rf"the picture has the shape 5x7x3; expected \[H, W, C\] with {channels} channel"
    ):
        pixels_of(PIXELS, Reading(channels))


def _numbers() -> Iterator[int]:
    yield 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([PIXELS, PIXELS / 255], r"pictures\[1\] is an array of float64 from 0(\.\d+)? to .*; expected uint8, 0 to 255"),
        ([PIXELS, PIXELS.astype(np.int64)], r"pictures\[1\] is an array of int64 from \d+ to \d+; expected uint8"),
        (TENSOR.float(), r"the picture is a tensor of torch.float32 from \d+ to \d+; expected floats from 0 to 1"),
        (TENSOR.float() / 0, r"the picture is a tensor of torch.float32 .*expected floats from 0 to 1"),
        (TENSOR.long(), "is a tensor of torch.int64; expected uint8, or floats from 0 to 1"),
        ([TENSOR.numpy()], r"pictures\[0\] has the shape 3x5x7; expected \[H, W, C\] .* axes seem to be in another order"),
        ([torch.from_numpy(PIXELS)], r"has the shape 5x7x3; expected \[C, H, W\] .* in another order"),
        (np.zeros((0, 4, 3), np.uint8), "has the shape 0x4x3; expected at least one pixel"),
        ([PIXELS, None], r"pictures\[1\] is a NoneType; expected a path, a folder, a PIL picture"),
        (_numbers(), r"pictures\[0\] is a int; expected a path"),
        (3, "pictures is a int; expected a path"),
        (Image.new("F", (3, 3)), "the picture is a PIL picture of mode F; expected 8 bits a channel"),
        ("gone.png", "There is no picture gone.png"),
    ],
)  # fmt: skip
def test_what_is_no_picture_is_one_message_that_names_it(given: Any, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        pixels_of(given)
    assert "\n" not in str(caught.value)


def test_a_folder_without_pictures_and_one_of_too_many_pixels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no pictures"):
        pixels_of(tmp_path)
    with pytest.raises(UserError, match=r"the picture has 35 pixels; expected data.max_pixels=34 at most"):
        pixels_of(PIXELS, Reading(max_pixels=34))
