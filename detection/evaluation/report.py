"""The report page of a detection run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convmae.detection.config import DetectionConfig
from convmae.detection.data.coco import CocoData
from convmae.detection.evaluation.coco_metric import (
    COUNTED,
    SIZES,
    STANDARD,
    CocoMetric,
    Details,
    coco_results,
    write_results,
)
from convmae.detection.evaluation.error_kinds import CONFIDENT, ERRORS, Overlaps, confusion, judge, overlaps, sure
from convmae.detection.evaluation.rated_pictures import Rated, draw, rate
from convmae.detection.evaluation.resampled_ap import resampled_ap
from convmae.engine.log import duration
from convmae.engine.machine.memory import describe_peak
from convmae.engine.machine.precision import resolve_device
from convmae.engine.options import describe_views
from convmae.engine.text import distinct
from convmae.engine.training.scalars import read_scalars
from convmae.reports.intervals import MEANING, Interval, ends, intervals
from convmae.reports.page import Number, Page, Picture
from convmae.reports.plots import curves, lines, matrix
from convmae.reports.run_page import add_remarks, add_run, add_unread

PICTURES = 6  # of the worst, and as many of the best
MATRIX_CLASSES = 30  # more names than this can't be read along an axis
LOSSES = {
    "proposals, objectness": "loss_rpn_class",
    "proposals, boxes": "loss_rpn_box",
    "classes": "loss_class",
    "boxes": "loss_box",
    **{
        f"{what}, stage {n}": f"{name}_{n}"
        for n in (2, 3)
        for what, name in (("classes", "loss_class"), ("boxes", "loss_box"))
    },
    "masks": "loss_mask",
}
MEANINGS = {
    "mAP": "AP, IoU 0.50 to 0.95",
    "AP50": "AP, IoU 0.50",
    "AP75": "AP, IoU 0.75",
    "AP_small": "AP, area below 32 x 32 px",
    "AP_medium": "AP, area 32 x 32 to 96 x 96 px",
    "AP_large": "AP, area above 96 x 96 px",
    "AR_1": "AR, 1 detection a picture",
    "AR_10": "AR, 10 detections a picture",
    "AR_100": "AR, 100 detections a picture",
    "AR_small": "AR, area below 32 x 32 px",
    "AR_medium": "AR, area 32 x 32 to 96 x 96 px",
    "AR_large": "AR, area above 96 x 96 px",
}
KINDS = {"bbox": "box", "segm": "mask"}


def write_report(
    metric: CocoMetric,
    config: DetectionConfig,
    splits: dict[str, CocoData],
    work_dir: Path,
    seconds: float,
    weights: Path,
    unread: Mapping[str, str] | None = None,
) -> tuple[Page, list[Path]]:
    """Writes ``metrics.json``, ``detections.json`` and ``report/index.html`` from the metric's last evaluation.

    Returns the page and the paths.
    """
    results_path = write_results(work_dir / "detections.json", metric.predictions, metric.data)
    pictures = {kind: overlaps(metric.data, metric.predictions, kind) for kind in metric.details}
    detector = "Cascade Mask R-CNN" if config.model.cascade else "Mask R-CNN"
    page = Page("Object detection", f"{detector} on ConvMAE-{config.model.size}, {metric.data.annotations}")
    sureness = intervals(metric.numbers, resampled(metric))
    _add_results(page, metric, config.model.detections, sureness)
    rows = read_scalars(work_dir)
    if rows:
        known = {label: key for label, key in LOSSES.items() if any(key in row for row in rows)}
        page.figure("Loss", curves(rows, {"sum": "loss", **known}, "loss"))
        headline = {f"{KINDS[kind]} AP": f"{kind}_mAP" for kind in metric.details}
        page.validation(rows, headline, "AP, 0 to 1")
    for kind, seen in pictures.items():
        _add_errors(page, kind, seen)
    boxes = sure(pictures["bbox"])
    _add_confusion(page, metric.data, boxes)
    _add_pictures(page, metric, boxes)
    page.facts("Data", {name: f"{data.describe()}; {data.annotations}" for name, data in splits.items()})
    add_remarks(page, {name: data.remarks for name, data in splits.items()})
    told = add_unread(page, unread or {})
    add_run(page, config, weights, seconds, _cost(metric, config))
    numbers = {**metric.numbers, "intervals": ends(sureness), "classes": _class_numbers(metric), **told}
    return page, [*page.save(numbers, work_dir), results_path]


def known(value: float) -> float | None:
    """Returns a value of COCO's evaluation, or None for -1, its mark of what has no ground truth."""
    return value if value > -1 else None


