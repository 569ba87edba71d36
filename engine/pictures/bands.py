"""Pictures that Pillow does not read: NumPy's arrays, and TIFF files of other bands than grey, RGB or CMYK."""

from __future__ import annotations

import lzma
import struct
import tokenize
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from convmae.engine.errors import UserError
from convmae.engine.faults import Fault
from convmae.engine.pictures.depth import Kind, scale
from convmae.engine.pictures.limits import check_pixels
from convmae.engine.pictures.orientation import turned
from convmae.engine.pictures.reading import Reading
from convmae.engine.pictures.tiff_codecs import bound_codecs
from convmae.engine.regular_files import check_regular
from convmae.engine.shards.places import openable

ARRAYS, TIFFS = (".npy",), (".tif", ".tiff")
OTHER_BANDS = "pictures of other bands than the model has channels"
_FORMS = {"b": "unsigned", "u": "unsigned", "i": "signed", "f": "float"}  # by NumPy's kinds of arrays
_COLOURS = {0: 1, 1: 1, 3: 1, 2: 3, 6: 3, 8: 3, 5: 4}  # samples of TIFF's photometric interpretations
_ORIENTATION = 274  # TIFF's tag
_PREMULTIPLIED = 1
_TILE = 2**24  # pixels of a tile, which may be larger than its picture
# What tifffile and NumPy raise on damaged files.
_DAMAGED = (
    tifffile.TiffFileError,
    OSError,
    ValueError,
    EOFError,
    SyntaxError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    RuntimeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    tokenize.TokenError,
)
bound_codecs()


class Bands(NamedTuple):
    """What a file holds, by its header. ``read`` gives the values [H, W, C], as they are in the file but upright."""

    number: int
    size: tuple[int, int]  # width and height
    kind: Kind
    turned: bool
    read: Callable[[], NDArray[Any]]


def stored_bands(path: Path, reading: Reading) -> Bands | None:
    """Returns the bands of a file, or None for one that is Pillow's.

    Raises UserError for a file that is broken, has too many pixels, or other bands than the model has channels.
    """
    ending = path.suffix.lower()
    if ending not in ARRAYS + TIFFS:
        return None
    try:
        check_regular(path)
    except FileNotFoundError:
        raise UserError(f"There is no picture {path}.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read as a picture ({error}); replace or remove the file.") from None
    found = _array(path, reading.channels) if ending in ARRAYS else _tiff(path, reading.channels)
    if found is None:
        return None
    check_pixels(path, found.size, reading.max_pixels)
    if not (found.number == 1 and reading.channels == 3):  # grey is RGB, too
        check_count(path, found.number, reading)
    return found


def read_bands(path: Path, bands: Bands, reading: Reading) -> NDArray[np.uint8]:
    """Returns a file's bands as bytes [H, W, C]; raises Fault where neither kind nor range tell black and white."""
    values = bands.read()
    if bands.kind == Kind():
        return values
    return scale(values, path, bands.kind, reading.range if bands.kind.deep else None)


def check_count(path: Path, count: int, reading: Reading) -> None:
    """Raises Fault where a file has other bands than the model has channels."""
    if count != reading.channels:
        raise Fault(
            OTHER_BANDS,
            f"{path} has {count_bands(count)}, model.in_chans is {reading.channels}; expected as many: set "
            f"model.in_chans={count}, or give files of as many bands as the model has channels.",
        )


def count_bands(count: int) -> str:
    """Returns a number of bands as text."""
    return "1 band" if count == 1 else f"{count} bands"


def _array(path: Path, channels: int) -> Bands:
    try:
        file = openable(path)
        values = np.load(file, mmap_mode="r" if file is path else None, allow_pickle=False)
    except _DAMAGED as error:
        raise UserError(f"{path} can't be read as an array ({error}); replace or remove the file.") from None
    expected = f"expected numbers of shape [H, W, {channels}] or [{channels}, H, W]" + ", or [H, W]" * (channels == 1)
    if not isinstance(values, np.ndarray) or values.dtype.kind not in _FORMS or values.ndim not in (2, 3):
        found = f"{values.dtype} of shape {list(values.shape)}" if isinstance(values, np.ndarray) else "several arrays"
        raise UserError(f"{path} holds {found}; {expected}.")
    first, last = values.shape[0], values.shape[-1]
    if values.ndim == 3 and first == last == channels:
        raise UserError(f"{path} has the shape {list(values.shape)}, in which two axes may be the bands; {expected}.")
    if values.ndim == 2:
        ordered = values[..., None]
    elif channels in (first, last):
        ordered = values if last == channels else np.moveaxis(values, 0, -1)
    else:  # there are fewer bands than pixels along a side
        ordered = values if last <= first else np.moveaxis(values, 0, -1)
    height, width, count = ordered.shape
    bits = 1 if values.dtype.kind == "b" else 8 * values.dtype.itemsize
    return Bands(count, (width, height), Kind(bits, _FORMS[values.dtype.kind]), False, lambda: np.array(ordered))


