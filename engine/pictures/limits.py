"""How large a picture, and what is in it beside pixels, may be."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from convmae.engine.faults import Fault

TEXT = 2**28  # bytes of texts, or of a colour profile, of a PNG; a program's whole history may stand there

# What Pillow warns of or refuses: pictures from 90 million pixels, and more than a megabyte of text.
_OURS: tuple[tuple[Any, str, int | None], ...] = (
    (Image, "MAX_IMAGE_PIXELS", None),
    (PngImagePlugin, "MAX_TEXT_CHUNK", TEXT),
    (PngImagePlugin, "MAX_TEXT_MEMORY", TEXT),
)
LARGE = 50_000_000  # pixels of a picture that threads decode one after the other
_lock, _large = threading.Lock(), threading.Lock()
_inside = 0  # threads that read pictures
_theirs: list[int | None] = []


@contextmanager
def own_limits() -> Iterator[None]:
    """Sets Pillow's limits aside, for all threads, until the last that is inside leaves."""
    global _inside
    with _lock:
        if _inside == 0:
            _theirs[:] = [getattr(module, name) for module, name, _ in _OURS]
            for module, name, value in _OURS:
                setattr(module, name, value)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                for (module, name, _), value in zip(_OURS, _theirs, strict=True):
                    setattr(module, name, value)


def in_turn(size: tuple[int, int]) -> AbstractContextManager[Any]:
    """Keeps other threads from decoding a large picture while this one does: dozens would take the memory of a machine."""
    return _large if size[0] * size[1] > LARGE else nullcontext()


def check_pixels(path: str | Path, size: tuple[int, int], max_pixels: int) -> None:
    """Raises Fault for a picture of more pixels than a run takes, or of none."""
    pixels = size[0] * size[1]
    if pixels <= 0:
        raise Fault("unreadable pictures", f"{path} is {size[0]} x {size[1]} pixels; replace or remove the file.")
    if pixels > max_pixels:
        raise Fault(
            "pictures of too many pixels",
            f"{path} is {size[0]} x {size[1]} pixels, {_millions(pixels)}; data.max_pixels is {_millions(max_pixels)}. "
            f"Raise it, as by --cfg-options data.max_pixels={pixels}, or shrink the picture or cut it up.",
        )


def _millions(pixels: int) -> str:
    return f"{(pixels + 500_000) // 1_000_000:,} million" if pixels >= 10_000_000 else f"{pixels:,}"
