"""Pictures whose long side is cut to so many pixels, as the bytes of a file of their own format."""

from __future__ import annotations

import io
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageFile

from convmae.engine.errors import UserError
from convmae.engine.pictures.depth import kind_of
from convmae.engine.pictures.images import open_image
from convmae.engine.pictures.orientation import upright

QUALITY = 92  # of JPEG
_MODES = {"JPEG": ("L", "RGB"), "PNG": ("L", "LA", "RGB", "RGBA")}


class Done(str, Enum):
    """What became of a picture; its value is how many of them are told."""

    WHOLE = "as they are"
    CUT = "cut"
    OTHER = "as they are, for no JPEG or PNG of 8 bits in grey or RGB"
    UNREAD = "as they are, for they can't be read"


class Packed(NamedTuple):
    """A picture's bytes as they go into a shard, and what became of it."""

    content: bytes
    done: Done
    reason: str = ""


def pack_picture(path: Path, long_side: int) -> Packed:
    """Returns a picture's file as it is, or with its long side cut to ``long_side`` pixels (0: as it is).

    A picture that is cut stands upright and keeps its colour profile, and no other metadata. What can't be read stays as it is,
    so that a run meets in shards what it meets in the folder. Raises OSError for a file that is gone.
    """
    content = path.read_bytes()
    if not long_side:
        return Packed(content, Done.WHOLE)
    try:
        with open_image(path) as image:
            if max(image.size) <= long_side:
                return Packed(content, Done.WHOLE)
            modes = _MODES.get("JPEG" if image.format == "MPO" else image.format or "", ())
            several = getattr(image, "is_animated", False) and image.format != "MPO"
            if image.mode not in modes or kind_of(image, path).deep or several or "transparency" in image.info:
                return Packed(content, Done.OTHER)
            return Packed(_cut(image, long_side), Done.CUT)
    except UserError as error:
        return Packed(content, Done.UNREAD, str(error))


def _cut(image: ImageFile.ImageFile, long_side: int) -> bytes:
    kind = "PNG" if image.format == "PNG" else "JPEG"
    profile = image.info.get("icc_profile")
    image.thumbnail((long_side, long_side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    file = io.BytesIO()
    options: dict[str, Any] = {"quality": QUALITY, "comment": b""} if kind == "JPEG" else {}
    upright(image).save(file, kind, icc_profile=profile, exif=b"", **options)
    return file.getvalue()
