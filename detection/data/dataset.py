"""Pictures and their objects as tensors, for training and for testing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import stack
from torch.utils.data import Dataset

from convmae.detection.config import DetectionDataOptions
from convmae.detection.data.coco import CocoData, check_size
from convmae.detection.data.transforms import Geometry, fit, large_scale_jitter, place_objects
from convmae.engine.feeding.pictures import Pictures
from convmae.engine.pictures.images import Picture, read_image, size_of
from convmae.engine.pictures.reading import reading_picture


@dataclass(frozen=True)
class Sample:
    """What leads from the squares that the model sees back to the picture."""

    image_id: int
    width: int
    height: int
    geometries: tuple[Geometry, ...]  # of each square

    @property
    def geometry(self) -> Geometry:
        """That of the first square, in whose pixels detections are."""
        return self.geometries[0]


class TrainSet(Dataset):
    """uint8 squares [C, size, size] with boxes, labels and masks of the objects in them."""

    def __init__(self, data: CocoData, options: DetectionDataOptions, masks: bool) -> None:
        self.data, self.options, self.masks = data, options, masks
        self.images = data.images if options.keep_empty else data.with_objects()
        self.pictures = Pictures([data.path(image) for image in self.images], data.reading, options.keep)

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> Path:
        """Returns the file of a picture, for messages."""
        return self.data.path(self.images[index])

    def __getitem__(self, index: int) -> dict[str, Any]:
        record, options = self.images[index], self.options
        scales = (options.jitter[0], options.jitter[1])
        geometry = large_scale_jitter(record.width, record.height, options.img_size, scales, options.flip)
        with reading_picture():
            picture = self.pictures.read(index)
        check_size(size_of(picture), record, self.data)
        image = geometry.image(picture, options.padding)
        return {"image": image, "target": place_objects(geometry, self.data.training_objects(record), self.masks)}


class EvalSet(Dataset):
    """uint8 squares [C, side, side] that hold the whole picture, one of each side, and the way back."""

    def __init__(self, data: CocoData, *sides: int, padding: str = "grey") -> None:
        self.data, self.sides, self.padding = data, sides, padding

    def __len__(self) -> int:
        return len(self.data.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.data.images[index]
        with reading_picture():
            picture = read_image(self.data.path(record), self.data.reading)
        check_size(size_of(picture), record, self.data)
        return fitted(picture, record.id, self.sides, self.padding)


def fitted(image: Picture, image_id: int, sides: Sequence[int], padding: str) -> dict[str, Any]:
    """Returns ``images``, the whole picture in squares [C, side, side], each resized from it itself, and its ``sample``."""
    width, height = size_of(image)
    geometries = tuple(fit(width, height, side) for side in sides)
    squares = [geometry.image(image, padding) for geometry in geometries]
    return {"images": squares, "sample": Sample(image_id, width, height, geometries)}


def collate_train(batch: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns ``images`` [B, C, size, size] and ``targets``, one a picture."""
    images = stack([found["image"] for found in batch])
    return {"images": images, "targets": [found["target"] for found in batch]}


def collate_test(batch: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns ``images``, [B, C, side, side] of each side, and ``samples``, one a picture."""
    images = [stack(squares) for squares in zip(*(found["images"] for found in batch), strict=True)]
    return {"images": images, "samples": [found["sample"] for found in batch]}
