"""What a COCO file says of a picture and its objects, and their segmentations as masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_api

_MERGED = 8  # polygons of an object, at a time
Segmentation = list[list[float]] | dict[str, Any]  # polygons x0 y0 x1 y1 ... in pixels, or a compressed RLE


@dataclass(frozen=True, slots=True)
class Category:
    """A class: its id in the file (ids may have gaps) and its name. Labels number the classes 0..K-1 in order of id."""

    id: int
    name: str


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """A picture; width and height in pixels as the JSON file says."""

    id: int
    file_name: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class ObjectRecord:
    """An annotated object; box: left, top, right, bottom in pixels; crowds count in evaluation only."""

    id: int
    label: int
    box: tuple[float, float, float, float]
    area: float
    crowd: bool
    segmentation: Segmentation | None


def to_rle(segmentation: Segmentation, height: int, width: int) -> dict[str, Any]:
    """Returns a segmentation as compressed RLE; polygons are drawn on a canvas of that size."""
    if isinstance(segmentation, dict):
        return segmentation
    parts = mask_api.frPyObjects(segmentation, height, width)
    while len(parts) > 1:  # one after the other, all that there is so far would be merged with each
        parts = [mask_api.merge(parts[first : first + _MERGED]) for first in range(0, len(parts), _MERGED)]
    return parts[0]


def mask_area(segmentation: Segmentation, height: int, width: int) -> float:
    """Returns the number of pixels of a segmentation on a picture of that size."""
    return float(mask_api.area(to_rle(segmentation, height, width)))


def run_lengths(counts: str) -> NDArray[np.int64]:
    """Returns the runs in the ``counts`` of a compressed RLE, zeros first. Raises ValueError for a text that holds none.

    COCO's format: a character holds five bits of a number, the lowest first, and whether more follow; the last one's fifth
    bit is the sign; from the fourth number on, each is the difference to the last but one.
    """
    codes = np.frombuffer(counts.encode("utf-8"), np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("not the text of run lengths")
    ends = np.flatnonzero(codes & 32 == 0)
    lengths = np.diff(ends, prepend=-1)
    if lengths.max() > 8:  # beyond any picture
        raise ValueError("a run of more than 2^40 pixels")
    starts = ends - lengths + 1
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((codes & 31) << shifts, starts)
    runs -= np.where(codes[ends] & 16, 1 << 5 * lengths, 0)
    for first in (1, 2):
        runs[first::2] = runs[first::2].cumsum()
    return runs
