"""Annotated objects and detections on pictures: drawn into them, or as panels of a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as mask_api

from convmae.detection.data.coco import CocoData
from convmae.detection.data.coco_records import Category, ImageRecord, ObjectRecord, to_rle
from convmae.detection.evaluation.error_kinds import Overlaps
from convmae.engine.pictures.images import as_rgb, read_image
from convmae.engine.text import shown
from convmae.reports.drawing import Colour, draw_boxes, object_colours, palette
from convmae.reports.gallery import Panel, Shape, outline


def draw_detections(image: Image.Image, found: dict[str, Any], categories: Sequence[Category]) -> Image.Image:
    """Returns the picture with boxes, masks, class names and confidences; a colour a class, or an object of one class."""
    order = np.argsort(-np.asarray(found["scores"]), kind="stable").tolist()
    labels, scores = found["labels"].tolist(), found["scores"].tolist()
    masks = _decode(found.get("masks", []), len(labels))
    colours = _colours([labels[place] for place in order], categories)
    return draw_boxes(
        image,
        found["boxes"].numpy()[order],
        [_name(categories, labels[place], scores[place]) for place in order],
        None if masks is None else masks[order],
        colours,
    )


def read_picture(data: CocoData, record: ImageRecord) -> Image.Image:
    """Returns a picture of the data in RGB."""
    return as_rgb(read_image(data.path(record), data.reading))


def truth_panel(image: Image.Image, data: CocoData, record: ImageRecord, overlaps: Overlaps | None = None) -> Panel:
    """Returns a picture with its annotated objects; with ``overlaps``, they are found by the detections of slider 0."""
    objects = data.objects.get(record.id, [])
    singles = [one for one in objects if not one.crowd]
    colours = _colours([one.label for one in singles], data.categories)
    finders: dict[int, float] = {}
    if overlaps is not None:
        match = overlaps.match()
        finders = {int(match[place]): float(overlaps.scores[place]) for place in np.flatnonzero(match >= 0)}
    shapes = [
        _truth_shape(one, colours[number], data, record, finders.get(number)) for number, one in enumerate(singles)
    ]
    shapes += [_truth_shape(one, (128, 128, 128), data, record) for one in objects if one.crowd]
    return Panel(image, "ground truth", shapes, truth=True, run=-1 if overlaps is None else 0)


def found_panel(
    image: Image.Image,
    data: CocoData,
    found: dict[str, Any],
    overlaps: Overlaps,
    title: str = "prediction",
    run: int = 0,
) -> Panel:
    """Returns a picture with detections, the surest first; of one class, each in the colour of the object that it finds."""
    order = np.argsort(-np.asarray(found["scores"], np.float64), kind="stable")
    match = overlaps.match()
    labels = overlaps.labels.tolist()
    objects = object_colours(len(overlaps.truth) + len(order))
    others = iter(objects[len(overlaps.truth) :])
    masks = found.get("masks", [])
    shapes = []
    for rank, place in enumerate(order.tolist()):
        label, score = labels[rank], float(overlaps.scores[rank])
        box = [float(side) for side in found["boxes"][place]]
        color = palette(len(data.categories))[label]
        if len(data.categories) == 1:
            color = objects[match[rank]] if match[rank] >= 0 else next(others)
        shapes.append(
            Shape(
                (box[0], box[1], box[2], box[3]),
                color,
                _name(data.categories, label, score),
                label,
                outline(mask_api.decode(masks[place])) if len(masks) else "",
                score,
                right=bool(match[rank] >= 0),
                counted=bool(match[rank] >= 0 or not overlaps.in_crowd[rank]),
            )
        )
    return Panel(image, title, shapes, run=run)


def _truth_shape(
    one: ObjectRecord, color: Colour, data: CocoData, record: ImageRecord, finder: float | None = None
) -> Shape:
    name = shown(data.categories[one.label].name) if len(data.categories) > 1 else ""
    left, top, right, bottom = (float(side) for side in one.box)
    path = ""
    if one.segmentation is not None:
        path = outline(mask_api.decode(to_rle(one.segmentation, record.height, record.width)))
    name += " (crowd)" if one.crowd else ""
    return Shape((left, top, right, bottom), color, name.strip(), one.label, path, finder, counted=not one.crowd)


def _name(categories: Sequence[Category], label: int, score: float) -> str:
    """Returns what is written at a detection: of one class its confidence alone."""
    return f"{shown(categories[label].name)} {score:.2f}" if len(categories) > 1 else f"{score:.2f}"


def _colours(labels: Sequence[int], categories: Sequence[Category]) -> list[Colour]:
    """Returns a colour for each object: its class's, or its own where there is one class."""
    if len(categories) == 1:
        return object_colours(len(labels))
    return [palette(len(categories))[label] for label in labels]


def _decode(rles: list[dict[str, Any]], count: int) -> np.ndarray | None:
    """Returns masks [N, H, W], or None unless every one of ``count`` objects has a mask."""
    if not rles or len(rles) != count:
        return None
    return mask_api.decode(rles).transpose(2, 0, 1).astype(bool)
