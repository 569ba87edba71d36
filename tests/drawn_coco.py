"""COCO files of ellipses somewhere on pictures of several sizes, and what is found wrong with them."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_api

from convmae.detection.checks.splits import check_split
from convmae.detection.data.coco import parse_coco
from convmae.engine.faults import Effect, Fault

Content = dict[str, Any]


SIZES = [(128, 96), (96, 128), (200, 80), (64, 64)]


def ellipse(left: float, top: float, width: float, height: float, points: int = 24) -> list[float]:
    """The outline of an ellipse that touches all sides of a box."""
    angle = np.arange(points) * 2 * np.pi / points
    x, y = left + width * (1 + np.cos(angle)) / 2, top + height * (1 + np.sin(angle)) / 2
    return np.stack([x, y], axis=1).ravel().tolist()


def runs(polygons: list[list[float]], width: int, height: int) -> dict[str, Any]:
    rle = mask_api.merge(mask_api.frPyObjects(polygons, height, width))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def coco(each: int = 6, seed: int = 0) -> Content:
    """Pictures of several sizes with ellipses somewhere in them, two classes by turns."""
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    for number, (width, height) in enumerate(SIZES, 1):
        images.append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
        for _ in range(each):
            side = rng.uniform(8, 30, 2)
            left, top = rng.uniform(0, (width, height) - side)
            box = [left, top, *side.tolist()]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1 + len(annotations) % 2,
                    "bbox": box,
                    "area": side[0] * side[1] * np.pi / 4,
                    "iscrowd": 0,
                    "segmentation": [ellipse(*box)],
                }
            )
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def edited(content: Content, edit: Callable[[Content, float, float], Any], every: int = 1) -> Content:
    """Returns a copy whose every n-th annotation was edited, given width and height of its picture."""
    changed = copy.deepcopy(content)
    for annotation in changed["annotations"][::every]:
        edit(annotation, *map(float, SIZES[annotation["image_id"] - 1]))
    return changed


def faults_of(tmp_path: Path, content: Content) -> list[Fault]:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    found: list[Fault] = []
    check_split(parse_coco(path, tmp_path, found.append), found.append)
    return found


def kinds(faults: list[Fault], effect: Effect) -> list[str]:
    return [fault.kind for fault in faults if fault.effect is effect]


def bare(content: Content) -> Content:
    changed = copy.deepcopy(content)
    for annotation in changed["annotations"]:
        del annotation["segmentation"]
    return changed
