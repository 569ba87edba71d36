"""What a COCO file says twice, compared: boxes, areas and masks, objects and pictures that are listed again, crowds.

All checks go over the columns of a whole split at once: COCO's 860,000 objects take seconds.
"""

from __future__ import annotations

import os
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from convmae.detection.checks.box_forms import (
    SEVERAL,
    SHARE,
    Form,
    differ,
    form_by_outlines,
    form_of_boxes,
    in_first_pixel,
)
from convmae.detection.checks.box_placement import MANY, check_placement
from convmae.detection.checks.outlines import Outlines, outlines
from convmae.detection.data.coco import CocoData
from convmae.detection.data.coco_records import ImageRecord, mask_area
from convmae.engine.faults import Effect, Fault, Report

_EXPECTED = "expected [left, top, width, height] in pixels of the picture, and masks in pixels, too"
_SIDES = 4  # pixels; smaller objects may well fill their boxes
Chosen = NDArray[np.bool_]
Values = NDArray[np.float64]


class _Objects:
    """The objects of a whole split, one row each, with what their masks span."""

    def __init__(self, data: CocoData) -> None:
        self.data, self.columns = data, data.packed.columns
        self.single: Chosen = ~self.columns["crowd"]
        self.boxes: Values = self.columns["box"]
        self.owners = data.packed.owners()
        self.sizes = data.sizes()[self.owners]

    @cached_property
    def outlines(self) -> Outlines:
        return outlines(self.columns, self.sizes)

    @cached_property
    def masked(self) -> Chosen:
        """Those, crowds aside, whose mask has an outline."""
        return self.single & ~np.isnan(self.outlines.box[:, 0])

    def image(self, row: int) -> ImageRecord:
        return self.data.images[self.owners[row]]

    def fault(self, kind: str, row: int, said: str) -> Fault:
        where = f"{self.data.annotations}: annotation {self.columns['id'][row]}"
        return Fault(kind, f"{where}: {said}", Effect.DOUBTFUL, self.image(row))


def check_contradictions(data: CocoData, report: Report, masks: bool = True) -> None:
    """Reports where a file disagrees with itself: mistakes that most of it shares stop, others may be meant.

    ``data`` is a whole split as it was read; ``masks``: whether they are learnt.
    """
    objects = _Objects(data)
    if not _check_boxes(objects, report):  # else what follows would tell the same again, object by object
        _check_empty_masks(objects, report)
        _check_areas(objects, report)
        check_placement(data, report)
    if masks:
        _check_rectangles(objects, report)
    _check_objects_twice(objects, report)
    _check_pictures_twice(data, report)
    _check_crowds(objects, report)


def empty_masks(data: CocoData) -> list[int]:
    """Returns the rows of a whole split's objects, crowds aside, whose mask holds no pixel."""
    return _empty_masks(_Objects(data))


def _check_boxes(objects: _Objects, report: Report) -> bool:
    """Reports boxes that are no COCO boxes, by their masks or by themselves, and single ones that are off their masks.

    Returns whether the file's boxes are of another form.
    """
    boxes, spanned, sizes = objects.boxes, objects.outlines.box, objects.sizes.astype(np.float64)
    masked = np.flatnonzero(objects.masked)
    # Masks that go beyond their picture often have a box that doesn't.
    shown, drawn = (np.clip(corners[masked], 0, np.tile(sizes[masked], 2)) for corners in (boxes, spanned))
    off = differ(boxes[masked], spanned[masked]) & differ(shown, drawn)
    form = form_by_outlines(boxes[masked], spanned[masked], sizes[masked], off)
    if form is not None:
        report(_wrong_form(objects, form.words, masked[form.fits], len(masked)))
        off &= ~form.fits
    bare = np.flatnonzero(objects.single & ~objects.masked)
    single = np.flatnonzero(objects.single)
    tiny = single[in_first_pixel(boxes[single], sizes[single])]
    if form is None and len(tiny) and len(tiny) >= SHARE * len(single):
        form = Form("if read as parts of the picture's size, 0 to 1", np.ones(len(tiny), np.bool_))
        report(_wrong_form(objects, form.words, tiny, len(single)))
    elif bare.size and (of_bare := form_of_boxes(boxes[bare], sizes[bare])) is not None:
        form = of_bare
        report(_wrong_form(objects, form.words, bare[form.fits], len(bare)))
    _check_single_boxes(objects, masked[off], len(masked), report)
    return form is not None


