"""What goes wrong with detections: the kinds of error after TIDE (arXiv 2008.08115), and the confusion between classes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_api

from convmae.detection.data.coco import CocoData
from convmae.detection.data.coco_records import ImageRecord, ObjectRecord, to_rle

MATCH, NEAR = 0.5, 0.1  # IoU from which a detection finds an object, and from which it has to do with it at all
RIGHT, IN_CROWD = "right", "in a crowd"  # what is no error
ERRORS = {
    "missed": "an object that no detection finds, nor would if mended as below",
    "background": "a detection that meets no object (IoU up to 0.1)",
    "localisation": "the right class, but an IoU of 0.1 to 0.5 with the object",
    "class": "on an object (IoU from 0.5), but of another class",
    "both": "of another class, and an IoU of 0.1 to 0.5 with the object",
    "duplicate": "on an object that a surer detection has found",
}
MENDABLE = ("localisation", "class")  # mended, such a detection finds its object; the others are taken away


@dataclass(frozen=True)
class Overlaps:
    """The detections of a picture, surest first, against its objects, crowds apart.

    scores, labels: [n]; iou: [n, m]; truth: [m] labels; in_crowd: [n], whether a crowd of its class covers half a detection.
    """

    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    iou: NDArray[np.float64]
    truth: NDArray[np.int64]
    in_crowd: NDArray[np.bool_]

    def above(self, confidence: float) -> Overlaps:
        """Returns the same with the detections of at least that confidence alone."""
        kept = self.scores >= confidence
        return Overlaps(self.scores[kept], self.labels[kept], self.iou[kept], self.truth, self.in_crowd[kept])

    def match(self) -> NDArray[np.intp]:
        """Returns the object that each detection finds, or -1, as COCO's evaluation matches them at IoU 0.5."""
        return _greedy(np.where(self.labels[:, None] == self.truth, self.iou, 0))


