"""Compressed strips and tiles of TIFF files come to what the file's header says at most."""

from __future__ import annotations

import lzma
import sys
import zlib
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import tifffile

_theirs = tifffile.TIFF.DECOMPRESSORS
_SLACK = 64  # bytes beyond the end, so that a stream's own sum is reached and checked
_STREAMS: dict[int, Callable[[], Any]] = {  # by TIFF's numbers of compressions
    8: zlib.decompressobj,
    32946: zlib.decompressobj,
    50013: zlib.decompressobj,
    34925: partial(lzma.LZMADecompressor, memlimit=2**28),  # bytes, of which xz -9 takes a quarter
}
if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor

    _STREAMS |= {34926: ZstdDecompressor, 50000: ZstdDecompressor}


class _Codecs(dict[int, Callable[..., Any]]):
    def __missing__(self, number: int) -> Callable[..., Any]:
        return _theirs[number]  # whose KeyError says what is missing


def bound_codecs() -> None:
    """Lets tifffile inflate a strip or tile no further than to its size, as imagecodecs does where it is installed."""
    if find_spec("imagecodecs") is None:
        tifffile.TIFF.DECOMPRESSORS = _Codecs({number: _bounded(stream) for number, stream in _STREAMS.items()})


def _bounded(make: Callable[[], Any]) -> Callable[..., bytes]:
    def decode(data: bytes, /, *, out: int) -> bytes:
        stream = make()
        found: bytes = stream.decompress(data, out + _SLACK)
        if not stream.eof and len(found) <= out:
            raise ValueError("a compressed part of it is cut off")
        return found

    return decode
