"""Where the names of objects stand on a picture, if they fit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

HIDDEN = 0.5  # part of an object's box that a tag may cover

Place = tuple[float, float]


def place_tags(
    boxes: NDArray[np.float64], sizes: Sequence[Place | None], canvas: Place, drawn: int | None = None
) -> list[Place | None]:
    """Returns the left and top of each object's tag, None where there is no room or no tag.

    A tag stands at its box within the picture; it covers no earlier tag, and of no box more than ``HIDDEN``, so that in a dense
    scene most objects go without. boxes: [N, 4]; sizes: width and height of each tag; canvas: those of the picture. Boxes from
    number ``drawn`` on are heeded by their own and later tags only, so that they may be left out without moving a tag.
    """
    places: list[Place | None] = []
    taken = np.zeros((0, 4))
    drawn = len(boxes) if drawn is None else drawn
    areas = np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1)
    for number, (box, size) in enumerate(zip(boxes.tolist(), sizes, strict=True)):
        place = None
        if size is not None and size[0] <= canvas[0] and size[1] <= canvas[1]:
            spots = _spots(box, size, canvas)
            heeded = slice(max(drawn, number + 1))
            free = (_shared(spots, taken) == 0).all(axis=1)
            free &= (_shared(spots, boxes[heeded]) <= HIDDEN * areas[heeded]).all(axis=1)
            if free.any():
                spot = spots[int(free.argmax())]
                taken = np.vstack([taken, spot])
                place = (float(spot[0]), float(spot[1]))
        places.append(place)
    return places


def _spots(box: Sequence[float], size: Place, canvas: Place) -> NDArray[np.float64]:
    """Returns the places [P, 4] that a tag may take, the best first, moved into the picture."""
    (left, top, right, bottom), (width, height) = box, size
    corners = [
        (left, top - height),
        (left, top),
        (left, bottom),
        (right - width, top - height),
        (left, bottom - height),
    ]
    corners += [(right - width, bottom), (right, top), (left - width, top)]
    # Down along the box, not beyond: there it would seem to be of another object.
    corners += [(left, top + step * height) for step in range(1, 7) if top + step * height < bottom]
    spots = np.clip(np.array(corners), 0, np.array(canvas) - np.array(size))
    return np.hstack([spots, spots + np.array(size)])


def _shared(some: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the areas [P, N] that rectangles have in common."""
    corner = np.minimum(some[:, None, 2:], others[None, :, 2:]) - np.maximum(some[:, None, :2], others[None, :, :2])
    return np.asarray(np.clip(corner, 0, None).prod(axis=2))
