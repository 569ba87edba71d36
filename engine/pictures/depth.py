"""Pictures of more than 8 bits a sample: what files of their kind can hold, and how that becomes bytes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin

from convmae.engine.faults import Fault
from convmae.engine.pictures.orientation import orientation, turned, upright

_FORMS = {1: "unsigned", 2: "signed", 3: "float"}  # of TIFF's SampleFormat
_WHITE_IS_ZERO = 0
_PREMULTIPLIED = 1


class Kind(NamedTuple):
    """How a file keeps its samples: of so many bits, "unsigned", "signed" or "float".

    ``inverted``: 0 is white; ``largest``: what a file says is its white, 0 where that follows from the bits.
    """

    bits: int = 8
    form: str = "unsigned"
    inverted: bool = False
    largest: int = 0

    @property
    def deep(self) -> bool:
        """Whether a byte doesn't hold a sample."""
        return self.bits > 8 or self.form != "unsigned"

    @property
    def range(self) -> tuple[float, float] | None:
        """Black and white of a file of this kind; None where its kind does not tell: of floats, and beyond 16 bits."""
        if self.form == "float" or self.bits > 16:
            return None
        low = -(2 ** (self.bits - 1)) if self.form == "signed" else 0
        return low, self.largest or low + 2**self.bits - 1

    def __str__(self) -> str:
        return f"{self.bits}-bit {'floats' if self.form == 'float' else f'{self.form} integers'}"


def kind_of(image: ImageFile.ImageFile, name: Path) -> Kind:
    """Returns how the file ``name`` of a picture keeps its samples, by its header; nothing of it was asked for yet."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits, form, inverted = (
            _first(image, tag, usual)
            for tag, usual in (
                (TiffImagePlugin.BITSPERSAMPLE, 1),
                (TiffImagePlugin.SAMPLEFORMAT, 1),
                (TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 1),
            )
        )
        return Kind(bits, _FORMS.get(form, "unsigned"), inverted == _WHITE_IS_ZERO)
    if image.mode == "F":
        return Kind(32, "float")
    if image.format == "PPM":
        arguments = image.tile[0].args
        largest = arguments[1] if isinstance(arguments, tuple) else 65535 if arguments == "I;16B" else 255
        return Kind(16, largest=int(largest)) if int(largest) > 255 else Kind()
    if image.format == "JPEG2000":
        return _kind_of_jpeg2000(name)
    if image.mode.startswith("I;16"):
        return Kind(16)
    if image.format == "PNG":
        return Kind(16 if "16" in str(image.tile[0].args) else 8)
    return Kind(32, "signed") if image.mode == "I" else Kind()


def read_deep(image: ImageFile.ImageFile, name: Path, kind: Kind, given: tuple[float, float] | None) -> Image.Image:
    """Returns a picture beyond 8 bits as upright bytes: grey, RGB or RGBA.

    ``given``: the values of black and white where the user says them, else those of the kind hold. What is no finite number
    is black.
    Raises Fault where neither tells them.
    """
    values = samples(image, name, kind)
    scaled = scale(values, name, kind, given)
    if values.ndim == 3 and values.shape[2] == 4:
        scaled[..., 3] = scale(values[..., 3], name, kind, None)
    return Image.fromarray(np.ascontiguousarray(scaled))


def scale(values: NDArray, name: Path, kind: Kind, given: tuple[float, float] | None) -> NDArray[np.uint8]:
    """Returns a file's values, of any shape, as bytes; raises as ``read_deep`` does."""
    black_white = given or kind.range
    if black_white is None:
        raise unknown_range(name, values, kind)
    scaled = to_bytes(values, *black_white)
    return 255 - scaled if kind.inverted else scaled


