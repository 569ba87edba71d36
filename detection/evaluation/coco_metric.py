"""The metric of a run: detections picture by picture, COCO's numbers of them, and detections as files."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pycocotools import mask as mask_api

from convmae.detection.data.coco import CocoData
from convmae.detection.data.coco_records import to_rle
from convmae.detection.data.segmentations import read_segmentation
from convmae.detection.evaluation.coco_scores import BEYOND, COUNTED, STANDARD, Details, evaluate_coco
from convmae.engine.errors import UserError
from convmae.engine.faults import refuse
from convmae.engine.files import write_whole
from convmae.engine.training.metric import PictureMetric

THREADS = 2  # that make detections' masks while the model computes the next pictures' detections


class CocoMetric(PictureMetric):
    """COCO's numbers as bbox_mAP, bbox_AP50, ..., segm_mAP, ...; what it found stays on it for the report.

    detections: how many a detector keeps of a picture; where 200 are, bbox_mAP_200 and its like (``BEYOND``) count so many.
    """

    def __init__(self, data: CocoData, masks: bool = True, detections: int = COUNTED) -> None:
        super().__init__()
        self.detections = detections
        self.data, self.kinds = data, ("bbox", "segm") if masks else ("bbox",)
        self.details: dict[str, Details] = {}
        self.predictions: list[dict[str, Any]] = []
        self.scoring = 0.0  # seconds from detections to numbers
        self._threads: ThreadPoolExecutor | None = None  # during an evaluation

    def measure(self, sample: Callable[[], dict[str, Any]]) -> Future:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS)
        return self._threads.submit(sample)

    def evaluate(self, size: int) -> dict[str, float]:
        try:
            return super().evaluate(size)
        finally:
            if self._threads is not None:  # none is left when loader processes are forked for the next one
                self._threads.shutdown()
                self._threads = None

    def compute_metrics(self, results: list) -> dict[str, float]:
        started = time.perf_counter()
        self.predictions = results
        rows, truth = coco_results(results, self.data), self.data.ground_truth()
        numbers: dict[str, float] = {}
        for kind in self.kinds:
            details = self.details[kind] = evaluate_coco(truth, rows, kind, self.detections)
            numbers |= {f"{kind}_{name}": value for name, value in zip(STANDARD, details.stats.tolist(), strict=True)}
            numbers |= {
                f"{kind}_{name}_{self.detections}": value
                for name, value in zip(BEYOND, details.beyond, strict=bool(details.beyond))
            }
        self.scoring = time.perf_counter() - started
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


def coco_dataset(predictions: Sequence[dict[str, Any]], data: CocoData) -> dict[str, Any]:
    """Returns detections as a COCO data set of the pictures of ``data``; annotations are result rows with an id and an area."""
    rows = [
        {
            "id": number,
            **row,
            "area": float(mask_api.area(row["segmentation"]))
            if "segmentation" in row
            else row["bbox"][2] * row["bbox"][3],
            "iscrowd": 0,
        }
        for number, row in enumerate(coco_results(predictions, data), 1)
    ]
    return {
        "images": [asdict(image) for image in data.images],
        "categories": [asdict(category) for category in data.categories],
        "annotations": rows,
    }


def write_results(path: Path, predictions: Sequence[dict[str, Any]], data: CocoData) -> Path:
    """Writes detections as a COCO data set, boxes and masks in each annotation; returns its path.

    ``COCO(path)`` reads it, and ``loadRes`` its annotations. To score masks with pycocotools, take "bbox" and "area" from these
    before, or an object's size is taken from the box.
    """
    write_whole(path, json.dumps(coco_dataset(predictions, data)))
    return path


def read_results(path: Path, data: CocoData) -> list[dict[str, Any]]:
    """Returns the predictions of a data set of detections, or of a list of result rows, as servers take and earlier runs wrote.

    Raises UserError for a file that is none of the pictures of ``data``.
    """
    try:
        content = json.loads(path.read_bytes())
        rows = content["annotations"] if isinstance(content, dict) else content
        labels = {category.id: label for label, category in enumerate(data.categories)}
        images = {image.id: image for image in data.images}
        by_image: dict[int, list[dict[str, Any]]] = {image: [] for image in images}
        masked = any("segmentation" in row for row in rows)
        drawn: dict[int, float] = {}
        for number, row in enumerate(rows):
            left, top, width, height, score = (float(value) for value in [*row["bbox"], row["score"]])
            if not math.isfinite(left + top + width + height + score):
                raise ValueError(f"row {number} has a number that is not finite")
            image = images[row["image_id"]]
            one = {"box": (left, top, left + width, top + height), "score": score, "label": labels[row["category_id"]]}
            if masked:
                outline = read_segmentation(row["segmentation"], image, f"{path}, row {number}", refuse, drawn)
                one["mask"] = to_rle(outline, image.height, image.width)
            by_image[image.id].append(one)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}; expected COCO's result rows.") from None
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise UserError(
            f"{path} doesn't hold detections on {data.annotations} ({type(error).__name__}: {error}); expected COCO's result "
            "rows, of that file's images and categories."
        ) from None
    return [
        {
            "image_id": image,
            "boxes": torch.tensor([row["box"] for row in found], dtype=torch.float64).view(-1, 4),
            "scores": torch.tensor([row["score"] for row in found], dtype=torch.float64),
            "labels": torch.tensor([row["label"] for row in found], dtype=torch.int64),
            # None at all of a detector without masks.
            **({"masks": [row["mask"] for row in found]} if masked else {}),
        }
        for image, found in by_image.items()
    ]
