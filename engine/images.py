"""Pictures from files, whatever their mode."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFile
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from convmae.engine.depth import Kind, kind_of, read_deep
from convmae.engine.errors import UserError
from convmae.engine.limits import check_pixels, own_limits
from convmae.engine.orientation import orientation, upright, upright_size
from convmae.engine.png import pixels_alone
from convmae.engine.reading import MAX_PIXELS, RGB, Reading

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# What Pillow raises on damaged files, the last of them on metadata of the wrong kinds.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, zlib.error, TypeError, IndexError, struct.error)
_ENDINGS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}  # last bytes of a whole file


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
def open_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Iterator[ImageFile.ImageFile]:
    """Gives a picture that is not decoded yet.

    Raises UserError naming a file that is none, turns out to be broken, or has more than ``max_pixels``.
    """
    try:
        with own_limits(), _open(Path(path)) as image:
            check_pixels(path, image.size, max_pixels)
            yield image
    except FileNotFoundError:
        raise UserError(f"There is no picture {path}.") from None
    except _DAMAGED as error:
        raise UserError(f"{path} can't be read as a picture ({error}); replace or remove the file.") from None


def read_image(path: str | Path, reading: Reading = RGB) -> Image.Image:
    """Returns a picture as RGB, turned as its EXIF data says. Raises UserError naming a file that is none, or is cut off."""
    with open_image(path, reading.max_pixels) as image:
        return _upright_rgb(image, Path(path), kind_of(image, Path(path)), reading)


def look_at(path: str | Path, reading: Reading = RGB) -> Look:
    """Looks at a picture, decoding it only where its last bytes don't say that it is whole; raises as `read_image` does."""
    with open_image(path, reading.max_pixels) as image:
        look, ending = Look(image.mode, upright_size(image), orientation(image) != 1), _ENDINGS.get(image.format or "")
    if ending is None or not _ends_with(Path(path), ending):
        read_image(path, reading)
    return look


def read_crop(
    path: str | Path, choose: Callable[[int, int], Box], size: int, reading: Reading = RGB
) -> tuple[Image.Image, Box]:
    """Reads a picture as `read_image` does, but no finer than a crop that is resized to `size` pixels needs.

    A JPEG file is decoded at 1/2, 1/4 or 1/8 of its size if the crop then still has twice the pixels along each side.

    Args:
        choose: gives the crop for a height and width.

    Returns:
        The picture, and the crop in its pixels: of a smaller picture rounded, by a quarter of a resized pixel at most.
    """
    with open_image(path, reading.max_pixels) as image:
        kind = kind_of(image, Path(path))
        width, height = upright_size(image)
        crop = choose(height, width)
        shrink = max(1, min(crop.height, crop.width) // (2 * size))
        image.draft(None, (image.width // shrink, image.height // shrink))
        image = _upright_rgb(image, Path(path), kind, reading)
        across, down = image.width / width, image.height / height
        top, left = round(crop.top * down), round(crop.left * across)
        bottom, right = round((crop.top + crop.height) * down), round((crop.left + crop.width) * across)
        return image, Box(top, left, bottom - top, right - left)


def resize_crop(image: Image.Image, crop: Box, size: int) -> torch.Tensor:
    """Returns a crop of an RGB picture at `size` x `size` pixels as bytes [3, size, size]; bicubic, antialiased."""
    with own_limits():
        pixels = image.crop((crop.left, crop.top, crop.left + crop.width, crop.top + crop.height))
    # As bytes and channels last, as they are: PyTorch's kernel for these is several times as fast as Pillow's.
    tensor = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
    return resize(tensor, [size, size], InterpolationMode.BICUBIC, antialias=True)


def to_tensor(image: Image.Image) -> torch.Tensor:
    """Returns a picture as bytes [3, H, W]."""
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).contiguous()


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Returns bytes [B, 3, H, W] as floats with ImageNet's mean and deviation taken out."""
    # Numbers, not tensors, which would be copied to the GPU in every step, and the step would wait for it.
    channels = zip(images.unbind(1), IMAGENET_MEAN, IMAGENET_STD, strict=True)
    return torch.stack([(channel.float() - 255 * mean) / (255 * std) for channel, mean, std in channels], 1)


def _open(path: Path) -> ImageFile.ImageFile:
    try:
        return Image.open(path)
    except FileNotFoundError:
        raise
    except _DAMAGED:  # of a PNG perhaps its profile or a text alone, which no other reader minds
        pixels = pixels_alone(path)
        if pixels is None:
            raise
        return Image.open(pixels)


def _ends_with(path: Path, ending: bytes) -> bool:
    with path.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - len(ending)))
        return file.read() == ending


def _upright_rgb(image: ImageFile.ImageFile, path: Path, kind: Kind, reading: Reading) -> Image.Image:
    if kind.deep and (reading.range or image.mode.startswith(("I", "F", "L"))):
        picture = read_deep(image, path, kind, reading.range)
    else:  # in colour Pillow takes the upper byte of 16 bits
        picture = upright(image)
    if picture.mode in ("P", "LA", "PA", "RGBA", "La", "RGBa") or "transparency" in picture.info:
        # Transparent pixels become white, not whatever lies below.
        picture = picture.convert("LA" if picture.mode == "La" else "RGBA").convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    if picture.mode != "RGB":
        return picture.convert("RGB")
    picture.load()
    return picture
