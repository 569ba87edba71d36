"""A small COCO split: gaps in category ids, a crowd, a polygon, an RLE, a picture without objects."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as mask_api

CATEGORIES = [{"id": 7, "name": "disc"}, {"id": 3, "name": "box"}, {"id": 90, "name": "bar"}]


def polygon_of(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    """A rectangle as COCO's polygon."""
    return [[left, top, right, top, right, bottom, left, bottom]]


def rle_of(left: int, top: int, right: int, bottom: int, height: int, width: int) -> dict[str, Any]:
    """A rectangle as COCO's uncompressed RLE: runs down the columns, zeros first."""
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[top:bottom, left:right] = 1
    edges = np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=0, append=0))
    runs = np.diff(np.concatenate([[0], edges, [height * width]]))
    return {"size": [height, width], "counts": [int(run) for run in runs if run > 0 or len(runs) == 1]}


def write_split(folder: Path) -> dict[str, Any]:
    """Writes four pictures and their JSON file, and returns what the file holds."""
    images, annotations = [], []
    rng = np.random.default_rng(0)
    (folder / "images" / "deep").mkdir(parents=True)
    for number, (width, height) in enumerate(((96, 64), (64, 96), (80, 80), (96, 72))):
        picture = Image.fromarray(rng.integers(90, 110, (height, width, 3), dtype=np.uint8))
        draw = ImageDraw.Draw(picture)
        name = f"deep/{number}.png" if number == 2 else f"{number}.png"
        images.append({"id": 10 + number, "file_name": name, "width": width, "height": height})
        boxes = [] if number == 3 else [(8, 10, 40, 34), (44, 30, 60, 62)]
        for which, (left, top, right, bottom) in enumerate(boxes):
            colour = ((220, 40, 40), (40, 60, 220))[which]
            draw.rectangle((left, top, right - 1, bottom - 1), fill=colour)
            rle = rle_of(left, top, right, bottom, height, width)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 10 + number,
                    "category_id": (7, 90)[which],
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top),
                    "iscrowd": 0,
                    "segmentation": rle if number == 1 else polygon_of(left, top, right, bottom),
                }
            )
        picture.save(folder / "images" / name)
    crowd = mask_api.frPyObjects(rle_of(60, 0, 96, 20, 64, 96), 64, 96)
    crowd["counts"] = crowd["counts"].decode()
    annotations.append(
        {
            "id": 50,
            "image_id": 10,
            "category_id": 3,
            "bbox": [60, 0, 36, 20],
            "area": 720,
            "iscrowd": 1,
            "segmentation": crowd,
        }
    )
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (folder / "instances.json").write_text(json.dumps(content))
    return content


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """A folder with ``images/`` and ``instances.json``."""
    write_split(tmp_path)
    return tmp_path


@pytest.fixture
def change(split: Path) -> Callable[[Callable[[dict], Any]], Path]:
    """Returns a function that edits the JSON file in place by a function on its content, and returns its path."""

    def edit(function: Callable[[dict], Any]) -> Path:
        path = split / "instances.json"
        content = json.loads(path.read_text())
        function(content)
        path.write_text(json.dumps(content))
        return path

    return edit