def _wrong_form(objects: _Objects, words: str, rows: NDArray[np.int64], count: int) -> Fault:
    """Returns the fault of boxes in these rows, ``count`` being all of their kind; it shows the first, or one that tells."""
    beyond = (objects.boxes[rows, 2:] - objects.sizes[rows]).max(axis=1)
    row = int(rows[0])
    told = f"its mask spans {_sides(objects.outlines.box[row])}"
    if np.isnan(objects.outlines.box[row, 0]):
        row = int(rows[beyond.argmax()])
        told = "which leaves the picture" if beyond.max() > 0 else "which is less than a pixel"
    image = objects.image(row)
    message = (
        f"{objects.data.annotations}: {len(rows)} of {count} boxes are right only {words}; {_EXPECTED}. One is of annotation "
        f"{objects.columns['id'][row]}: its bbox is {_sides(objects.boxes[row])}, {told}; {image.file_name} is {image.width} x "
        f"{image.height}."
    )
    return Fault("files with boxes of another form", message, image=image)


def _check_single_boxes(objects: _Objects, rows: NDArray[np.int64], count: int, report: Report) -> None:
    boxes, spanned = objects.boxes[rows], objects.outlines.box[rows]
    apart = np.any((boxes[:, :2] >= spanned[:, 2:]) | (boxes[:, 2:] <= spanned[:, :2]), axis=1)
    common = (np.minimum(boxes[:, 2:], spanned[:, 2:]) - np.maximum(boxes[:, :2], spanned[:, :2])).clip(0)
    mostly = 2 * common.prod(axis=1) < (spanned[:, 2:] - spanned[:, :2]).prod(axis=1)
    if mostly.sum() >= max(SEVERAL, count / 2):
        first = int(rows[mostly][0])
        runs = np.diff(objects.columns["run_ends"], prepend=0)[first] > 0
        order = " The runs of an RLE go down the columns, the first of them outside the object." if runs else ""
        message = (
            f"{objects.data.annotations}: {mostly.sum()} of {count} masks lie mostly outside their boxes; {_EXPECTED}, of the "
            f"same object.{order} The first is annotation {objects.columns['id'][first]}: its bbox is "
            f"{_sides(objects.boxes[first])}, its mask spans {_sides(objects.outlines.box[first])}."
        )
        report(Fault("files with masks outside their boxes", message, image=objects.image(first)))
        rows, apart = rows[~mostly], apart[~mostly]
    for row, outside in zip(rows.tolist(), apart.tolist(), strict=True):
        kind = "masks outside their boxes" if outside else "boxes that disagree with their masks"
        said = f"its bbox is {_sides(objects.boxes[row])}, its mask spans {_sides(objects.outlines.box[row])}."
        report(objects.fault(kind, row, said))


def _check_empty_masks(objects: _Objects, report: Report) -> None:
    """Reports masks that hold no pixel."""
    for row in _empty_masks(objects):
        said = (
            f"no pixel of {objects.image(row).file_name} lies in its mask; with masks it is neither learnt nor found."
        )
        report(objects.fault("masks without a pixel", row, said))


def _empty_masks(objects: _Objects) -> list[int]:
    """Returns the rows, crowds aside, whose mask holds no pixel. Only thin or far ones are drawn to know."""
    found, sizes = objects.outlines, objects.sizes
    thin = found.most <= (found.box[:, 2:] - found.box[:, :2]).max(axis=1, initial=0)
    beyond = (found.box[:, :2] >= sizes).any(axis=1) | (found.box[:, 2:] <= 0).any(axis=1)
    runs = np.diff(objects.columns["run_ends"], prepend=0) > 0
    doubtful = np.flatnonzero(objects.single & np.where(runs, found.most == 0, objects.masked & (thin | beyond)))
    empty = []
    for row in doubtful.tolist():
        image = objects.image(row)
        outline = objects.data.packed.segmentation(row, image)
        if outline is not None and mask_area(outline, image.height, image.width) == 0:
            empty.append(row)
    return empty


def _check_areas(objects: _Objects, report: Report) -> None:
    """Reports areas that are far from what mask, or else box, covers. The box's own area is usual and passes."""
    areas, boxes, found = objects.columns["area"], objects.boxes, objects.outlines
    masked = objects.masked
    spanned = np.where(masked[:, None], found.box, boxes)
    width, height = np.maximum(spanned[:, 2:] - spanned[:, :2], boxes[:, 2:] - boxes[:, :2]).T
    inside = ((spanned >= -1) & (spanned <= np.tile(objects.sizes, 2) + 1)).all(axis=1)
    # A pixel around for how masks are drawn; holes and parts that overlap make less of the sum of parts.
    too_large = areas > 1.2 * (width + 2) * (height + 2)
    too_small = masked & (areas < found.least / 2 - width - height)
    wrong = np.flatnonzero(objects.single & inside & (too_large | too_small))
    covered = np.where(masked, found.most, width * height)
    what = "COCO's numbers of small, medium and large objects go by it; without 'area' it is taken from the mask or box"
    if len(wrong) >= max(SEVERAL, SHARE * objects.single.sum()):
        ratio = float(np.median(areas[wrong] / covered[wrong].clip(min=1)))
        said = _area_said(objects, int(wrong[0]), covered)
        message = (
            f"{objects.data.annotations}: {len(wrong)} of {objects.single.sum()} objects have an area that disagrees with what "
            f"they cover, by a factor of {ratio:.3g} in the middle; {what}. The first is annotation "
            f"{objects.columns['id'][wrong[0]]}: {said}."
        )
        report(Fault("files with areas of another kind", message, Effect.DOUBTFUL, objects.image(int(wrong[0]))))
        return
    for row in wrong.tolist():
        said = f"{_area_said(objects, row, covered)}; {what}."
        report(objects.fault("areas that disagree with their masks", row, said))


