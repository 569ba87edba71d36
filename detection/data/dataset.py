"""Pictures and their objects as tensors, for training and for testing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, stack
from torch.utils.data import Dataset

from convmae.detection.checks.class_names import check_learnt, check_measured
from convmae.detection.checks.run_checks import check_pictures, check_size
from convmae.detection.checks.splits import COUNTED, check_evaluation, check_samples, check_split
from convmae.detection.config import DetectionDataOptions
from convmae.detection.data.coco import CocoData, ImageRecord, check_same_classes, read_coco
from convmae.detection.data.transforms import Geometry, fit, large_scale_jitter, place_objects
from convmae.engine.faults import log_remarks, refuse
from convmae.engine.log import log
from convmae.engine.pictures.duplicates import check_shared
from convmae.engine.pictures.images import Picture, read_image, size_of
from convmae.engine.pictures.reading import reading_picture


@dataclass(frozen=True)
class Sample:
    """What leads from the square that the model sees back to the picture."""

    image_id: int
    width: int
    height: int
    geometry: Geometry


class TrainSet(Dataset):
    """uint8 squares [C, size, size] with boxes, labels and masks of the objects in them."""

    def __init__(self, data: CocoData, options: DetectionDataOptions, masks: bool) -> None:
        self.data, self.options, self.masks = data, options, masks
        self.images = data.images if options.keep_empty else data.with_objects()

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> Path:
        """Returns the file of a picture, for messages."""
        return self.data.path(self.images[index])

    def __getitem__(self, index: int) -> dict[str, Any]:
        record, options = self.images[index], self.options
        scales = (options.jitter[0], options.jitter[1])
        geometry = large_scale_jitter(record.width, record.height, options.img_size, scales, options.flip)
        image = geometry.image(_read(self.data, record), options.padding)
        return {"image": image, "target": place_objects(geometry, self.data.training_objects(record), self.masks)}


class EvalSet(Dataset):
    """uint8 squares [C, size, size] that hold the whole picture, and the way back."""

    def __init__(self, data: CocoData, img_size: int, padding: str = "grey") -> None:
        self.data, self.img_size, self.padding = data, img_size, padding

    def __len__(self) -> int:
        return len(self.data.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.data.images[index]
        geometry = fit(record.width, record.height, self.img_size)
        return {
            "image": geometry.image(_read(self.data, record), self.padding),
            "sample": Sample(record.id, record.width, record.height, geometry),
        }


def collate_train(batch: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns ``images`` [B, C, size, size] and ``targets``, one a picture."""
    return {"images": _stack(batch), "targets": [found["target"] for found in batch]}


def collate_test(batch: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns ``images`` [B, C, size, size] and ``samples``, one a picture."""
    return {"images": _stack(batch), "samples": [found["sample"] for found in batch]}


def read_splits(
    options: DetectionDataOptions, masks: bool, detections: int = COUNTED, channels: int = 3
) -> tuple[CocoData, CocoData]:
    """Returns the training and the validation split, checked before anything runs, and logs what was found.

    detections: how many a detector keeps of a picture; channels: of the pictures that it sees.
    """
    train = _read_split(options, options.train_annotations, options.train_images, masks, channels)
    train.check(lambda data, report: check_samples(data, options, report, masks))
    if options.limit:
        train = val = train.subset(options.limit)
    else:
        val = read_split(options, masks, detections, channels)
        check_same_classes(train, val, refuse)
        train.check(lambda data, report: check_learnt(data, val, report))
        val.check(lambda data, report: check_measured(data, train, report))
    val.check(lambda data, report: check_shared(train.paths(), data.paths(), report))
    skip = options.on_bad_image == "skip"  # what is evaluated has to be read
    for name, data in {"training": train, "validation": val}.items():
        log.info(f"{name} data: {data.describe()} ({data.annotations})")
        if name == "training" or data is not train:
            data.check(
                lambda data, report: check_pictures(data, options.check_pictures, report, skip and data is not val)
            )
            log_remarks(name, data.remarks)
    return train, val


def read_split(options: DetectionDataOptions, masks: bool, detections: int = COUNTED, channels: int = 3) -> CocoData:
    """Returns the split to test on, as ``read_splits`` does."""
    if options.limit:
        whole = _read_split(options, options.train_annotations, options.train_images, masks, channels)
        return whole.subset(options.limit)
    val = _read_split(options, options.val_annotations, options.val_images, masks, channels)
    val.check(lambda data, report: check_evaluation(data, options.img_size, detections, report))
    return val


def _read_split(options: DetectionDataOptions, annotations: str, images: str, masks: bool, channels: int) -> CocoData:
    reading = options.reading(channels)
    data = read_coco(under_root(options, annotations), under_root(options, images), masks, reading)
    data.check(lambda data, report: check_split(data, report, masks))
    return data


def under_root(options: DetectionDataOptions, path: str) -> Path:
    """Returns where a path of the options lies."""
    return Path(options.root, path)


def _read(data: CocoData, record: ImageRecord) -> Picture:
    with reading_picture():
        image = read_image(data.path(record), data.reading)
    check_size(size_of(image), record, data)
    return image


def _stack(batch: Sequence[dict[str, Any]]) -> Tensor:
    return stack([found["image"] for found in batch])
