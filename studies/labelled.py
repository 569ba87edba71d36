"""The three tasks as a study sees them: their tools, the number that counts, and what labelled data hold in a share of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from convmae.classification.config import FinetuningConfig
from convmae.classification.data.dataset import read_splits as read_class_folders
from convmae.classification.data.dataset import take_labelled
from convmae.detection.checks.preflight import check_options, read_splits, take_images, under_root
from convmae.detection.config import DetectionConfig
from convmae.engine.errors import UserError
from convmae.segmentation.checks.splits import take_pairs
from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.data.rare_classes import count_classes
from convmae.segmentation.train import find_data


class Share(NamedTuple):
    """How many pictures a share of the training pictures has, and the classes that only the others have."""

    pictures: int
    lacking: list[str]


@dataclass(frozen=True)
class Labelled:
    """Labelled data: the folder of the training pictures, these, those of validation, and what a share of a seed holds.

    ``smallest``: how many pictures there are of what a share has a part of, a class in classification, else of all; ``floor``:
    the best score of a model that says the same of all validation pictures, which a model has that learnt nothing.
    """

    folder: Path
    training: list[Path]
    validation: list[Path]
    smallest: int
    share: Callable[[float, int], Share]
    floor: float = 0.0


class Task(NamedTuple):
    """A task: its title and tool, its options, how its data are read, and the score's name in ``metrics.json`` and in words."""

    title: str
    tool: str
    schema: type
    read: Callable[[Any], Labelled]
    measure: Callable[[Any], tuple[str, str]]


def _read_coco(config: DetectionConfig) -> Labelled:
    options = config.data
    check_options(config)
    if options.limit:
        raise UserError(
            "data.limit overfits on purpose, and says nothing of other pictures; expected 0, as a study has data.share."
        )
    train, val = read_splits(options, config.model.masks, config.model.detections, config.model.in_chans)
    whole = Counter(
        {category.name: count for category, count in zip(train.categories, train.class_counts(), strict=True)}
    )

    def share(part: float, seed: int) -> Share:
        taken = take_images(train, part, seed, options.keep_empty)
        counts = zip(taken.categories, taken.class_counts(), strict=True)
        return Share(len(taken.images), [one.name for one, count in counts if not count and whole[one.name]])

    trained_on = train.images if options.keep_empty else train.with_objects()
    training = [train.path(image) for image in trained_on]
    return Labelled(under_root(options, options.train_images), training, val.paths(), len(training), share)


def _read_maps(config: SegmentationConfig) -> Labelled:
    options = config.data
    classes, training, validation = find_data(config, ("training", "validation"))
    counted = [
        count_classes(found.pairs, len(classes), options.reduce_zero_label, options.max_pixels)
        for found in (training, validation)
    ]
    held, pixels = counted[0] > 0, counted[1].sum(axis=0)
    floor = float(pixels.max() / pixels.sum() / (pixels > 0).sum())  # mIoU, of the classes that are there
    row = {pair: number for number, pair in enumerate(training.pairs)}

    def share(part: float, seed: int) -> Share:
        taken = take_pairs(training, part, seed)
        lacking = held.any(axis=0) & ~held[[row[pair] for pair in taken]].any(axis=0)
        return Share(len(taken), [classes[label] for label in np.flatnonzero(lacking)])

    return Labelled(training.images, training.paths(), validation.paths(), len(training.pairs), share, floor)


def _read_folders(config: FinetuningConfig) -> Labelled:
    if config.data.per_class:
        raise UserError(f"data.per_class is {config.data.per_class}; expected 0, as a study has data.share.")
    train, val = read_class_folders(config.data, config.model.in_chans)
    counts = Counter(label for _, label in train.pictures)

    def share(part: float, seed: int) -> Share:
        return Share(len(take_labelled(train, part, seed)), [])  # of each class a part

    paths = [[path for path, _ in split.pictures] for split in (train, val)]
    floor = max(Counter(label for _, label in val.pictures).values()) / len(val.pictures)
    return Labelled(train.root, paths[0], paths[1], min(counts.values()), share, floor)


TASKS = {
    "det": Task(
        "Object detection",
        "train_det",
        DetectionConfig,
        _read_coco,
        lambda config: ("segm_mAP", "mask AP") if config.model.masks else ("bbox_mAP", "box AP"),
    ),
    "seg": Task("Segmentation", "train_seg", SegmentationConfig, _read_maps, lambda config: ("mIoU", "mIoU")),
    "cls": Task(
        "Classification", "finetune", FinetuningConfig, _read_folders, lambda config: ("top1", "top-1 accuracy")
    ),
}
