"""Pictures that Pillow does not read: NumPy's arrays, and TIFF files of other bands than grey, RGB or CMYK."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from convmae.engine.errors import UserError
from convmae.engine.reading import Reading

ARRAYS, TIFFS = (".npy",), (".tif", ".tiff")
_NUMBERS = "buif"  # NumPy's kinds of arrays that pictures are made of
_COLOURS = {0: 1, 1: 1, 3: 1, 2: 3, 6: 3, 8: 3, 5: 4}  # samples of TIFF's photometric interpretations
_ORIENTATION = 274  # TIFF's tag
# What tifffile raises on damaged files.
_DAMAGED = (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, struct.error)


class Bands(NamedTuple):
    """What a file holds, by its header. ``read`` gives the values [C, H, W], as they are in the file but upright."""

    count: int
    size: tuple[int, int]  # width and height
    dtype: np.dtype[Any]
    turned: bool
    read: Callable[[], NDArray[Any]]


def stored_bands(path: Path, reading: Reading) -> Bands | None:
    """Returns the bands of a file, or None for one that is Pillow's.

    Raises UserError for a file that is broken, has too many pixels, or other bands than the model has channels.
    """
    ending = path.suffix.lower()
    if ending not in ARRAYS + TIFFS:
        return None
    found = _array(path, reading.channels) if ending in ARRAYS else _tiff(path, reading)
    if found is None:
        return None
    width, height = found.size
    if width * height > reading.max_pixels:
        raise UserError(
            f"{path} has {width} x {height} pixels, more than data.max_pixels, which is {reading.max_pixels}; expected smaller "
            "pictures, or a larger limit."
        )
    if not (found.count == 1 and reading.channels == 3):  # grey is RGB, too
        check_count(path, found.count, reading)
    return found


def check_count(path: Path, count: int, reading: Reading) -> None:
    """Raises UserError where a file has other bands than the model has channels."""
    if count != reading.channels:
        raise UserError(
            f"{path} has {count_bands(count)}, model.in_chans is {reading.channels}; expected as many: set "
            f"model.in_chans={count}, or give files of as many bands as the model has channels."
        )


def count_bands(count: int) -> str:
    """Returns a number of bands as text."""
    return "1 band" if count == 1 else f"{count} bands"


def turn(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Returns a view of values [C, H, W] turned as EXIF's orientation, 1 to 8, says."""
    if orientation >= 5:
        values = values.swapaxes(1, 2)
    down = orientation in (3, 4, 7, 8)
    across = orientation in (2, 3, 6, 7)
    return values[:, :: -1 if down else 1, :: -1 if across else 1]


def to_bytes(values: NDArray[Any], reading: Reading) -> NDArray[np.uint8]:
    """Returns values as bytes: of more than 8 bits scaled from ``reading.range``, or from what their kind can hold."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values * np.uint8(255)
    low, high = reading.range or (0, 65535 if values.max(initial=0) > 255 else 255)
    return np.clip((values - np.float64(low)) / (high - low) * 255 + 0.5, 0, 255).astype(np.uint8)


def _array(path: Path, channels: int) -> Bands:
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"There is no picture {path}.") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise UserError(f"{path} can't be read as an array ({error}); replace or remove the file.") from None
    expected = f"expected numbers of shape [H, W, {channels}] or [{channels}, H, W]" + ", or [H, W]" * (channels == 1)
    if not isinstance(values, np.ndarray) or values.dtype.kind not in _NUMBERS or values.ndim not in (2, 3):
        found = f"{values.dtype} of shape {list(values.shape)}" if isinstance(values, np.ndarray) else "several arrays"
        raise UserError(f"{path} holds {found}; {expected}.")
    first, last = values.shape[0], values.shape[-1]
    if values.ndim == 3 and first == last == channels:
        raise UserError(f"{path} has the shape {list(values.shape)}, in which two axes may be the bands; {expected}.")
    if values.ndim == 2:
        axis, values = 0, values[None]
    elif channels in (first, last):
        axis = 0 if first == channels else 2
    else:
        axis = 0 if first < last else 2  # there are fewer bands than pixels along a side
    ordered = np.moveaxis(values, axis, 0)
    return Bands(len(ordered), ordered.shape[:0:-1], values.dtype, False, lambda: np.array(ordered))


def _tiff(path: Path, reading: Reading) -> Bands | None:
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            series = file.series[0]
            kept = {
                axis: size for axis, size in zip(series.axes, series.shape, strict=True) if size > 1 or axis in "YX"
            }
            if reading.channels in (1, 3) and "C" not in kept and _is_plain(page, reading):
                return None
            end = max(map(sum, zip(page.dataoffsets, page.databytecounts, strict=True)))
            whole = end <= path.stat().st_size
            orientation = int(page.tags.valueof(_ORIENTATION, 1))
            dtype, associated = series.dtype, 1 in page.extrasamples
    except _DAMAGED:
        return None  # Pillow says what is wrong with it, or reads it after all
    axes = "".join(kept)
    others = [axis for axis in axes if axis not in "YX"]
    if len(others) > 1 or dtype is None or dtype.kind not in _NUMBERS:
        shape = ", ".join(f"{axis}: {size}" for axis, size in kept.items())
        raise UserError(f"{path} holds {dtype} of {shape}; expected numbers of height, width and bands.")
    if not whole:
        raise UserError(f"{path} can't be read as a picture (it is cut off); replace or remove the file.")
    place = axes.index(others[0]) if others else None

    def read() -> NDArray[Any]:
        values = _decode(path, associated)
        values = values.reshape(tuple(kept.values()))
        return turn(values[None] if place is None else np.moveaxis(values, place, 0), orientation)

    size = (kept["X"], kept["Y"])
    count = 1 if place is None else kept[others[0]]
    return Bands(count, size[::-1] if orientation >= 5 else size, dtype, orientation != 1, read)


def _is_plain(page: Any, reading: Reading) -> bool:
    """Whether a page is grey, RGB or CMYK, with or without transparency, and of numbers that Pillow has modes for."""
    extra = [int(kind) for kind in page.extrasamples]
    colours = _COLOURS.get(int(page.photometric))
    if colours is None or page.samplesperpixel != colours + len(extra) or len(extra) > 1 or not all(extra):
        return False
    wide = page.dtype != np.uint8 and page.bitspersample > 8
    return page.samplesperpixel == 1 or not wide or (page.dtype == np.uint16 and reading.range is None)


def _decode(path: Path, associated: bool) -> NDArray[Any]:
    """The values of a file's first series; by Pillow where tifffile lacks the codec and Pillow gives them unchanged."""
    try:
        with tifffile.TiffFile(path) as file:
            return file.series[0].asarray()
    except _DAMAGED as error:
        if "imagecodecs" not in str(error):
            raise UserError(f"{path} can't be read as a picture ({error}); replace or remove the file.") from None
        reason = str(error)
    with Image.open(path) as image:
        depths = image.tag_v2.get(258, (1,))  # type: ignore[attr-defined]  # Pillow's TIFF pictures have it
        if image.mode in ("RGBA", "RGBX", "CMYK") and set(depths) == {8} and not associated:
            return np.asarray(image)
    raise UserError(f"{path} is compressed in a way that takes another package ({reason}): pip install imagecodecs.")
