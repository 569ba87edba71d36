"""Ground truth beside prediction, drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as mask_api

from convmae.detection.data.coco import CocoData
from convmae.detection.data.coco_records import Category, ImageRecord, to_rle
from convmae.detection.evaluation.error_kinds import CONFIDENT, Overlaps
from convmae.engine.pictures.images import as_rgb, read_image
from convmae.engine.text import shown
from convmae.reports.drawing import draw_boxes, palette, row


@dataclass(frozen=True)
class Rated:
    """A picture, its confident detections, and how they agree with its objects at IoU 0.5."""

    record: ImageRecord
    found: dict[str, Any]
    right: int
    missed: int
    wrong: int

    @property
    def score(self) -> float:
        """F-score: 1 where all is found and nothing else, as in an empty picture."""
        total = 2 * self.right + self.missed + self.wrong
        return 2 * self.right / total if total else 1.0

    def __str__(self) -> str:
        return f"F-score {self.score:.2f} ({self.right} right, {self.missed} missed, {self.wrong} wrong)"


def rate(data: CocoData, predictions: list[dict[str, Any]], pictures: Mapping[int, Overlaps]) -> list[Rated]:
    """Returns all pictures in the order of ``data.images``; ``pictures`` are the overlaps of their confident detections."""
    by_id = {found["image_id"]: found for found in predictions}
    rated = []
    for record in data.images:
        picture = pictures[record.id]
        match = picture.match()
        right, wrong = int((match >= 0).sum()), int(((match < 0) & ~picture.in_crowd).sum())
        rated.append(Rated(record, by_id[record.id], right, len(picture.truth) - right, wrong))
    return rated


def draw(data: CocoData, record: ImageRecord, found: Mapping[str, dict[str, Any]]) -> Image.Image:
    """Returns the ground truth beside the confident detections of each model, under its name; one colour a class."""
    image = as_rgb(read_image(data.path(record), data.reading))
    panels = [_draw_truth(image, data, record)] + [
        draw_detections(image, confident(one), data.categories) for one in found.values()
    ]
    return row(panels, ["ground truth", *found])


def _draw_truth(image: Image.Image, data: CocoData, record: ImageRecord) -> Image.Image:
    truth, colours = data.objects.get(record.id, []), palette(len(data.categories))
    size = record.height, record.width
    return draw_boxes(
        image,
        [one.box for one in truth],
        [shown(data.categories[one.label].name) + (" (crowd)" if one.crowd else "") for one in truth],
        _decode([to_rle(one.segmentation, *size) for one in truth if one.segmentation is not None], len(truth)),
        [colours[one.label] for one in truth],
    )


def draw_detections(image: Image.Image, found: dict[str, Any], categories: Sequence[Category]) -> Image.Image:
    """Returns the picture with boxes, masks, class names and confidences; one colour a class."""
    labels, scores, colours = found["labels"].tolist(), found["scores"].tolist(), palette(len(categories))
    return draw_boxes(
        image,
        found["boxes"].numpy(),
        [f"{shown(categories[label].name)} {score:.2f}" for label, score in zip(labels, scores, strict=True)],
        _decode(found.get("masks", []), len(labels)),
        [colours[label] for label in labels],
    )


def confident(found: dict[str, Any]) -> dict[str, Any]:
    """Returns the detections that are sure enough to be drawn."""
    keep = found["scores"] >= CONFIDENT
    kept = {key: found[key][keep] for key in ("boxes", "scores", "labels")}
    return kept | {"masks": [rle for rle, sure in zip(found.get("masks", []), keep.tolist(), strict=False) if sure]}


def _decode(rles: list[dict[str, Any]], count: int) -> np.ndarray | None:
    """Returns masks [N, H, W], or None unless every one of ``count`` objects has a mask."""
    if not rles or len(rles) != count:
        return None
    return mask_api.decode(rles).transpose(2, 0, 1).astype(bool)