def _check_rectangles(objects: _Objects, report: Report) -> None:
    """Reports masks that are all the rectangles of their boxes, as converters write them that know of boxes alone."""
    found = objects.outlines
    sides = (found.box - objects.boxes)[objects.masked]
    width, height = (found.box[:, 2:] - found.box[:, :2])[objects.masked].T
    large = np.minimum(width, height) >= _SIDES
    full = (found.least[objects.masked] >= 0.99 * width * height) & (np.abs(sides) <= 1).all(axis=1)
    if large.sum() >= MANY and full[large].all():
        message = (
            f"{objects.data.annotations}: all {len(full)} masks are the rectangles of their boxes: a mask AP tells of boxes, "
            "not of outlines; for boxes alone, train without masks: model.masks=false."
        )
        report(Fault("files with rectangles for masks", message, Effect.DOUBTFUL))


def _area_said(objects: _Objects, row: int, covered: Values) -> str:
    return f"its area is {objects.columns['area'][row]:.6g}, it covers about {covered[row]:.6g} pixels"


def _check_objects_twice(objects: _Objects, report: Report) -> None:
    columns, packed = objects.columns, objects.data.packed
    keys = np.concatenate(
        [columns["box"], np.stack([columns["crowd"], objects.owners], axis=1)], axis=1, dtype=np.float64
    )
    # A hash of a row's bits sorts several times as fast as the row.
    odd = np.random.default_rng(0).integers(2**63, size=keys.shape[1], dtype=np.uint64) * 2 + 1
    order = np.lexsort((columns["label"], ((keys + 0.0).view(np.uint64) * odd).sum(axis=1)))
    same = (keys[order[1:]] == keys[order[:-1]]).all(axis=1)
    two_classes = []
    for place in np.flatnonzero(same).tolist():
        one, other = int(order[place]), int(order[place + 1])
        if packed.segmentation(one, objects.image(one)) != packed.segmentation(other, objects.image(one)):
            continue
        if columns["label"][one] != columns["label"][other]:
            two_classes.append((one, other))
            continue
        said = f"it is annotation {columns['id'][one]} again: the same picture, class, box and mask."
        report(objects.fault("objects that are listed twice", other, said))
    # Some objects are of two classes, as a woman and a person.
    if len(two_classes) >= max(SEVERAL, SHARE * len(objects.single)):
        one, other = two_classes[0]
        message = (
            f"{objects.data.annotations}: {len(two_classes)} of {len(objects.single)} objects are listed again under another "
            f"class; the first is annotation {columns['id'][one]}, again {columns['id'][other]}. Each is learnt as both."
        )
        report(Fault("files with objects under two classes", message, Effect.DOUBTFUL, objects.image(one)))


def _check_pictures_twice(data: CocoData, report: Report) -> None:
    first: dict[str, ImageRecord] = {}
    for image in data.images:
        known = first.setdefault(os.path.normpath(image.file_name), image)
        if known is not image:
            message = (
                f"{data.annotations}: images {known.id} and {image.id} are the same file, {image.file_name}; what is labelled "
                "in one entry alone is background in the other."
            )
            report(Fault("pictures that are listed twice", message, Effect.DOUBTFUL, image))


def _check_crowds(objects: _Objects, report: Report) -> None:
    crowds, count = int((~objects.single).sum()), len(objects.single)
    if crowds > 1 and SHARE * count < crowds < count:
        owners = objects.owners
        alone = len(np.setdiff1d(owners[~objects.single], owners[objects.single]))
        message = (
            f"{objects.data.annotations}: {crowds} of {count} objects ({100 * crowds / count:.0f} %) have iscrowd=1, which "
            "marks a region of many objects: they are left out of training and not counted in testing. "
            f"{alone} pictures hold no others. Set iscrowd to 0 for what is one object."
        )
        report(Fault("files with many crowds", message, Effect.DOUBTFUL))


def _sides(corners: Values) -> str:
    left, top, right, bottom = corners.tolist()
    return "[" + ", ".join(f"{value:.6g}" for value in (left, top, right - left, bottom - top)) + "]"
