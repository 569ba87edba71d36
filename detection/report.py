"""The report page of a detection run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from convmae.detection.coco import CocoData
from convmae.detection.config import DetectionConfig
from convmae.detection.evaluation import STANDARD, CocoMetric, Details
from convmae.detection.pictures import compare, draw
from convmae.engine.config import to_yaml
from convmae.engine.log import duration
from convmae.engine.plots import curves, lines
from convmae.engine.report import Number, Page, Picture, environment, read_scalars, write_metrics

PICTURES = 12
LOSSES = {
    "proposals, objectness": "loss_rpn_class",
    "proposals, boxes": "loss_rpn_box",
    "classes": "loss_class",
    "boxes": "loss_box",
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
) -> tuple[Page, list[Path]]:
    """Writes ``metrics.json`` and ``report/index.html`` from the metric's last evaluation; returns the page and the paths."""
    page = Page("Object detection", f"Mask R-CNN on ConvMAE-{config.model.size}, {metric.data.annotations}")
    add_results(page, metric)
    rows = read_scalars(work_dir)
    if rows:
        known = {label: key for label, key in LOSSES.items() if any(key in row for row in rows)}
        page.figure("Loss", curves(rows, {"sum": "loss", **known}, "loss"))
        headline = {f"{KINDS[kind]} AP": f"{kind}_mAP" for kind in metric.details}
        page.figure("Validation", curves(rows, headline, "AP, 0 to 1"))
    add_pictures(page, metric)
    page.facts("Data", {name: f"{data.describe()}; {data.annotations}" for name, data in splits.items()})
    page.facts("Run", {"weights": str(weights), "time": duration(seconds), **environment()})
    page.code("Configuration", to_yaml(config))
    metrics_path, page_path = work_dir / "metrics.json", work_dir / "report" / "index.html"
    write_metrics(metrics_path, {**metric.numbers, "classes": _class_numbers(metric)})
    page.write(page_path)
    return page, [metrics_path, page_path]


def add_results(page: Page, metric: CocoMetric) -> None:
    """Adds headline, the twelve numbers, the classes and the precision-recall curves to a page."""
    page.headline(
        [
            Number(f"{KINDS[kind]} {name}", f"{100 * metric.numbers[f'{kind}_{key}']:.1f}", note)
            for name, key, note in (("AP", "mAP", "mean over IoU 0.50 to 0.95"), ("AP50", "AP50", "at IoU 0.50"))
            for kind in metric.details
        ]
    )
    page.table(
        "COCO's twelve numbers",
        ["measure", *(KINDS[kind] for kind in metric.details)],
        [[MEANINGS[name], *(_known(metric.numbers[f"{kind}_{name}"]) for kind in metric.details)] for name in STANDARD],
        "Over all classes and pictures. A dash: there is no ground truth of that kind.",
        sortable=False,
    )
    page.table(
        "Classes",
        ["class", "objects", *(f"{KINDS[kind]} {name}" for kind in metric.details for name in ("AP", "AP50"))],
        _class_rows(metric),
        "AP by class. A dash: the class does not occur in the validation pictures, and the mean leaves it out.",
    )
    recall = np.linspace(0, 1, 101)
    for kind, details in metric.details.items():
        at = {f"IoU {iou:.2f}": details.curve(iou) for iou in (0.5, 0.75, 0.9)}
        page.figure(
            f"Precision over recall, {KINDS[kind]}", lines(recall, at, "recall", "precision"), "Mean over the classes."
        )


def add_pictures(page: Page, metric: CocoMetric, count: int = PICTURES) -> None:
    """Adds ground truth beside prediction for pictures from the worst to the best."""
    ranked = compare(metric.data, metric.predictions)
    chosen = [ranked[index] for index in np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int)]
    page.pictures(
        "Predictions",
        [
            Picture(draw(metric.data, shown), f"{shown.record.file_name}, F-score at IoU 0.5: {shown.score:.2f}")
            for shown in chosen
        ],
        f"{len(chosen)} of {len(ranked)} validation pictures, evenly from the worst to the best.",
        columns=1,
    )


def _class_rows(metric: CocoMetric) -> list[list[str | float | None]]:
    columns = [column for details in metric.details.values() for column in (details.class_ap, details.class_ap_at(0.5))]
    return [
        [category.name, count, *(_known(float(column[label])) for column in columns)]
        for label, (category, count) in enumerate(zip(metric.data.categories, metric.data.class_counts(), strict=True))
    ]


def _class_numbers(metric: CocoMetric) -> dict[str, dict[str, float | None]]:
    def of(details: Details, label: int) -> float | None:
        return _known(float(details.class_ap[label]))

    return {
        category.name: {f"{kind}_mAP": of(details, label) for kind, details in metric.details.items()}
        for label, category in enumerate(metric.data.categories)
    }


def _known(value: float) -> float | None:
    return value if value > -1 else None
