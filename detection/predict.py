"""A trained detector on any pictures: its detections drawn and as COCO rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pycocotools import mask as mask_api

from convmae.backbones.weight_files import read_weights
from convmae.detection.coco import CocoData
from convmae.detection.config import DetectionConfig
from convmae.detection.dataset import Sample
from convmae.detection.evaluation import coco_results
from convmae.detection.model import DetectionModel, read_categories
from convmae.detection.records import Category, ImageRecord
from convmae.detection.transforms import fit
from convmae.detection.weights import load_detector
from convmae.engine.errors import UserError
from convmae.engine.images import Picture, size_of
from convmae.engine.precision import autocast, set_up


class Predictor:
    """Calls a detector on one picture after the other, of any size."""

    def __init__(self, config: DetectionConfig, checkpoint: Path) -> None:
        """Raises UserError for weights that don't fill the model or don't name their classes."""
        self.device, self.dtype = set_up(config.runtime)
        self.size, self.padding = config.data.img_size, config.data.padding
        self.model = DetectionModel(config, read_classes(checkpoint))
        load_detector(self.model, checkpoint)
        self.model.eval().to(self.device)

    @property
    def categories(self) -> list[Category]:
        """The classes that labels number."""
        return self.model.categories

    @torch.inference_mode()
    def __call__(self, image: Picture, image_id: int = 0) -> dict[str, Any]:
        """Returns the detections of a picture as ``DetectionModel`` does, in its own pixels."""
        width, height = size_of(image)
        geometry = fit(width, height, self.size)
        sample = Sample(image_id, width, height, geometry)
        square = geometry.image(image, self.padding)[None].to(self.device)
        with autocast(self.device, self.dtype):
            (found,) = self.model(square, samples=[sample], mode="predict")
        return found


def read_classes(checkpoint: Path) -> list[Category]:
    """Returns the classes that stand in a detector's weights. Raises UserError for weights without them."""
    state, _ = read_weights(checkpoint)
    if "_extra_state" not in state:
        raise UserError(
            f"{checkpoint} does not name its classes; expected a detector of this project. One of detectron2's layout becomes "
            "that by tools/convert_checkpoint.py --to convmae."
        )
    return read_categories(state["_extra_state"])


def as_coco(
    images: Sequence[ImageRecord], predictions: Sequence[dict[str, Any]], categories: list[Category]
) -> dict[str, Any]:
    """Returns detections as a COCO data set that names the pictures; each annotation is a result row with an id and an area."""
    data = CocoData(Path(), Path(), categories, list(images), {})
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
        "images": [asdict(image) for image in images],
        "categories": [asdict(category) for category in categories],
        "annotations": rows,
    }