def resampled(metric: CocoMetric) -> dict[str, NDArray[np.float64]]:
    """Returns the scores on the resamples of each kind that the metric has evaluated, as ``bbox_mAP`` and so on."""
    truth, rows = metric.data.ground_truth(), coco_results(metric.predictions, metric.data)
    return {name: values for kind in metric.details for name, values in resampled_ap(truth, rows, kind).items()}


def _add_results(page: Page, metric: CocoMetric, detections: int, sureness: Mapping[str, Interval]) -> None:
    """Adds headline, the twelve numbers, the classes and the precision-recall curves to a page."""
    caption = "Over all classes and pictures. A dash: there is no ground truth of that kind."
    if detections > COUNTED:
        caption += (
            f" model.detections is {detections}; these numbers count the {COUNTED} surest of a class on a picture, so that "
            "more of one class change nothing in them."
        )
    page.headline(
        [
            _number(metric, kind, name, key, note, sureness)
            for name, key, note in (("AP", "mAP", "mean over IoU 0.50 to 0.95"), ("AP50", "AP50", "at IoU 0.50"))
            for kind in metric.details
        ]
    )
    if sureness:
        page.text("How sure the numbers are", MEANING)
    page.table(
        "COCO's twelve numbers",
        ["measure", *(KINDS[kind] for kind in metric.details)],
        [[MEANINGS[name], *(known(metric.numbers[f"{kind}_{name}"]) for kind in metric.details)] for name in STANDARD],
        caption,
        sortable=False,
    )
    for kind, details in metric.details.items():
        columns = [details.class_ap(), details.class_ap(iou=0.5), *(details.class_ap(size) for size in SIZES[1:])]
        page.table(
            f"Classes, {KINDS[kind]}",
            ["class", "objects", "AP", "AP50", *(f"AP {size}" for size in SIZES[1:])],
            [
                [category.name, count, *(known(float(column[label])) for column in columns)]
                for label, (category, count) in enumerate(
                    zip(metric.data.categories, metric.data.class_counts(), strict=True)
                )
            ],
            "A dash: the validation pictures hold no object of that class and size, and the mean leaves it out.",
        )
    recall = np.linspace(0, 1, 101)
    for kind, details in metric.details.items():
        at = {f"IoU {iou:.2f}": details.curve(iou) for iou in (0.5, 0.75, 0.9)}
        page.figure(
            f"Precision over recall, {KINDS[kind]}", lines(recall, at, "recall", "precision"), "Mean over the classes."
        )


def _number(metric: CocoMetric, kind: str, name: str, key: str, note: str, sureness: Mapping[str, Interval]) -> Number:
    found = sureness.get(f"{kind}_{key}")
    said = f"{note}; {found.points()}" if found else note
    return Number(f"{KINDS[kind]} {name}", f"{100 * metric.numbers[f'{kind}_{key}']:.1f}", said)


