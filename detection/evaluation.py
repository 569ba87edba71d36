"""COCO evaluation: the twelve standard numbers for boxes and for masks, and what the report shows beside them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from convmae.detection.coco import CocoData
from convmae.engine.log import log
from convmae.engine.metric import PictureMetric

STANDARD = (
    "mAP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip


@dataclass
class Details:
    """What stands behind the twelve numbers of one kind (bbox or segm). -1 marks what has no ground truth.

    precision: [10 IoU thresholds 0.5..0.95, 101 recall levels, classes], all sizes, 100 detections a picture.
    """

    stats: NDArray[np.float64]
    precision: NDArray[np.float64]

    @property
    def class_ap(self) -> NDArray[np.float64]:
        """AP of each class, averaged over IoU thresholds and recall levels; -1 without ground truth."""
        return _mean_known(self.precision, axes=(0, 1))

    def class_ap_at(self, iou: float) -> NDArray[np.float64]:
        """AP of each class at one IoU threshold."""
        return _mean_known(self.precision[[round((iou - 0.5) / 0.05)]], axes=(0, 1))

    def curve(self, iou: float) -> NDArray[np.float64]:
        """Precision at the 101 recall levels, averaged over classes that have ground truth."""
        at = self.precision[round((iou - 0.5) / 0.05)]
        known = (at > -1).all(axis=0)
        return at[:, known].mean(axis=1) if known.any() else np.zeros(len(at))


class CocoMetric(PictureMetric):
    """COCO's numbers as bbox_mAP, bbox_AP50, ..., segm_mAP, ...; what it found stays on it for the report."""

    def __init__(self, data: CocoData, masks: bool = True) -> None:
        super().__init__()
        self.data, self.kinds = data, ("bbox", "segm") if masks else ("bbox",)
        self.details: dict[str, Details] = {}
        self.predictions: list[dict[str, Any]] = []

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        self.results.extend(data_samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        self.predictions = results
        rows = coco_results(results, self.data)
        numbers = {}
        for kind in self.kinds:
            self.details[kind] = evaluate_coco(self.data.ground_truth(), rows, kind)
            for name, value in zip(STANDARD, self.details[kind].stats.tolist(), strict=True):
                numbers[f"{kind}_{name}"] = value
        return numbers


def coco_results(predictions: Sequence[dict[str, Any]], data: CocoData) -> list[dict[str, Any]]:
    """Returns detections as COCO's result rows: image_id, category_id, bbox (left, top, width, height), score, segmentation."""
    rows = []
    for found in predictions:
        boxes, scores = found["boxes"].double().tolist(), found["scores"].double().tolist()
        masks = found.get("masks", [None] * len(boxes))
        for (left, top, right, bottom), score, label, mask in zip(
            boxes, scores, found["labels"].tolist(), masks, strict=True
        ):
            row = {
                "image_id": found["image_id"],
                "category_id": data.categories[label].id,
                "bbox": [left, top, right - left, bottom - top],
                "score": score,
            }
            rows.append(row if mask is None else {**row, "segmentation": mask})
    return rows


def evaluate_coco(ground_truth: dict[str, Any], rows: Sequence[dict[str, Any]], kind: str) -> Details:
    """Returns COCO's evaluation of result rows; kind: bbox or segm."""
    # An object's size class follows its mask in segm, and loading takes it from the box where there is one.
    unwanted = "bbox" if kind == "segm" else "segmentation"
    rows = [{key: value for key, value in row.items() if key != unwanted} for row in rows]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(ground_truth)
        evaluation = COCOeval_faster(truth, truth.loadRes(rows), iouType=kind, print_function=log.debug)
        evaluation.run()
    return Details(np.asarray(evaluation.stats[:12], dtype=np.float64), evaluation.eval["precision"][:, :, :, 0, -1])


def _mean_known(values: NDArray[np.float64], axes: tuple[int, ...]) -> NDArray[np.float64]:
    known = values > -1
    return np.where(known.any(axes), np.where(known, values, 0).sum(axes) / np.maximum(known.sum(axes), 1), -1.0)
