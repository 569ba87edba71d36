"""What the masks of a split's objects span and cover, for all of them at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_api

from convmae.detection.data.packed_objects import Columns

_AT_ONCE = 100_000  # objects whose points are in memory at a time
_RUNS_AT_ONCE = 255  # masks: pycocotools' area() takes no more with NumPy 2


class Outlines(NamedTuple):
    """One row an object. box: left, top, right, bottom of its mask in pixels, NaN where it has none, or one without a pixel.

    ``least`` and ``most`` are bounds of the pixels that a mask covers: of polygons, before they are drawn, the area of the
    largest part and the sum of all; of run lengths, both are the number.
    """

    box: NDArray[np.float64]
    least: NDArray[np.float64]
    most: NDArray[np.float64]


def outlines(columns: Columns, sizes: NDArray[np.int64]) -> Outlines:
    """Returns the outlines of packed objects; sizes: width and height of the picture of each."""
    count = len(columns["id"])
    found = Outlines(np.full((count, 4), np.nan), np.zeros(count), np.zeros(count))
    for start in range(0, count, _AT_ONCE):
        rows = slice(start, min(count, start + _AT_ONCE))
        for whole, ours in zip(found, _of_polygons(columns, rows), strict=True):
            whole[rows] = ours
    lengths = np.diff(columns["run_ends"], prepend=0)
    drawn = np.flatnonzero(lengths)
    for start in range(0, len(drawn), _RUNS_AT_ONCE):
        some = drawn[start : start + _RUNS_AT_ONCE]
        rles = list(_run_lengths(columns, some, sizes))
        left, top, width, height = mask_api.toBbox(rles).T
        found.box[some] = np.where((width > 0)[:, None], np.stack([left, top, left + width, top + height], 1), np.nan)
        found.least[some] = found.most[some] = mask_api.area(rles)
    return found


def _of_polygons(columns: Columns, rows: slice) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Returns outline, largest part and sum of parts of the objects in a slice of the rows; NaN and 0 without polygons."""
    count = rows.stop - rows.start
    box, least, most = np.full((count, 4), np.nan), np.zeros(count), np.zeros(count)
    ends = np.concatenate([[0], columns["polygon_ends"]])[rows.start : rows.stop + 1]
    parts = np.diff(ends)
    has = np.flatnonzero(parts)
    if not len(has):
        return box, least, most
    stops = np.concatenate([[0], columns["number_ends"]])[ends[0] : ends[-1] + 1]
    points = np.asarray(columns["numbers"][stops[0] : stops[-1]]).reshape(-1, 2)
    stops = (stops - stops[0]) // 2
    after = np.arange(1, len(points) + 1)
    after[stops[1:] - 1] = stops[:-1]  # the last point of a polygon is followed by its first
    crossed = points[:, 0] * points[after, 1] - points[after, 0] * points[:, 1]
    area = np.abs(np.add.reduceat(crossed, stops[:-1])) / 2
    first = (ends[:-1] - ends[0])[has]  # of an object's polygons
    box[has, :2] = np.minimum.reduceat(np.minimum.reduceat(points, stops[:-1]), first)
    box[has, 2:] = np.maximum.reduceat(np.maximum.reduceat(points, stops[:-1]), first)
    least[has], most[has] = np.maximum.reduceat(area, first), np.add.reduceat(area, first)
    return box, least, most


def _run_lengths(columns: Columns, rows: NDArray[np.int64], sizes: NDArray[np.int64]) -> Iterator[dict[str, object]]:
    ends = columns["run_ends"]
    starts = np.concatenate([[0], ends])[rows]
    for start, end, (width, height) in zip(starts.tolist(), ends[rows].tolist(), sizes[rows].tolist(), strict=True):
        yield {"size": [height, width], "counts": columns["runs"][start:end].tobytes()}
