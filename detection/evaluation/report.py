"""The report page of a detection run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convmae.detection.config import DetectionConfig
from convmae.detection.data.coco import CocoData
from convmae.detection.evaluation.coco_metric import CocoMetric, coco_results, write_results
from convmae.detection.evaluation.coco_scores import BEYOND, COUNTED, SIZES, STANDARD, Details
from convmae.detection.evaluation.error_kinds import ERRORS, Overlaps, confusion, judge, overlaps, sure
from convmae.detection.evaluation.rated_pictures import found_panel, read_picture, truth_panel
from convmae.detection.evaluation.ratings import Rated, choose, rate, threshold
from convmae.detection.evaluation.resampled_ap import resampled_ap
from convmae.engine.log import duration
from convmae.engine.machine.memory import describe_peak
from convmae.engine.machine.precision import resolve_device
from convmae.engine.options import describe_views
from convmae.engine.text import distinct
from convmae.engine.training.scalars import read_scalars
from convmae.reports.intervals import MEANING, Interval, ends, intervals
from convmae.reports.page import Gain, Number, Page, Picture, Share, Threshold
from convmae.reports.plots import curves, lines, matrix
from convmae.reports.run_page import add_feeding, add_remarks, add_run, add_unread

PICTURES = 12  # of the worst, and as many of the best
MOST = 40  # pictures on the page, with those of classes that the worst and the best don't hold
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
BEYOND_MEANINGS = {**MEANINGS, "AR": "AR"}
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
    marked = threshold(pictures["bbox"], len(metric.data.categories))
    _add_results(page, metric, marked, sureness)
    rows = read_scalars(work_dir)
    if rows:
        known = {label: key for label, key in LOSSES.items() if any(key in row for row in rows)}
        page.figure("Loss", curves(rows, {"sum": "loss", **known}, "loss"))
        headline = {f"{KINDS[kind]} AP": f"{kind}_mAP" for kind in metric.details}
        page.validation(rows, headline, "AP")
        add_feeding(page, rows)
    _add_confidences(page, marked)
    for kind, seen in pictures.items():
        _add_errors(page, kind, seen, marked.confidence)
    _add_confusion(page, metric.data, sure(pictures["bbox"], marked.confidence), marked.confidence)
    _add_pictures(page, metric, pictures["bbox"], marked)
    page.facts("Data", {name: f"{data.describe()}; {data.annotations}" for name, data in splits.items()})
    add_remarks(page, {name: data.remarks for name, data in splits.items()})
    told = add_unread(page, unread or {})
    add_run(page, config, weights, seconds, _cost(metric, config))
    numbers = {
        **metric.numbers,
        "intervals": ends(sureness),
        "confidence": _marked(marked),
        "classes": _class_numbers(metric),
        **told,
    }
    return page, [*page.save(numbers, work_dir), results_path]


def known(value: float) -> Share | None:
    """Returns a value of COCO's evaluation, or None for -1, its mark of what has no ground truth."""
    return Share(value) if value > -1 else None


def resampled(metric: CocoMetric) -> dict[str, NDArray[np.float64]]:
    """Returns the scores on the resamples of each kind that the metric has evaluated, as ``bbox_mAP`` and so on."""
    truth, rows = metric.data.ground_truth(), coco_results(metric.predictions, metric.data)
    return {name: values for kind in metric.details for name, values in resampled_ap(truth, rows, kind).items()}


