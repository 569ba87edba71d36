"""Pictures from files, whatever their mode."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Union

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from convmae.engine.errors import UserError
from convmae.engine.pictures.bands import check_count, count_bands, read_bands, stored_bands
from convmae.engine.pictures.depth import Kind, kind_of, read_deep, samples, scale
from convmae.engine.pictures.limits import check_pixels, in_turn, own_limits
from convmae.engine.pictures.orientation import orientation, upright, upright_size
from convmae.engine.pictures.png import pixels_alone
from convmae.engine.pictures.reading import MAX_PIXELS, RGB, Reading
from convmae.engine.regular_files import check_regular
from convmae.engine.shards.places import as_path, openable

if TYPE_CHECKING:
    import torch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# What Pillow raises on damaged files, the last of them on metadata of the wrong kinds.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, zlib.error, TypeError, IndexError, struct.error)
_ENDINGS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}  # last bytes of a whole file
REDUCTIONS = (1, 2, 4, 8)  # by which a JPEG file can be decoded smaller
Picture = Union[Image.Image, "torch.Tensor"]  # in RGB, or of other channels bytes [C, H, W]


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
        check_regular(path)
        with own_limits(), _open(as_path(path)) as image:
            check_pixels(path, image.size, max_pixels)
            yield image
    except FileNotFoundError:
        raise UserError(f"There is no picture {path}.") from None
    except _DAMAGED as error:
        raise UserError(f"{path} can't be read as a picture ({error}); replace or remove the file.") from None


def read_image(path: str | Path, reading: Reading = RGB) -> Picture:
    """Returns a picture as RGB, or as bytes [C, H, W] of other channels, turned as its EXIF data says.

    One channel is grey, of a coloured picture its luma. Of more, each is a band of the file, as many as it has: a fourth band
    is no transparency then.

    Raises UserError naming a file that is none, is cut off, or has other bands than the model has channels.
    """
    path = as_path(path)
    if (bands := stored_bands(path, reading)) is not None:
        return _from_pixels(read_bands(path, bands, reading), reading)
    with open_image(path, reading.max_pixels) as image:
        return _decode(image, path, kind_of(image, path), reading)


def look_at(path: str | Path, reading: Reading = RGB) -> Look:
    """Looks at a picture, decoding it only where its last bytes don't say that it is whole; raises as `read_image` does."""
    path = as_path(path)
    if (bands := stored_bands(path, reading)) is not None:
        return Look(f"with {count_bands(bands.number)} of {bands.kind}", bands.size, bands.turned)
    with open_image(path, reading.max_pixels) as image:
        check_bands(image, path, reading)
        look, ending = Look(image.mode, upright_size(image), orientation(image) != 1), _ENDINGS.get(image.format or "")
    if ending is None or not _ends_with(path, ending):
        with in_turn(look.size):
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
    path = as_path(path)
    if (bands := stored_bands(path, reading)) is not None:
        width, height = bands.size
        return _from_pixels(read_bands(path, bands, reading), reading), choose(height, width)
    with open_image(path, reading.max_pixels) as image:
        kind = kind_of(image, path)
        width, height = upright_size(image)
        crop = choose(height, width)
        by = reduction(min(crop.height, crop.width), size)
        image.draft(None, (image.width // by, image.height // by))
        picture = _decode(image, path, kind, reading)
        return picture, in_reduced(crop, (width, height), size_of(picture))


def measure(path: str | Path, reading: Reading = RGB) -> tuple[tuple[int, int], bool]:
    """Returns a picture's width and height upright, and whether it can be decoded smaller; raises as `read_image` does."""
    path = Path(path)
    if (bands := stored_bands(path, reading)) is not None:
        return bands.size, False
    with open_image(path, reading.max_pixels) as image:
        return upright_size(image), image.draft(None, (1, 1)) is not None


def reduction(side: int, size: int) -> int:
    """Returns by what a picture is reduced as it is decoded, for a crop of that shorter side and `size` pixels at last."""
    return max(by for by in REDUCTIONS if by == 1 or side >= 2 * size * by)


def in_reduced(crop: Box, whole: tuple[int, int], reduced: tuple[int, int]) -> Box:
    """Returns a crop of a picture of that width and height in the pixels of the reduced one."""
    across, down = reduced[0] / whole[0], reduced[1] / whole[1]
    top, left = round(crop.top * down), round(crop.left * across)
    bottom, right = round((crop.top + crop.height) * down), round((crop.left + crop.width) * across)
    return Box(top, left, bottom - top, right - left)


def resize_crop(image: Picture, crop: Box, size: int) -> torch.Tensor:
    """Returns a crop of a picture at `size` x `size` pixels as bytes [C, size, size]; bicubic, antialiased."""
    import torch
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import resize_image

    bottom, right = crop.top + crop.height, crop.left + crop.width
    if not isinstance(image, Image.Image):
        tensor = image[:, crop.top : bottom, crop.left : right]
        if image.stride(0) == 1:  # its channels are last in memory, and stay so
            tensor = tensor[None].contiguous(memory_format=torch.channels_last)[0]
    else:
        with own_limits():
            pixels = image.crop((crop.left, crop.top, right, bottom))
        # As bytes and channels last, as they are: PyTorch's kernel for these is several times as fast as Pillow's.
        tensor = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
    return resize_image(tensor, [size, size], InterpolationMode.BICUBIC, antialias=True)


def size_of(image: Picture) -> tuple[int, int]:
    """Returns a picture's width and height."""
    return image.size if isinstance(image, Image.Image) else (image.shape[2], image.shape[1])


def as_rgb(image: Picture) -> Image.Image:
    """Returns what is drawn of a picture: one or two channels as grey, the first, and of more the first three as RGB."""
    if isinstance(image, Image.Image):
        return image
    shown = image[:3] if len(image) > 2 else image[:1].expand(3, -1, -1)
    return Image.fromarray(shown.permute(1, 2, 0).contiguous().numpy())


def to_tensor(image: Picture) -> torch.Tensor:
    """Returns a picture as bytes [C, H, W]."""
    if not isinstance(image, Image.Image):
        return image

    import torch

    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).contiguous()


def channel_statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and deviation of each channel of pictures, 0 to 1: ImageNet's of RGB, else the mean over RGB for all."""
    if channels == 3:
        return IMAGENET_MEAN, IMAGENET_STD
    return (sum(IMAGENET_MEAN) / 3,) * channels, (sum(IMAGENET_STD) / 3,) * channels


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Returns bytes [B, C, H, W] as floats less the mean and over the deviation of ``channel_statistics``."""
    import torch

    # Numbers, not tensors, which would be copied to the GPU in every step, and the step would wait for it.
    channels = zip(images.unbind(1), *channel_statistics(images.shape[1]), strict=True)
    return torch.stack([(channel.float() - 255 * mean) / (255 * std) for channel, mean, std in channels], 1)


def _open(path: Path) -> ImageFile.ImageFile:
    try:
        return Image.open(openable(path))
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


def check_bands(image: Image.Image, path: Path, reading: Reading) -> None:
    """Raises Fault where a model of neither RGB nor grey has other channels than a picture of Pillow's has bands."""
    if reading.channels not in (1, 3):
        check_count(path, 3 if image.mode in ("P", "PA") else len(image.getbands()), reading)


def _decode(image: ImageFile.ImageFile, path: Path, kind: Kind, reading: Reading) -> Picture:
    check_bands(image, path, reading)
    if reading.channels not in (1, 3):
        deep = kind.deep and reading.range  # else Pillow takes the upper byte of 16 bits
        values = scale(samples(image, path, kind), path, kind, reading.range) if deep else np.array(upright(image))
        return _from_pixels(values, reading)
    picture = _upright_rgb(image, path, kind, reading)
    return picture if reading.channels == 3 else _from_pixels(np.array(picture.convert("L"))[..., None], reading)


def _from_pixels(pixels: NDArray[np.uint8], reading: Reading) -> Picture:
    """Bytes [H, W, C] as the model's channels, of which C are as many or 1."""
    if reading.channels == 3:
        return Image.fromarray(np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3))))

    import torch  # takes seconds, and RGB pictures can be looked at without it

    # A mirrored array of one pixel's width counts as contiguous, and PyTorch takes no negative stride.
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


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
