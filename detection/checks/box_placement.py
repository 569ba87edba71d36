"""Where the boxes of a split lie on their pictures: what no set of photographs shows, but boxes of another size do."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convmae.detection.checks.box_forms import SEVERAL
from convmae.detection.data.annotation_entries import OUTSIDE
from convmae.detection.data.coco import CocoData
from convmae.engine.faults import Effect, Fault, Report

MANY = 30  # objects at least, where nothing but what they have in common tells
_LEAVING = 0.25  # of the boxes; those of hidden parts leave fewer
_CORNER = 0.6  # of width and of height: objects of photographs go beyond
_EXPECTED = "expected [left, top, width, height] in pixels of the pictures as they are now"
Values = NDArray[np.float64]


def check_placement(data: CocoData, report: Report) -> None:
    """Reports boxes that leave their pictures, keep to a corner or are all the same.

    ``data`` is a whole split as it was read.
    """
    single = ~data.packed.columns["crowd"]
    owners, boxes = data.packed.owners()[single], data.packed.columns["box"][single]
    sizes = data.sizes()[owners].astype(np.float64)
    outside = data.dropped.get(OUTSIDE, 0)
    if outside >= max(SEVERAL, _LEAVING * (outside + len(boxes))):
        message = (
            f"{data.annotations}: {outside} of {outside + len(boxes)} boxes lie wholly outside their pictures; {_EXPECTED}. "
            "Were the pictures resized or cut since?"
        )
        report(Fault("files with boxes outside their pictures", message))
        return
    _check_leaving(data, boxes, sizes, outside, report)
    if len(boxes) >= MANY and len(np.unique(owners)) >= SEVERAL:
        _check_corner(data, boxes, sizes, report)
        _check_same(data, boxes, sizes, owners, report)


def _check_leaving(data: CocoData, boxes: Values, sizes: Values, outside: int, report: Report) -> None:
    slack = np.maximum(2, 0.02 * sizes)
    leaves = outside + int(((boxes[:, :2] < -slack) | (boxes[:, 2:] > sizes + slack)).any(axis=1).sum())
    if leaves >= max(SEVERAL, _LEAVING * (outside + len(boxes))):
        message = (
            f"{data.annotations}: {leaves} of {outside + len(boxes)} boxes go beyond the edges of their pictures; "
            f"{_EXPECTED}. What lies beyond is cut off in training and counts in testing."
        )
        report(Fault("files with boxes that leave their pictures", message, Effect.DOUBTFUL))


def _check_corner(data: CocoData, boxes: Values, sizes: Values, report: Report) -> None:
    right, bottom = (boxes[:, 2:] / sizes).max(axis=0).tolist()
    if max(right, bottom) > _CORNER:
        return
    percent = " They would fit percent of the pictures' sizes, too." if boxes[:, 2:].max() <= 100 + 1e-6 else ""
    message = (
        f"{data.annotations}: all {len(boxes)} boxes keep to the upper left corner, up to {100 * right:.0f} % of their "
        f"pictures' width and {100 * bottom:.0f} % of the height; {_EXPECTED}.{percent}"
    )
    report(Fault("files with boxes in one corner", message, Effect.DOUBTFUL))


def _check_same(data: CocoData, boxes: Values, sizes: Values, owners: NDArray[np.int64], report: Report) -> None:
    parts = np.round(boxes / np.tile(sizes, 2), 3)
    for kinds in (boxes, parts):
        same = (kinds == np.median(kinds, axis=0)).all(axis=1)  # what more than half are is the median
        if same.sum() > len(boxes) / 2 and len(np.unique(owners[same])) >= SEVERAL:
            left, top, right, bottom = boxes[same][0].tolist()
            message = (
                f"{data.annotations}: {same.sum()} of {len(boxes)} boxes are the same on their pictures, such as "
                f"[{left:.6g}, {top:.6g}, {right - left:.6g}, {bottom - top:.6g}]; are they where the objects are?"
            )
            report(Fault("files with the same box throughout", message, Effect.DOUBTFUL))
            return
