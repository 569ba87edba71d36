"""In which form boxes are given: COCO's left, top, width and height in pixels, or another that is taken for it by mistake."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Corners = tuple[Values, Values, Values, Values]  # left, top, right, bottom in pixels
SHARE = 0.1  # of the objects, from which on a mistake is the file's and not one object's
SEVERAL = 4  # objects at least, where nothing but their boxes tells
_SLACK, _PART = 1.0, 0.1  # pixels, and part of an object's side, by which box and mask may differ
_CLOSE = 0.05  # the same part, for a form to explain a box

# Each reads the four numbers of a bbox, on a picture of w x h, as corners.
FORMS: dict[str, Callable[[Values, Values, Values, Values, Values, Values], Corners]] = {
    "corners [x1, y1, x2, y2]": lambda a, b, c, d, w, h: (a, b, c, d),
    "corners [y1, x1, y2, x2]": lambda a, b, c, d, w, h: (b, a, d, c),
    "sides [x1, x2, y1, y2]": lambda a, b, c, d, w, h: (a, c, b, d),
    "centre, width and height": lambda a, b, c, d, w, h: (a - c / 2, b - d / 2, a + c / 2, b + d / 2),
    "[top, left, height, width]": lambda a, b, c, d, w, h: (b, a, b + d, a + c),
    "[left, top, height, width]": lambda a, b, c, d, w, h: (a, b, a + d, b + c),
    "[left, bottom, width, height]": lambda a, b, c, d, w, h: (a, b - d, a + c, b),
    "[left, bottom, width, height] counted from the picture's lower edge": lambda a, b, c, d, w, h: (
        a, h - b - d, a + c, h - b,
    ),
    "left, top, width and height as parts of the picture's, 0 to 1": lambda a, b, c, d, w, h: (
        a * w, b * h, (a + c) * w, (b + d) * h,
    ),
    "corners as parts of the picture's size, 0 to 1": lambda a, b, c, d, w, h: (a * w, b * h, c * w, d * h),
    "centre, width and height as parts of the picture's, 0 to 1 (as YOLO has them)": lambda a, b, c, d, w, h: (
        (a - c / 2) * w, (b - d / 2) * h, (a + c / 2) * w, (b + d / 2) * h,
    ),
}  # fmt: skip
_PLAIN = list(FORMS)[:5]  # those that boxes alone can show


class Form(NamedTuple):
    """A form in words that go on "box and mask agree", and which boxes [N] it explains."""

    words: str
    fits: NDArray[np.bool_]


def differ(boxes: Values, outlines: Values, part: float = _PART) -> NDArray[np.bool_]:
    """Returns which of the boxes [N, 4] are off their masks' outlines [N, 4], by more than sloppiness."""
    longest = (outlines[:, 2:] - outlines[:, :2]).max(axis=1, initial=0)
    return (np.abs(boxes - outlines) > (_SLACK + part * longest)[:, None]).any(axis=1)


def form_by_outlines(boxes: Values, outlines: Values, sizes: Values, off: NDArray[np.bool_]) -> Form | None:
    """Returns the form that explains most of the boxes that are ``off`` their outlines, None if there is none of that kind.

    boxes, outlines: [N, 4], left, top, right and bottom as COCO's form gives them; sizes: width and height of the pictures.
    """
    if not off.any():
        return None
    boxes, outlines, sizes = boxes[off], outlines[off], sizes[off]
    share = max(SHARE * len(off), len(boxes) / 2)
    # A scale is fitted to the boxes themselves, so that a few prove nothing.
    for readings, needed in (
        (_readings(boxes, outlines, sizes), share),
        (_resized(boxes, outlines, sizes), max(len(off) / 2, 0.8 * len(boxes), SEVERAL + 1)),
    ):
        explained = {words: ~differ(mine, theirs, _CLOSE) for words, mine, theirs in readings}
        words = max(explained, key=lambda one: int(explained[one].sum()))
        if explained[words].sum() >= needed:
            fits = np.zeros(len(off), np.bool_)
            fits[np.flatnonzero(off)[explained[words]]] = True
            return Form(words, fits)
    return None


def form_of_boxes(boxes: Values, sizes: Values) -> Form | None:
    """Returns the form that boxes without masks have, if they are COCO's boxes by no means.

    As COCO's form reads them a good share leaves its picture, or lies within its first pixel; as the other, none does.
    """
    first = in_first_pixel(boxes, sizes)
    if first.any() and first.sum() >= SHARE * len(boxes):
        return Form("if read as parts of the picture's size, 0 to 1", first)
    ends = boxes[:, 2:]
    leaves = (ends > sizes + np.maximum(2, 0.02 * sizes)).any(axis=1)
    if leaves.sum() < max(SEVERAL, SHARE * len(boxes)):
        return None
    numbers = _numbers(boxes)
    edge = 1 + 0.01 * sizes
    for name in _PLAIN:
        left, top, right, bottom = FORMS[name](*numbers.T, *sizes.T)
        starts, stops = np.stack([left, top], 1), np.stack([right, bottom], 1)
        inside = np.all((stops > starts) & (starts >= -edge) & (stops <= sizes + edge), axis=1)
        if inside.all():
            return Form(f"if read as {name}", inside)
    return None


def in_first_pixel(boxes: Values, sizes: Values) -> NDArray[np.bool_]:
    """Returns which boxes have four numbers from 0 to 1 and are smaller than a pixel, on pictures that are not."""
    numbers = _numbers(boxes)
    within = np.all((numbers >= 0) & (numbers <= 1 + 1e-6), axis=1)
    tiny: NDArray[np.bool_] = within & np.any(numbers[:, 2:] < 1 - 1e-6, axis=1) & np.all(sizes > 2, axis=1)
    return tiny


def _numbers(boxes: Values) -> Values:
    """Returns the four numbers that stood in the file."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _readings(boxes: Values, outlines: Values, sizes: Values) -> Iterator[tuple[str, Values, Values]]:
    """Gives each form in words, with boxes and outlines in pixels as it reads them."""
    for name, read in FORMS.items():
        yield f"if read as {name}", np.stack(read(*_numbers(boxes).T, *sizes.T), axis=1), outlines
    yield "if the masks are parts of the picture's size, 0 to 1", boxes, outlines * np.tile(sizes, 2)


def _resized(boxes: Values, outlines: Values, sizes: Values) -> Iterator[tuple[str, Values, Values]]:
    """Gives the like for boxes of pictures that were resized, by the scale that most boxes have."""
    sides = (outlines[:, 2:] - outlines[:, :2]).clip(min=1e-9) / (boxes[:, 2:] - boxes[:, :2])
    long = np.repeat(sizes.max(axis=1, keepdims=True), 2, axis=1)
    for words, unit in (
        ("if the boxes are {} times as large as the masks", np.ones_like(sizes)),
        ("if the boxes are those of pictures resized to {} pixels", sizes),
        ("if the boxes are those of pictures whose long side was resized to {} pixels", long),
    ):
        scale = np.median(sides / unit, axis=0)
        values = " x ".join(f"{value:.4g}" for value in 1 / scale)
        yield words.format(values), boxes * np.tile(scale * unit, 2), outlines