def _add_results(page: Page, metric: CocoMetric, marked: Threshold, sureness: Mapping[str, Interval]) -> None:
    """Adds headline, the twelve numbers, the classes and the precision-recall curves to a page."""
    page.headline(
        [
            *(
                _number(metric, kind, name, key, note, sureness)
                for name, key, note in (("AP", "mAP", "mean over IoU 0.50 to 0.95"), ("AP50", "AP50", "at IoU 0.50"))
                for kind in metric.details
            ),
            Number(
                "best F1 of boxes",
                f"{100 * marked.f1()[marked.best]:.1f} %",
                f"at IoU 0.50, of confidence {marked.confidence:.2f} or more",
            ),
        ]
    )
    if sureness:
        page.text("How sure the numbers are", MEANING)
    page.table(
        "COCO's twelve numbers",
        ["measure", *(KINDS[kind] for kind in metric.details)],
        [[MEANINGS[name], *(known(metric.numbers[f"{kind}_{name}"]) for kind in metric.details)] for name in STANDARD],
        f"The {COUNTED} surest detections of a class on a picture are counted, but for AR of 1 and 10. A dash: there is no "
        "ground truth of that kind.",
        sortable=False,
    )
    if metric.detections > COUNTED:
        page.table(
            f"With {metric.detections} detections a picture",
            ["measure", *(KINDS[kind] for kind in metric.details)],
            [
                [
                    BEYOND_MEANINGS[name],
                    *(known(metric.numbers[f"{kind}_{name}_{metric.detections}"]) for kind in metric.details),
                ]
                for name in BEYOND
            ],
            f"The same, counting as many detections of a class on a picture as the detector keeps (model.detections): in "
            f"pictures of more than {COUNTED} objects COCO's numbers can't reach 100 %.",
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
    recall = np.linspace(0, 100, 101)
    for kind, details in metric.details.items():
        at = {f"IoU {iou:.2f}": 100 * details.curve(iou) for iou in (0.5, 0.75, 0.9)}
        page.figure(
            f"Precision over recall, {KINDS[kind]}",
            lines(recall, at, "recall, %", "precision, %"),
            "Mean over the classes.",
        )


def _number(metric: CocoMetric, kind: str, name: str, key: str, note: str, sureness: Mapping[str, Interval]) -> Number:
    found = sureness.get(f"{kind}_{key}")
    said = f"{note}; {found.points()}" if found else note
    return Number(f"{KINDS[kind]} {name}", f"{100 * metric.numbers[f'{kind}_{key}']:.1f} %", said)


def _add_confidences(page: Page, marked: Threshold) -> None:
    """Adds how precision and recall change with the confidence from which boxes are counted."""
    values = {"F1": marked.f1(), "precision": marked.precision(), "recall": marked.recall()}
    page.figure(
        "Boxes over confidence",
        lines(
            np.linspace(0, 1, len(marked.f1())),
            {name: 100 * shares for name, shares in values.items()},
            "confidence from which boxes count",
            "%",
            marked.confidence,
        ),
        f"Over all classes, at IoU 0.50. The dashed line ({marked.what}, {marked.confidence:.2f}) is where the tables below "
        "count and the pictures begin.",
    )


def _marked(marked: Threshold) -> dict[str, float]:
    """Returns what ``metrics.json`` holds of the confidence that is marked, of boxes at IoU 0.5."""
    shares = {"f1": marked.f1(), "precision": marked.precision(), "recall": marked.recall()}
    return {"marked": marked.confidence, **{name: float(values[marked.best]) for name, values in shares.items()}}


def _add_errors(page: Page, kind: str, pictures: Mapping[int, Overlaps], confidence: float) -> None:
    """Adds how often each error occurs, and what it costs."""
    verdicts = judge(pictures)
    counts, sure_counts, ap = verdicts.counts(), judge(sure(pictures, confidence)).counts(), verdicts.ap()

    def gained(error: str) -> Gain | None:
        return None if known(ap) is None else Gain(verdicts.ap([error]) - ap)

    page.table(
        f"Errors, {KINDS[kind]}",
        ["error", "what it is", "all", f"confidence {confidence:.2f} or more", "AP50 gained"],
        [[error, meaning, counts[error], sure_counts[error], gained(error)] for error, meaning in ERRORS.items()],
        f"The kinds are those of TIDE, over all detections and over those of confidence {confidence:.2f} or more. Last, what "
        "AP50 would gain, were errors of one kind mended and all others left: localisation and class put right, false "
        "detections taken away, missed objects not counted. The gains don't add up.",
    )


def _add_confusion(page: Page, data: CocoData, pictures: Mapping[int, Overlaps], confidence: float) -> None:
    names = [*(category.name for category in data.categories), "background"]
    counts = confusion(pictures, len(data.categories))
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals[:, None], 1)
    wrong = counts[:-1, :-1] - np.diag(np.diag(counts)[:-1])
    # Where not all fit, those that are confused most.
    kept = np.sort(np.argsort(-(wrong.sum(axis=0) + wrong.sum(axis=1)), kind="stable")[:MATRIX_CLASSES])
    caption = (
        f"Boxes of confidence {confidence:.2f} or more that meet an object at IoU 0.5. Each row is a true class and adds up to "
        "100 % over all classes: what its objects were taken for, background being missed. The last row is of detections that "
        "meet no object."
    )
    if len(kept) < len(data.categories):
        caption += f" The {len(kept)} classes of {len(data.categories)} that are confused most."
    kept = np.append(kept, len(data.categories))
    cells = np.ix_(kept, kept)
    shown = matrix(shares[cells], [names[index] for index in kept], counts=counts[cells])
    page.figure("Confusion matrix", shown, caption)
    largest = np.argsort(-wrong, axis=None, kind="stable")[:10]
    rows: list[list[str | float | None]] = [
        [names[true], names[guess], int(wrong[true, guess]), Share(shares[true, guess])]
        for true, guess in zip(*np.unravel_index(largest, wrong.shape), strict=True)
        if wrong[true, guess]
    ]
    if rows:
        page.table("Largest confusions", ["truth", "taken for", "objects", "share of the class"], rows)


def _add_pictures(page: Page, metric: CocoMetric, pictures: Mapping[int, Overlaps], marked: Threshold) -> None:
    """Adds ground truth beside prediction for the worst and the best pictures, and for some of the classes that these lack."""
    rated = rate(metric.data, metric.predictions, pictures)
    chosen = choose(rated, marked.confidence, PICTURES, MOST)
    page.pictures(
        "Pictures",
        [_picture(metric.data, one) for one in chosen],
        f"{len(chosen)} of {len(rated)} validation pictures: the {PICTURES} worst and best by the F-score of boxes at IoU 0.50 "
        f"and confidence {marked.confidence:.2f}, and some of classes that these don't hold. Dashed: objects that no box finds "
        "and boxes that find no object.",
        classes=[category.name for category in metric.data.categories],
        thresholds=[marked],
        ranked=True,
    )


def _picture(data: CocoData, one: Rated) -> Picture:
    image = read_picture(data, one.record)
    panels = [
        truth_panel(image, data, one.record, one.overlaps),
        found_panel(image, data, one.found, one.overlaps),
    ]
    return Picture(panels, "", data.path(one.record), one.record.file_name, sorted(one.classes()))


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