def _add_errors(page: Page, kind: str, pictures: Mapping[int, Overlaps]) -> None:
    """Adds how often each error occurs, and what it costs."""
    verdicts = judge(pictures)
    counts, sure_counts, ap = verdicts.counts(), judge(sure(pictures)).counts(), verdicts.ap()

    def gained(error: str) -> float | None:
        return None if known(ap) is None else round(verdicts.ap([error]) - ap, 3)

    page.table(
        f"Errors, {KINDS[kind]}",
        ["error", "what it is", "all", f"confidence {CONFIDENT:g} or more", "AP50 gained"],
        [[error, meaning, counts[error], sure_counts[error], gained(error)] for error, meaning in ERRORS.items()],
        f"The kinds are those of TIDE, over all detections and over those of confidence {CONFIDENT:g} or more. Last, what "
        "AP50 would gain, were errors of one kind mended and all others left: localisation and class put right, false "
        "detections taken away, missed objects not counted. The gains don't add up.",
    )


def _add_confusion(page: Page, data: CocoData, pictures: Mapping[int, Overlaps]) -> None:
    names = [*(category.name for category in data.categories), "background"]
    counts = confusion(pictures, len(data.categories))
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals[:, None], 1)
    wrong = counts[:-1, :-1] - np.diag(np.diag(counts)[:-1])
    # Where not all fit, those that are confused most.
    kept = np.sort(np.argsort(-(wrong.sum(axis=0) + wrong.sum(axis=1)), kind="stable")[:MATRIX_CLASSES])
    caption = (
        f"Boxes of confidence {CONFIDENT:g} or more that meet an object at IoU 0.5. Each row is a true class and adds up to "
        "100 % over all classes: what its objects were taken for, background being missed. The last row is of detections that "
        "meet no object."
    )
    if len(kept) < len(data.categories):
        caption += f" The {len(kept)} classes of {len(data.categories)} that are confused most."
    kept = np.append(kept, len(data.categories))
    page.figure("Confusion matrix", matrix(shares[np.ix_(kept, kept)], [names[index] for index in kept]), caption)
    largest = np.argsort(-wrong, axis=None, kind="stable")[:10]
    rows: list[list[str | float | None]] = [
        [names[true], names[guess], int(wrong[true, guess]), float(shares[true, guess])]
        for true, guess in zip(*np.unravel_index(largest, wrong.shape), strict=True)
        if wrong[true, guess]
    ]
    if rows:
        page.table("Largest confusions", ["truth", "taken for", "objects", "share of the class"], rows)


def _add_pictures(page: Page, metric: CocoMetric, pictures: Mapping[int, Overlaps]) -> None:
    """Adds ground truth beside prediction for the worst and the best pictures; of equals, those with more in them."""
    ranked = sorted(rate(metric.data, metric.predictions, pictures), key=lambda one: one.score)
    half = (len(ranked) + 1) // 2
    worst = sorted(ranked[:half], key=lambda one: (one.score, -one.missed - one.wrong))
    best = sorted(ranked[half:], key=lambda one: (-one.score, -one.right))
    for title, shown in (("Worst pictures", worst[:PICTURES]), ("Best pictures", best[:PICTURES])):
        if shown:
            caption = (
                f"{len(shown)} of {len(ranked)} validation pictures, by the F-score of confident boxes at IoU 0.5."
            )
            page.pictures(title, [_picture(metric.data, one) for one in shown], caption, columns=1)


def _picture(data: CocoData, one: Rated) -> Picture:
    title = f"prediction, confidence {CONFIDENT:g} or more"
    return Picture(draw(data, one.record, {title: one.found}), f"{one.record.file_name}: {one}")


def _cost(metric: CocoMetric, config: DetectionConfig) -> dict[str, str]:
    return {
        "views": describe_views(config.inference.scales, config.inference.flip),
        "evaluation": f"{metric.pace()}, then {duration(metric.scoring)} for COCO's numbers",
        "peak memory": describe_peak(resolve_device(config.runtime.device)),
    }


def _class_numbers(metric: CocoMetric) -> dict[str, dict[str, float | None]]:
    def of(details: Details, label: int) -> float | None:
        return known(float(details.class_ap()[label]))

    return {
        name: {f"{kind}_mAP": of(details, label) for kind, details in metric.details.items()}
        for label, name in enumerate(distinct([category.name for category in metric.data.categories]))
    }
