"""Pictures from files, whatever their mode."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from convmae.engine.bands import check_count, count_bands, stored_bands, to_bytes
from convmae.engine.errors import UserError
from convmae.engine.reading import MAX_PIXELS, RGB, Reading

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# What Pillow raises on damaged files, TypeError and struct.error on metadata of the wrong kinds.
_DAMAGED = (OSError, SyntaxError, ValueError, TypeError, struct.error, Image.DecompressionBombError)
_ENDINGS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}  # last bytes of a whole file
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif", ".npy"}
Picture = Image.Image | torch.Tensor  # in RGB, or of other channels bytes [C, H, W]


class Look(NamedTuple):
    """A picture's mode as Pillow names it, its width and height upright, and whether its EXIF data turns or mirrors it."""

    mode: str
    size: tuple[int, int]
    turned: bool


class Box(NamedTuple):
    """A part of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int


@contextmanager
def open_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Gives a picture that is not decoded yet. Raises UserError naming a file that is none, or turns out to be broken."""
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise UserError(f"There is no picture {path}.") from None
    except _DAMAGED as error:
        raise UserError(f"{path} can't be read as a picture ({error}); replace or remove the file.") from None


def orientation(image: Image.Image) -> int:
    """Returns how the EXIF data turns a picture: 1 not at all, 2 to 4 half a turn or mirrored, 5 to 8 a quarter turn."""
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Returns width and height, turned as the EXIF data says."""
    return image.size[::-1] if orientation(image) in (5, 6, 7, 8) else image.size


def upright(image: Image.Image) -> Image.Image:
    """Returns the picture turned as its EXIF data says."""
    return image if orientation(image) == 1 else ImageOps.exif_transpose(image)


def read_image(path: str | Path, reading: Reading = RGB) -> Picture:
    """Returns a picture as RGB, or as bytes [C, H, W] of other channels, turned as its EXIF data says.

    One channel is grey, of a coloured picture its luma. Of more, each is a band of the file, as many as it has: a fourth band
    is no transparency then.

    Raises UserError naming a file that is none, is cut off, or has other bands than the model has channels.
    """
    if (bands := stored_bands(Path(path), reading)) is not None:
        return _from_bands(to_bytes(bands.read(), reading), reading)
    with open_image(path, reading.max_pixels) as image:
        return _decode(Path(path), image, reading)


def look_at(path: str | Path, reading: Reading = RGB) -> Look:
    """Looks at a picture, decoding it only where its last bytes don't say that it is whole; raises as `read_image` does."""
    if (bands := stored_bands(Path(path), reading)) is not None:
        return Look(f"with {count_bands(bands.count)} of {bands.dtype}", bands.size, bands.turned)
    with open_image(path, reading.max_pixels) as image:
        _check_modes(Path(path), image, reading)
        look, ending = Look(image.mode, upright_size(image), orientation(image) != 1), _ENDINGS.get(image.format or "")
    if ending is None or not _ends_with(Path(path), ending):
        read_image(path, reading)
    return look


