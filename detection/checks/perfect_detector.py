"""What COCO's evaluation gives to a perfect detector: the ground truth as detections."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pycocotools import mask as mask_api

from convmae.detection.checks.contradictions import empty_masks
from convmae.detection.data.coco import CocoData
from convmae.detection.data.coco_records import ObjectRecord
from convmae.detection.evaluation.coco_scores import COUNTED, crowded, evaluate_coco
from convmae.engine.faults import Effect, Fault, Report

_LARGEST = 1e10  # pixels, the end of COCO's range of all areas
KINDS = {"bbox_mAP": "box AP", "segm_mAP": "mask AP"}


def perfect_scores(data: CocoData, masks: bool) -> dict[str, float]:
    """Returns the box AP of each object's own box as a detection, and the mask AP of its mask, by the metric's names."""
    stood_for = replace(data, objects=stand_ins(data)) if masks else data
    rows = [
        {
            "image_id": image.id,
            "category_id": data.categories[one.label].id,
            "bbox": [one.box[0], one.box[1], one.box[2] - one.box[0], one.box[3] - one.box[1]],
            "score": 1.0,
            **({"segmentation": one.segmentation} if masks else {}),
        }
        for image in data.images
        for one in stood_for.training_objects(image)
    ]
    truth = stood_for.ground_truth()
    kinds = KINDS if masks else ["bbox_mAP"]
    return {name: float(evaluate_coco(truth, rows, name.partition("_")[0]).stats[0]) for name in kinds}


def stand_ins(data: CocoData) -> dict[int, list[ObjectRecord]]:
    """Returns the objects of each picture with masks of a pixel each, none where they have none.

    A mask meets itself wholly and none other more, so that they are matched as the objects' own are, which would each be held
    against all others of the picture, run by run.
    """
    empty = set(data.packed.columns["id"][empty_masks(data)].tolist())
    found = {}
    for image in data.images:
        objects = data.objects.get(image.id, [])
        size = [1, len(objects) + 1]
        found[image.id] = [
            one
            if one.segmentation is None
            else replace(one, segmentation=_pixel(0 if one.id in empty else 1, place, size))
            for place, one in enumerate(objects)
        ]
    return found


def _pixel(count: int, place: int, size: list[int]) -> dict[str, Any]:
    counts = [place, count, size[1] - place - count]
    found = mask_api.frPyObjects({"size": size, "counts": counts}, *size)
    return {"size": size, "counts": found["counts"].decode()}


def check_perfect(data: CocoData, scores: dict[str, float], report: Report) -> None:
    """Reports that a perfect detector scores below 1.0, and why."""
    low = {name: score for name, score in scores.items() if score < 1 - 1e-6}
    if not low:
        return
    over = crowded(data)
    causes = []
    if over:
        beyond = sum(count - COUNTED for _, _, count in over)
        pictures = len({number for number, _, _ in over})
        causes.append(
            f"{beyond} objects on {pictures} pictures are beyond the {COUNTED} detections of a class that count on each"
        )
    empty = len(empty_masks(data)) if "segm_mAP" in low else 0
    if empty:
        causes.append(f"{empty} masks hold no pixel, which no mask meets")
    if huge := int((data.packed.columns["area"] > _LARGEST).sum()):
        causes.append(f"{huge} objects have an area above {_LARGEST:g}, which is not counted")
    message = f"{data.annotations}: by COCO's evaluation a perfect detector scores {describe_scores(low)}: "
    message += "; ".join(causes or ["the cause is none that this check knows"]) + "."
    report(Fault("splits that no detector can solve", message, Effect.DOUBTFUL))


def describe_scores(scores: dict[str, float]) -> str:
    """Returns the scores in words."""
    return ", ".join(f"{score:.4f} {KINDS[name]}" for name, score in scores.items())