def samples(image: ImageFile.ImageFile, name: Path, kind: Kind) -> NDArray:
    """Returns a picture's values as its file holds them, upright: [H, W], [H, W, 3] or, with alpha, [H, W, 4].

    Raises Fault for colours other than RGB.
    """
    if image.mode == "F" or (image.format in ("TIFF", "PNG") and image.mode.startswith(("I", "L"))):
        values = np.asarray(upright(image))
        if (kind.bits, kind.form) == (32, "unsigned"):
            values = values.view(np.uint32)  # Pillow's are signed
        elif kind.bits == 8:
            values = values.view(np.int8)
        return values
    # Of others Pillow keeps a byte of each sample, or stretches what is less than 16 bits.
    mode = image.mode
    extra = _first(image, TiffImagePlugin.EXTRASAMPLES, 2) if isinstance(image, TiffImagePlugin.TiffImageFile) else 2
    if mode not in ("RGB", "RGBA", "I", "I;16") or (mode == "RGBA" and extra == _PREMULTIPLIED):
        raise Fault(
            "pictures that data.range is not for",
            f"{name} is a picture of {kind} whose colours (mode {mode}) data.range is not for; expected greyscale or RGB. "
            "Convert it, or leave data.range out.",
        )
    image.load()  # raises for a file that is cut off, of which OpenCV gives a part
    try:
        found = cv2.imdecode(np.frombuffer(name.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:  # as of more pixels than OpenCV takes
        found = None
    if found is None:
        raise Fault(
            "unreadable pictures", f"{name} can't be decoded as {kind} (by OpenCV); replace or remove the file."
        )
    if found.ndim == 3:
        found = found[..., [2, 1, 0, 3] if mode == "RGBA" else [2, 1, 0]]
    return turned(found, orientation(image))


def to_bytes(values: NDArray, low: float, high: float) -> NDArray[np.uint8]:
    """Returns values of any shape as bytes, ``low`` as 0 and ``high`` as 255; what is no finite number becomes 0."""
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return to_bytes(np.arange(2**16, dtype=np.float64), low, high)[values]
    numbers = np.nan_to_num(values.astype(np.float64), copy=False, nan=low, posinf=low, neginf=low)
    np.clip(numbers, low, high, out=numbers)
    numbers -= low
    numbers *= 255 / (high - low)
    numbers += 0.5
    return numbers.astype(np.uint8)


def unknown_range(name: Path, values: NDArray, kind: Kind) -> Fault:
    """Returns the fault of a picture whose kind does not tell black and white; ``values`` are what it holds."""
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    held = f"{low:g} to {high:g}" if finite.size else "no number"
    return Fault(
        "pictures of unknown range",
        f"{name} is a picture of {kind}, which do not tell what is black and what is white; this file holds {held}. Give the "
        f"values of both for all pictures, as data.range={advised_range(float(low), float(high), kind)}.",
    )


def advised_range(low: float, high: float, kind: Kind) -> str:
    """Returns a range for values of a kind: so many bits of unsigned integers, of others the values with two digits."""
    if kind.form == "unsigned":
        return f"[0,{2 ** max(1, int(np.ceil(high)).bit_length()) - 1}]"
    step = 10.0 ** (np.floor(np.log10(max(high - low, 1e-30))) - 1)
    return f"[{np.floor(low / step) * step:g},{np.ceil(high / step) * step if high > low else low + 1:g}]"


def _kind_of_jpeg2000(path: Path) -> Kind:
    """Pillow stretches what it reads of 9 to 15 bits, and tells nothing of it."""
    with path.open("rb") as file:
        start = file.read(2**16)
    size = start.find(b"\xff\x4f\xff\x51")  # where the codestream begins, with its size
    depth = start[size + 42] if 0 <= size < len(start) - 42 else 7
    return Kind((depth & 0x7F) + 1, "signed" if depth & 0x80 else "unsigned")


def _first(image: TiffImagePlugin.TiffImageFile, tag: int, usual: int) -> int:
    found = image.tag_v2.get(tag, usual)
    return int(found[0]) if isinstance(found, tuple) else int(found)