def read_crop(
    path: str | Path, choose: Callable[[int, int], Box], size: int, reading: Reading = RGB
) -> tuple[Picture, Box]:
    """Reads a picture as `read_image` does, but no finer than a crop that is resized to `size` pixels needs.

    A JPEG file is decoded at 1/2, 1/4 or 1/8 of its size if the crop then still has twice the pixels along each side.

    Args:
        choose: gives the crop for a height and width.

    Returns:
        The picture, and the crop in its pixels: of a smaller picture rounded, by a quarter of a resized pixel at most.
    """
    if (bands := stored_bands(Path(path), reading)) is not None:
        width, height = bands.size
        return _from_bands(to_bytes(bands.read(), reading), reading), choose(height, width)
    with open_image(path, reading.max_pixels) as image:
        width, height = upright_size(image)
        crop = choose(height, width)
        shrink = max(1, min(crop.height, crop.width) // (2 * size))
        image.draft(None, (image.width // shrink, image.height // shrink))
        picture = _decode(Path(path), image, reading)
        reduced = size_of(picture)
        across, down = reduced[0] / width, reduced[1] / height
        top, left = round(crop.top * down), round(crop.left * across)
        bottom, right = round((crop.top + crop.height) * down), round((crop.left + crop.width) * across)
        return picture, Box(top, left, bottom - top, right - left)


def resize_crop(image: Picture, crop: Box, size: int) -> torch.Tensor:
    """Returns a crop of a picture at `size` x `size` pixels as bytes [C, size, size]; bicubic, antialiased."""
    bottom, right = crop.top + crop.height, crop.left + crop.width
    if isinstance(image, torch.Tensor):
        tensor = image[:, crop.top : bottom, crop.left : right]
    else:
        # As bytes and channels last, as they are: PyTorch's kernel for these is several times as fast as Pillow's.
        tensor = torch.from_numpy(np.array(image.crop((crop.left, crop.top, right, bottom)))).permute(2, 0, 1)
    return resize(tensor, [size, size], InterpolationMode.BICUBIC, antialias=True)


def list_images(folder: str | Path) -> list[Path]:
    """Returns the pictures in a folder and the folders below it, sorted. Raises UserError if there are none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: expected one that holds pictures.")
    found = [
        Path(parent, name)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
    ]
    if not found:
        raise UserError(f"{folder} holds no pictures: expected files ending in {', '.join(sorted(SUFFIXES))}.")
    return sorted(found)


def size_of(image: Picture) -> tuple[int, int]:
    """Returns a picture's width and height."""
    return (image.shape[2], image.shape[1]) if isinstance(image, torch.Tensor) else image.size


def as_rgb(image: Picture) -> Image.Image:
    """Returns what is drawn of a picture: one or two channels as grey, the first, and of more the first three as RGB."""
    if isinstance(image, Image.Image):
        return image
    shown = image[:3] if len(image) > 2 else image[:1].expand(3, -1, -1)
    return Image.fromarray(shown.permute(1, 2, 0).contiguous().numpy())


def to_tensor(image: Picture) -> torch.Tensor:
    """Returns a picture as bytes [C, H, W]."""
    if isinstance(image, torch.Tensor):
        return image
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).contiguous()


def channel_statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and deviation of each channel of pictures, 0 to 1: ImageNet's of RGB, else the mean over RGB for all."""
    if channels == 3:
        return IMAGENET_MEAN, IMAGENET_STD
    return (sum(IMAGENET_MEAN) / 3,) * channels, (sum(IMAGENET_STD) / 3,) * channels


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Returns bytes [B, C, H, W] as floats less the mean and over the deviation of ``channel_statistics``."""
    # Numbers, not tensors, which would be copied to the GPU in every step, and the step would wait for it.
    channels = zip(images.unbind(1), *channel_statistics(images.shape[1]), strict=True)
    return torch.stack([(channel.float() - 255 * mean) / (255 * std) for channel, mean, std in channels], 1)


def _ends_with(path: Path, ending: bytes) -> bool:
    with path.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - len(ending)))
        return file.read() == ending


def _from_bands(values: NDArray[np.uint8], reading: Reading) -> Picture:
    """Bytes [C, H, W] as the model's channels, of which C are as many or 1."""
    if reading.channels == 3:
        return Image.fromarray(np.ascontiguousarray(np.broadcast_to(values, (3, *values.shape[1:])).transpose(1, 2, 0)))
    return torch.from_numpy(np.ascontiguousarray(values))


def _check_modes(path: Path, image: Image.Image, reading: Reading) -> None:
    """Raises UserError where a model of neither RGB nor grey has other channels than a picture of Pillow's has bands."""
    if reading.channels not in (1, 3):
        check_count(path, 3 if image.mode in ("P", "PA") else len(image.getbands()), reading)


def _decode(path: Path, image: Image.Image, reading: Reading) -> Picture:
    _check_modes(path, image, reading)
    if reading.channels == 3:
        return _upright_rgb(image)
    if reading.channels == 1:
        return torch.from_numpy(np.array(_upright_rgb(image).convert("L")))[None]
    return to_tensor(upright(image))


def _upright_rgb(image: Image.Image) -> Image.Image:
    image = upright(image)
    if image.mode.startswith(("I", "F")):  # 16 or 32 bits: convert() would clip at 255
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if values.max(initial=0) > 255 else 255.0
        return Image.fromarray(np.clip(values / top * 255 + 0.5, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("P", "LA", "PA", "RGBA"):  # transparent pixels become white, not whatever lies below
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image)
    if image.mode != "RGB":
        return image.convert("RGB")
    image.load()
    return image