def _tiff(path: Path, channels: int) -> Bands | None:
    try:
        with tifffile.TiffFile(openable(path)) as file:
            page, plain = file.pages.first, channels in (1, 3) and _is_plain(file.pages.first)
            if plain and not (file.is_imagej or file.is_ome):
                return None
            series = file.series[0]
            sides = {
                axis: size for axis, size in zip(series.axes, series.shape, strict=True) if size > 1 or axis in "YX"
            }
            if plain and "C" not in sides:
                return None
            end = max(map(sum, zip(page.dataoffsets, page.databytecounts, strict=True)))
            whole = end <= path.stat().st_size
            orientation = int(page.tags.valueof(_ORIENTATION, 1))
            dtype, bits = series.dtype, int(page.bitspersample)
            premultiplied = _PREMULTIPLIED in page.extrasamples
            tile = page.tilelength * page.tilewidth * page.tiledepth if page.is_tiled else 0
    except _DAMAGED:
        return None  # Pillow says what is wrong with it, or reads it after all
    others = [axis for axis in sides if axis not in "YX"]
    if len(others) > 1 or not {"X", "Y"} <= sides.keys() or dtype is None or dtype.kind not in _FORMS:
        shape = ", ".join(f"{axis}: {size}" for axis, size in sides.items())
        raise UserError(f"{path} holds {dtype} of {shape}; expected numbers of height, width and bands.")
    if not whole:
        raise UserError(f"{path} can't be read as a picture (it is cut off); replace or remove the file.")

    if tile > max(_TILE, sides["X"] * sides["Y"]):
        raise UserError(
            f"{path} is {sides['X']} x {sides['Y']} pixels in tiles of {tile}; expected {_TILE} at most. Save it anew in "
            "strips."
        )

    def read() -> NDArray[Any]:
        values = _decode(path, premultiplied).reshape(tuple(sides.values()))
        ordered = np.moveaxis(values, list(sides).index(others[0]), -1) if others else values[..., None]
        return turned(ordered, orientation)

    size = (sides["X"], sides["Y"])
    count = sides[others[0]] if others else 1
    kind = Kind(bits, _FORMS[dtype.kind])
    return Bands(count, size[::-1] if orientation >= 5 else size, kind, orientation != 1, read)


def _is_plain(page: Any) -> bool:
    """Whether a page is grey, RGB or CMYK, with or without transparency, and of numbers that Pillow has modes for."""
    extra = [int(kind) for kind in page.extrasamples]
    colours = _COLOURS.get(int(page.photometric))
    if colours is None or page.samplesperpixel != colours + len(extra) or len(extra) > 1 or not all(extra):
        return False
    return page.samplesperpixel == 1 or page.bitspersample <= 8 or page.dtype == np.uint16


def _decode(path: Path, premultiplied: bool) -> NDArray[Any]:
    """The values of a file's first series; by Pillow where tifffile lacks the codec and Pillow gives them unchanged."""
    try:
        with tifffile.TiffFile(openable(path)) as file:
            return file.series[0].asarray()
    except _DAMAGED as error:
        if "imagecodecs" not in str(error):
            raise UserError(f"{path} can't be read as a picture ({error}); replace or remove the file.") from None
        reason = str(error)
    with Image.open(openable(path)) as image:
        depths = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
        if image.mode in ("RGBA", "RGBX", "CMYK") and set(depths) == {8} and not premultiplied:
            return np.asarray(image)
    raise UserError(f"{path} is compressed in a way that takes another package ({reason}): pip install imagecodecs.")
