"""Random COCO splits with random detections on them, in memory: crowds, ties, empty pictures, all sizes, absent classes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from pycocotools import mask as mask_api

from convmae.detection.data.coco import CocoData
from convmae.detection.data.coco_records import Category, ImageRecord, ObjectRecord

WIDTH, HEIGHT = 150, 130


@dataclass(frozen=True)
class Case:
    """What makes one case differ from another in kind; the rest follows from the seed."""

    seed: int
    pictures: int
    classes: int
    objects: int  # of a picture, at most
    detections: int  # of a picture, at most
    crowds: float  # part of the objects
    levels: int  # distinct scores
    spread: int  # pixels that a detection's edges lie off an object's

    def make(self) -> tuple[CocoData, list[dict[str, Any]]]:
        """Returns a split and its predictions."""
        return _make(self, np.random.default_rng(self.seed))


CASES = st.builds(
    Case,
    seed=st.integers(0, 2**32),
    pictures=st.integers(1, 4),
    classes=st.integers(1, 4),
    objects=st.integers(0, 6),
    detections=st.sampled_from([1, 4, 10, 120]),
    crowds=st.sampled_from([0, 0.3, 1]),
    levels=st.sampled_from([1, 4, 1000]),
    spread=st.sampled_from([0, 3, 12]),
)


def _make(case: Case, rng: np.random.Generator) -> tuple[CocoData, list[dict[str, Any]]]:
    images = [ImageRecord(7 + 3 * number, "", WIDTH, HEIGHT) for number in rng.permutation(case.pictures).tolist()]
    categories = [Category(2 + 5 * label, str(label)) for label in range(case.classes)]
    data = CocoData(Path(), Path(), categories, images, {})
    predictions = []
    for image in images:
        truth = [_object(rng, case.classes, case.crowds) for _ in range(rng.integers(case.objects + 1))]
        data.objects[image.id] = truth
        boxes = [_jitter(rng, truth, case.spread) for _ in range(rng.integers(case.detections + 1))]
        labels = [
            truth[rng.integers(len(truth))].label if truth and rng.random() < 0.7 else int(rng.integers(case.classes))
            for _ in boxes
        ]
        predictions.append(
            {
                "image_id": image.id,
                "boxes": torch.tensor(np.array(boxes).reshape(-1, 4), dtype=torch.float32),
                "scores": torch.tensor(rng.integers(1, case.levels + 1, len(boxes)) / case.levels, dtype=torch.float32),
                "labels": torch.tensor(labels, dtype=torch.int64),
                "masks": [_mask(rng, box, empty=rng.random() < 0.05) for box in boxes],
            }
        )
    return data, predictions


def _object(rng: np.random.Generator, classes: int, crowds: float) -> ObjectRecord:
    crowd = bool(rng.random() < crowds)
    width, height = (rng.integers(*rng.choice([(4, 31), (33, 90), (97, 129)])) for _ in range(2))
    left, top = rng.integers(WIDTH - width + 1), rng.integers(HEIGHT - height + 1)
    box = (float(left), float(top), float(left + width), float(top + height))
    if crowd or rng.random() < 0.5:
        segmentation: Any = _mask(rng, box)
        area = float(mask_api.area(segmentation))
    else:
        segmentation, area = [[left, top, left + width, top, left + width / 2, top + height]], float(width * height / 2)
        segmentation = [[float(value) for value in segmentation[0]]]
    return ObjectRecord(int(rng.integers(10**9)), int(rng.integers(classes)), box, area, crowd, segmentation)


def _jitter(rng: np.random.Generator, truth: list[ObjectRecord], spread: int) -> list[float]:
    """A box near an object, or anywhere."""
    if truth and rng.random() < 0.8:
        box = np.array(truth[rng.integers(len(truth))].box) + rng.integers(-spread, spread + 1, 4)
    else:
        box = np.array(_object(rng, 1, 0).box) + 0.5
    left, top = np.clip(box[:2], 0, (WIDTH - 2, HEIGHT - 2))
    right, bottom = np.clip(box[2:], (left + 1, top + 1), (WIDTH, HEIGHT))
    return [left, top, right, bottom]


def _mask(rng: np.random.Generator, box: Any, empty: bool = False) -> dict[str, Any]:
    """The box or the ellipse in it, as compressed RLE."""
    left, top, right, bottom = box
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    inside = (x > left) & (x < right) & (y > top) & (y < bottom)
    if rng.random() < 0.5:
        inside &= ((2 * x - left - right) / (right - left)) ** 2 + ((2 * y - top - bottom) / (bottom - top)) ** 2 <= 1
    rle = mask_api.encode(np.asfortranarray(inside & (not empty)).view(np.uint8))
    return {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode()}