@dataclass(frozen=True)
class Verdicts:
    """What each of N detections of a set is, and which of M objects is meant: the one it finds, or would find if mended.

    scores, labels, kinds (an error, RIGHT or IN_CROWD), objects (-1 for none): [N]; truth (labels), found: [M].
    """

    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    kinds: NDArray[np.str_]
    objects: NDArray[np.int64]
    truth: NDArray[np.int64]
    found: NDArray[np.bool_]

    def counts(self) -> dict[str, int]:
        """Returns how often each error occurs."""
        return {error: int((self.kinds == error).sum()) for error in ERRORS} | {"missed": int(self._missed().sum())}

    def ap(self, mended: Collection[str] = ()) -> float:
        """Returns AP at IoU 0.5 over all sizes, were some errors mended; -1 if there is no object.

        Of several detections that would find the same object, the surest does; the others are taken away. Missed objects are
        not counted then, so that recall ends at 1.
        """
        labels, right, kept = self.labels.copy(), self.kinds == RIGHT, self.kinds != IN_CROWD
        kept &= ~np.isin(self.kinds, list(mended))
        finders = self._finders(np.isin(self.kinds, [kind for kind in MENDABLE if kind in mended]))
        labels[finders], right[finders], kept[finders] = self.truth[self.objects[finders]], True, True
        truth = self.truth[~self._missed()] if "missed" in mended else self.truth
        return _average_precision(self.scores[kept], labels[kept], right[kept], truth)

    def _missed(self) -> NDArray[np.bool_]:
        missed = ~self.found
        missed[self.objects[np.isin(self.kinds, MENDABLE)]] = False
        return missed

    def _finders(self, candidates: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Returns the surest of the candidates for each object that is not found yet."""
        chosen = np.flatnonzero(candidates)
        chosen = chosen[~self.found[self.objects[chosen]]]
        chosen = chosen[np.argsort(-self.scores[chosen], kind="stable")]
        return chosen[np.unique(self.objects[chosen], return_index=True)[1]]


def overlaps(data: CocoData, predictions: Sequence[dict[str, Any]], kind: str) -> dict[int, Overlaps]:
    """Returns the overlaps of boxes (``bbox``) or masks (``segm``) by picture id, in whose order COCO ranks equal scores."""
    by_id = {found["image_id"]: found for found in predictions}
    return {
        record.id: _overlaps(data.objects.get(record.id, []), by_id[record.id], record, kind)
        for record in sorted(data.images, key=lambda record: record.id)
    }


def sure(pictures: Mapping[int, Overlaps], confidence: float) -> dict[int, Overlaps]:
    """Returns the same of the detections of at least that confidence alone."""
    return {number: picture.above(confidence) for number, picture in pictures.items()}


def judge(pictures: Mapping[int, Overlaps]) -> Verdicts:
    """Returns what each detection of a set is."""
    kinds, objects, found, before = [], [], [], 0
    for picture in pictures.values():
        kind, meant = _judge(picture)
        kinds.append(kind)
        objects.append(np.where(meant < 0, -1, meant + before))
        found.append(np.isin(np.arange(len(picture.truth)), meant[kind == RIGHT]))
        before += len(picture.truth)
    return Verdicts(
        np.concatenate([picture.scores for picture in pictures.values()]),
        np.concatenate([picture.labels for picture in pictures.values()]),
        np.concatenate(kinds),
        np.concatenate(objects),
        np.concatenate([picture.truth for picture in pictures.values()]),
        np.concatenate(found),
    )


def confusion(pictures: Mapping[int, Overlaps], classes: int) -> NDArray[np.int64]:
    """Returns counts [classes + 1, classes + 1] of objects (rows) taken for classes (columns); the last are background.

    What finds its object stands on the diagonal; then objects and detections left over are matched whatever their class, surest
    first. A detection within a crowd of its class is not counted.
    """
    counts = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    for picture in pictures.values():
        match = picture.match()
        left = (match < 0) & ~picture.in_crowd
        free = ~np.isin(np.arange(len(picture.truth)), match)
        match = np.maximum(match, _greedy(np.where(left[:, None] & free, picture.iou, 0)))
        counted = (match >= 0) | left
        np.add.at(counts, (np.append(picture.truth, classes)[match[counted]], picture.labels[counted]), 1)
        missed = ~np.isin(np.arange(len(picture.truth)), match)
        np.add.at(counts[:, classes], picture.truth[missed], 1)
    return counts


def _overlaps(objects: Sequence[ObjectRecord], found: dict[str, Any], record: ImageRecord, kind: str) -> Overlaps:
    scores = np.asarray(found["scores"], dtype=np.float64)
    order = np.argsort(-scores, kind="stable")
    labels = np.asarray(found["labels"], dtype=np.int64)[order]
    single = [one for one in objects if not one.crowd]
    crowds = [one for one in objects if one.crowd and (kind == "bbox" or one.segmentation is not None)]
    shapes: Any  # boxes [n, 4] as left, top, width, height, or a list of RLE
    if kind == "bbox":
        shapes = _widths(np.asarray(found["boxes"], dtype=np.float64).reshape(-1, 4)[order])
    else:
        shapes = [found["masks"][index] for index in order]
    covered = _iou(shapes, crowds, record, kind) >= MATCH
    return Overlaps(
        scores[order],
        labels,
        _iou(shapes, single, record, kind),
        np.array([one.label for one in single], dtype=np.int64),
        (covered & (labels[:, None] == np.array([one.label for one in crowds], dtype=np.int64))).any(axis=1),
    )


def _iou(shapes: Any, objects: Sequence[ObjectRecord], record: ImageRecord, kind: str) -> NDArray[np.float64]:
    """Returns [n, m]; for crowds, the part of the detection that lies in them."""
    if not len(shapes) or not objects:
        return np.zeros((len(shapes), len(objects)))
    truth: Any
    if kind == "bbox":
        truth = _widths(np.array([one.box for one in objects]))
    else:
        truth = [to_rle(one.segmentation, record.height, record.width) for one in objects if one.segmentation]
    return np.asarray(mask_api.iou(shapes, truth, [one.crowd for one in objects]))


def _widths(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])


def _greedy(iou: NDArray[np.float64]) -> NDArray[np.intp]:
    """Returns for each row the column that it overlaps most of those that no row before took, or -1; iou: [n, m]."""
    iou, taken = iou.copy(), np.full(len(iou), -1)
    for row in np.flatnonzero((iou >= MATCH).any(axis=1)):
        best = iou.shape[1] - 1 - iou[row, ::-1].argmax()  # the last of equals, as COCO has it
        if iou[row, best] >= MATCH:
            taken[row], iou[:, best] = best, 0
    return taken


def _judge(picture: Overlaps) -> tuple[NDArray[np.str_], NDArray[np.intp]]:
    """Returns the kind of each detection and the object that is meant, or -1; the order of the questions is TIDE's."""
    match = picture.match()
    if not len(picture.truth):
        return np.where(picture.in_crowd, IN_CROWD, "background"), match
    same = picture.labels[:, None] == picture.truth
    own, other = np.where(same, picture.iou, 0), np.where(same, 0, picture.iou)
    nearest, nearest_other = own.max(axis=1), other.max(axis=1)
    kinds = np.select(
        [
            match >= 0,
            picture.in_crowd,
            (nearest >= NEAR) & (nearest < MATCH),
            nearest_other >= MATCH,
            nearest >= MATCH,
            nearest_other > NEAR,
        ],
        [RIGHT, IN_CROWD, "localisation", "class", "duplicate", "both"],
        "background",
    )
    meant = np.select([kinds == "localisation", kinds == "class"], [own.argmax(axis=1), other.argmax(axis=1)], match)
    return kinds, meant


def _average_precision(
    scores: NDArray[np.float64], labels: NDArray[np.int64], right: NDArray[np.bool_], truth: NDArray[np.int64]
) -> float:
    """Returns COCO's AP at one IoU: precision at 101 levels of recall, mean over the classes that have objects, else -1."""
    order = np.lexsort((-scores, labels))
    labels, right = labels[order], right[order]
    values = []
    for label, total in zip(*np.unique(truth, return_counts=True), strict=True):
        hits = np.cumsum(right[np.searchsorted(labels, label) : np.searchsorted(labels, label, side="right")])
        precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
        level = np.searchsorted(hits / total, np.linspace(0, 1, 101))
        values.append(np.append(precision, 0)[level].mean())
    return float(np.mean(values)) if values else -1.0
