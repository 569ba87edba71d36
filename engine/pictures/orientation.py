"""How metadata say that a picture is turned."""

from __future__ import annotations

import struct

from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin

_ORIENTATION = ExifTags.Base.Orientation
_NO_EXIF = (
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    struct.error,
)  # what Pillow raises on what is none


def orientation(image: Image.Image) -> int:
    """Returns how metadata turn a picture not decoded yet: 1 not at all, 2 to 4 half a turn or mirrored, 5 to 8 a quarter."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        turn = image.tag_v2.get(_ORIENTATION, 1)
    else:
        if image.format == "PNG" and "exif" not in image.info:
            image.load()  # its metadata may follow its pixels
        try:
            turn = image.getexif().get(_ORIENTATION, 1)
        except _NO_EXIF:  # its pixels are whole, and so others show it
            turn = 1
    return turn if turn in range(1, 9) else 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Returns width and height of a picture not decoded yet, turned as its metadata say."""
    turned = orientation(image) >= 5
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # whose size some versions of Pillow turn, some don't
        size = image.tag_v2[TiffImagePlugin.IMAGEWIDTH], image.tag_v2[TiffImagePlugin.IMAGELENGTH]
    else:
        size = image.size
    return size[::-1] if turned else size


def upright(image: Image.Image) -> Image.Image:
    """Returns a picture not decoded yet turned as its metadata say."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # which Pillow turns as it decodes it
        if orientation(image) >= 5:
            image.filename = ""  # but turns wrongly where it maps the file into memory (Pillow 13.0)
        image.load()
        return image
    return image if orientation(image) == 1 else ImageOps.exif_transpose(image)


def turned(values: NDArray, turn: int) -> NDArray:
    """Returns pixels [H, W, ...] turned as ``orientation`` says."""
    if turn >= 5:
        values = values.swapaxes(0, 1)
    if turn in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values[::-1] if turn in (3, 4, 7, 8) else values
