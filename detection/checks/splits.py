"""What a split holds against what training and evaluation can do with it: the same for a run and for `check_data`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convmae.detection.checks.class_names import check_names
from convmae.detection.checks.contradictions import check_contradictions
from convmae.detection.config import DetectionDataOptions
from convmae.detection.data.coco import CocoData, check_objects
from convmae.detection.evaluation.coco_scores import COUNTED, crowded
from convmae.engine.faults import Effect, Fault, Report

MASKS = 2**33  # bytes that the masks of one sample take at most


def check_split(data: CocoData, report: Report, masks: bool = True) -> None:
    """Reports a split of no use, and where a whole split disagrees with itself; ``masks``: whether they are learnt."""
    check_objects(data, report)
    check_names(data, report)
    check_contradictions(data, report, masks)


def check_samples(data: CocoData, options: DetectionDataOptions, report: Report, masks: bool = True) -> None:
    """Reports how many objects of a training split are lost on the way into a sample; one that loses all stops training.

    With ``masks`` so does a picture of more objects than a sample can hold masks of.
    """
    if masks:
        _check_masks(data, options.img_size, report)
    smallest, largest = options.jitter
    if (lost := _lost(data, options.img_size, largest)).size and lost.all():
        kind, effect, factor = "splits without an object of a pixel", Effect.STOPS, largest
    else:
        kind, effect, factor = "splits with objects under a pixel", Effect.DOUBTFUL, min(max(1.0, smallest), largest)
    jitter = f" and a factor of {factor:g} (data.jitter)" if factor != 1 else ""
    _report_lost(
        data, options.img_size, factor, f"{jitter}: left out of samples, or a pixel at most", kind, effect, report
    )


def _check_masks(data: CocoData, img_size: int, report: Report) -> None:
    counts = np.bincount(data.packed.owners()[~data.packed.columns["crowd"]], minlength=1)
    for number in np.flatnonzero(counts > MASKS // img_size**2).tolist():
        image = data.images[number]
        message = (
            f"{data.annotations}: image {image.id} ({image.file_name}) has {counts[number]} objects, whose masks take "
            f"{counts[number] * img_size**2 / 2**30:.0f} GiB in a sample of data.img_size={img_size}; expected "
            f"{MASKS // img_size**2} at most. Cut the picture into tiles, or train without masks: model.masks=false."
        )
        report(Fault("pictures with more masks than a sample holds", message, image=image))


def check_evaluation(data: CocoData, img_size: int, detections: int, report: Report) -> None:
    """Reports what can't be found in a validation split or is not counted, however good a detector is.

    detections: how many the detector keeps of a picture.
    """
    kind = "splits with objects under a pixel"
    _report_lost(data, img_size, 1.0, ": counted, but hardly to be found", kind, Effect.DOUBTFUL, report)
    for number, label, count in crowded(data):
        image = data.images[number]
        message = (
            f"{data.annotations}: image {image.id} ({image.file_name}) has {count} objects of {data.categories[label].name!r}; "
            f"COCO's numbers count the {COUNTED} surest detections of a class on a picture, so the best AP is below 1.0. "
            f"model.detections={count} keeps as many, and a run's page then tells the AP of as many beside COCO's."
        )
        report(Fault("pictures with more objects of a class than COCO counts", message, Effect.DOUBTFUL, image))
    counts = np.array([data.packed.learnable(image) for image in data.images])
    if over := int((counts > detections).sum()):
        image = data.images[int(counts.argmax())]
        message = (
            f"{data.annotations}: {over} of {len(counts)} pictures have more than the {detections} objects that "
            f"model.detections keeps, image {image.id} ({image.file_name}) the most; model.detections={counts.max()} keeps all."
        )
        report(Fault("splits with more objects than detections", message, Effect.DOUBTFUL))


def _report_lost(
    data: CocoData, img_size: int, factor: float, told: str, kind: str, effect: Effect, report: Report
) -> None:
    lost = np.flatnonzero(_lost(data, img_size, factor))
    if not len(lost):
        return
    columns = data.packed.columns
    row = int(np.flatnonzero(~columns["crowd"])[lost[0]])
    image = data.images[data.packed.owners()[row]]
    left, top, right, bottom = columns["box"][row].tolist()
    message = (
        f"{data.annotations}: {len(lost)} of {(~columns['crowd']).sum()} objects are less than a pixel wide or high at "
        f"data.img_size={img_size}{told}; a larger one keeps them. The first is annotation {columns['id'][row]}, "
        f"{right - left:.4g} x {bottom - top:.4g} pixels of the {image.width} x {image.height} of {image.file_name}."
    )
    report(Fault(kind, message, effect, image))


def _lost(data: CocoData, img_size: int, factor: float) -> NDArray[np.bool_]:
    """Returns which objects, crowds aside, are under a pixel wide or high once pictures fit into the square times a factor."""
    single = ~data.packed.columns["crowd"]
    sizes = data.sizes().astype(np.float64)
    resized = np.maximum(1, np.round(sizes * img_size * factor / sizes.max(axis=1, keepdims=True)))
    owners = data.packed.owners()[single]
    corners = data.packed.columns["box"][single].reshape(-1, 2, 2)
    inside = corners.clip(0, sizes[owners, None])
    sides = (inside[:, 1] - inside[:, 0]) * (resized / sizes)[owners]
    lost: NDArray[np.bool_] = (sides < 1 - 1e-9).any(axis=1)
    return lost
