"""What stands in a label map, whatever it means: pixels of each value, palette colours, edges that run smoothly."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmae.segmentation.data.layout import IGNORE, count_values

# Of places where the pixels left and right differ, the share whose own value lies between them: at most 0.03 in maps of real
# scenes, 0.24 and more after bilinear or bicubic resizing, 0.45 in photographs.
_SMOOTH = 0.2
_FEWEST_EDGES = 100  # places, to say something from
_ROWS = 4  # every so many rows are looked at


class LabelValues(NamedTuple):
    """Of a label map: pixels of each value [256], the colours of the values that occur, and whether its edges run smoothly.

    ``colours`` is empty where there is no palette; IGNORE, whose colour says nothing, is left out.
    """

    counts: NDArray[np.int64]
    colours: dict[int, tuple[int, ...]]
    smooth: bool


def measure(values: NDArray[np.uint8], palette: list[int]) -> LabelValues:
    """Returns what stands in a label map uint8 [H, W] with such a palette."""
    counts = count_values(values)
    held = [value for value in np.flatnonzero(counts).tolist() if value != IGNORE and 3 * value < len(palette)]
    return LabelValues(counts, {value: tuple(palette[3 * value : 3 * value + 3]) for value in held}, _is_smooth(values))


def _is_smooth(values: NDArray[np.uint8]) -> bool:
    rows = values[::_ROWS]
    left, middle, right = rows[:, :-2], rows[:, 1:-1], rows[:, 2:]
    edges = int(np.count_nonzero(left != right))
    if edges < _FEWEST_EDGES:
        return False
    between = (middle > np.minimum(left, right)) & (middle < np.maximum(left, right))
    return int(np.count_nonzero(between)) > _SMOOTH * edges
