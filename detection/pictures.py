"""Ground truth beside prediction, drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as mask_api
from torch import Tensor
from torchvision.ops import box_iou

from convmae.detection.coco import CocoData, ImageRecord, to_rle
from convmae.engine.drawing import draw_boxes, pair, palette
from convmae.engine.images import read_image

CONFIDENT = 0.5  # detections of less confidence are neither drawn nor counted in a picture's score


@dataclass(frozen=True)
class Compared:
    """A picture, its detections, and how well they agree: F-score of confident boxes at IoU 0.5."""

    record: ImageRecord
    found: dict[str, Any]
    score: float


def compare(data: CocoData, predictions: list[dict[str, Any]]) -> list[Compared]:
    """Returns all pictures with their agreement, worst first."""
    by_id = {found["image_id"]: found for found in predictions}
    compared = []
    for record in data.images:
        found = by_id[record.id]
        truth = data.training_objects(record)
        sure = found["scores"] >= CONFIDENT
        boxes = torch.tensor([one.box for one in truth], dtype=torch.float32).view(-1, 4)
        labels = torch.tensor([one.label for one in truth], dtype=torch.int64)
        matched = _matches(found["boxes"][sure], found["labels"][sure], boxes, labels)
        total = int(sure.sum()) + len(truth)
        compared.append(Compared(record, found, 2 * matched / total if total else 1.0))
    return sorted(compared, key=lambda one: one.score)


def draw(data: CocoData, shown: Compared) -> Image.Image:
    """Returns the ground truth beside the confident detections; one colour a class."""
    image = read_image(data.path(shown.record))
    names, colours = [category.name for category in data.categories], palette(len(data.categories))
    truth = data.objects.get(shown.record.id, [])
    size = shown.record.height, shown.record.width
    left = draw_boxes(
        image,
        [one.box for one in truth],
        [names[one.label] + (" (crowd)" if one.crowd else "") for one in truth],
        _decode([to_rle(one.segmentation, *size) for one in truth if one.segmentation is not None], len(truth)),
        [colours[one.label] for one in truth],
    )
    sure = shown.found["scores"] >= CONFIDENT
    labels, scores = shown.found["labels"][sure].tolist(), shown.found["scores"][sure].tolist()
    rles = [rle for rle, keep in zip(shown.found.get("masks", []), sure.tolist(), strict=False) if keep]
    right = draw_boxes(
        image,
        shown.found["boxes"][sure].numpy(),
        [f"{names[label]} {score:.2f}" for label, score in zip(labels, scores, strict=True)],
        _decode(rles, len(labels)),
        [colours[label] for label in labels],
    )
    return pair(left, right, ("ground truth", f"prediction, confidence {CONFIDENT:g} or more"))


def _decode(rles: list[dict[str, Any]], count: int) -> np.ndarray | None:
    """Returns masks [N, H, W], or None unless every one of ``count`` objects has a mask."""
    if not rles or len(rles) != count:
        return None
    return mask_api.decode(rles).transpose(2, 0, 1).astype(bool)


def _matches(boxes: Tensor, labels: Tensor, true_boxes: Tensor, true_labels: Tensor) -> int:
    """Returns how many boxes (best first) find a ground truth of their class at IoU 0.5 that none before took."""
    overlap = box_iou(boxes, true_boxes) * (labels[:, None] == true_labels[None])
    matched = 0
    for row in overlap.unbind():
        if len(row) and row.max() >= 0.5:
            overlap[:, row.argmax()] = 0
            matched += 1
    return matched
