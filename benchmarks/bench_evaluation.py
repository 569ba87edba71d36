"""Time COCO's evaluation as shipped (hotcoco) against pycocotools, on the same random detections.

From dictionaries in memory to the twelve numbers, in turn. `before it` is the part of the shipped form's time until hotcoco has
the data, the rest is its own. `difference` is the largest between theirs and ours, over the twelve. With --intervals a column
says what the bootstrap's intervals take besides, once.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from convmae.benchmarks.timing import Step, alternate
from convmae.detection.evaluation.coco_scores import coco_evaluation, evaluate_coco
from convmae.detection.evaluation.resampled_ap import resampled_ap
from convmae.engine.errors import UserError

WIDTH, HEIGHT = 640, 480


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns one row a kind. Raises UserError for counts below one."""
    if min(args.pictures, args.classes, args.objects, args.detections) < 1:
        raise UserError("--pictures, --classes, --objects and --detections must be 1 or more.")
    truth, rows = generate(args.pictures, args.classes, args.detections, args.objects)
    found = [measure(kind, truth, rows, args.repeats) for kind in args.kinds]
    if args.intervals:
        for row in found:
            started = time.perf_counter()
            resampled_ap(truth, rows, row["kind"])
            row["intervals s"] = time.perf_counter() - started
    return found


def measure(kind: str, truth: dict[str, Any], rows: list[dict[str, Any]], repeats: int) -> dict[str, Any]:
    """Returns the seconds of both for one kind of detections, and by how much their numbers differ."""
    steps: dict[str, Step] = {
        "pycocotools": partial(plain_numbers, truth, rows, kind),
        "shipped": partial(evaluate_coco, truth, rows, kind),
        "before": partial(coco_evaluation, truth, rows, kind),
    }
    seconds = alternate(steps, repeats, torch.device("cpu"))
    difference = evaluate_coco(truth, rows, kind).stats - plain_numbers(truth, rows, kind)
    return {
        "kind": kind,
        "pictures": len(truth["images"]),
        "detections": len(rows),
        "pycocotools s": seconds["pycocotools"],
        "shipped s": seconds["shipped"],
        "ratio": seconds["pycocotools"] / seconds["shipped"],
        "before it": seconds["before"] / seconds["shipped"],
        "difference": float(np.abs(difference).max()),
    }


def plain_numbers(truth: dict[str, Any], rows: Sequence[dict[str, Any]], kind: str) -> NDArray[np.float64]:
    """Returns the twelve numbers as pycocotools computes them."""
    unwanted = "bbox" if kind == "segm" else "segmentation"
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        found = coco.loadRes([{key: value for key, value in row.items() if key != unwanted} for row in rows])
        evaluation = COCOeval(coco, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return np.asarray(evaluation.stats)


def generate(
    pictures: int, classes: int, detections: int, objects: int = 7
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns ground truth and result rows: each detection is an object with noise in place and class, its mask an octagon."""
    rng = np.random.default_rng(0)
    annotations: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for picture in range(1, pictures + 1):
        sizes = np.exp(rng.uniform(np.log(8), np.log(300), (objects, 2)))
        starts = rng.uniform(0, 1, (objects, 2)) * ((WIDTH, HEIGHT) - sizes)
        labels = rng.integers(1, classes + 1, objects)
        for number, (box, rle) in enumerate(_shapes(np.hstack([starts, sizes]))):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": picture,
                    "category_id": int(labels[number]),
                    "bbox": box,
                    "area": float(mask_api.area(rle)),
                    "iscrowd": int(number == 0 and picture % 20 == 0),
                    "segmentation": rle,
                }
            )
        of = rng.integers(0, objects, detections)
        noise = rng.normal(0, 0.15, (detections, 4)) * np.tile(sizes[of], 2)
        guessed = np.where(rng.random(detections) < 0.6, labels[of], rng.integers(1, classes + 1, detections))
        boxes = np.hstack([starts, sizes])[of] + noise
        for label, (box, rle) in zip(guessed.tolist(), _shapes(boxes), strict=True):
            score = round(float(rng.random()), 3)
            rows.append({"image_id": picture, "category_id": label, "bbox": box, "score": score, "segmentation": rle})
    truth = {
        "info": {},
        "images": [{"id": picture, "width": WIDTH, "height": HEIGHT} for picture in range(1, pictures + 1)],
        "categories": [{"id": number, "name": str(number)} for number in range(1, classes + 1)],
        "annotations": annotations,
    }
    return truth, rows


def _shapes(boxes: NDArray[np.float64]) -> list[tuple[list[float], dict[str, Any]]]:
    """Returns boxes [N, 4] (left, top, width, height), cut to the picture, each with the mask of the octagon in it."""
    starts = np.clip(boxes[:, :2], 0, (WIDTH - 4, HEIGHT - 4))
    sizes = np.clip(boxes[:, 2:], 4, (WIDTH, HEIGHT) - starts)
    angles = np.arange(8) * np.pi / 4
    corners = starts[:, None] + (0.5 + 0.5 * np.stack([np.cos(angles), np.sin(angles)], axis=1)) * sizes[:, None]
    rles = mask_api.frPyObjects(corners.reshape(len(boxes), -1).tolist(), HEIGHT, WIDTH)
    texts = [{"size": rle["size"], "counts": rle["counts"].decode()} for rle in rles]
    return list(zip(np.hstack([starts, sizes]).tolist(), texts, strict=True))
