"""What can be known to be wrong before a run starts: options that make no detector, pictures that can't be used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from convmae.backbones import SIZES
from convmae.detection.coco import CocoData, ImageRecord
from convmae.detection.config import DetectionConfig
from convmae.detection.entries import Fault
from convmae.engine.errors import UserError
from convmae.engine.images import open_image, orientation, read_image, upright_size

_ENDINGS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}  # last bytes of a whole file
_LEVELS = 5  # p2..p6


class Look(NamedTuple):
    """A picture's mode, as Pillow names it, and whether its EXIF data turns or mirrors it."""

    mode: str
    turned: bool


def check_options(config: DetectionConfig) -> None:
    """Raises UserError for options that can't work, naming the option."""
    model, data = config.model, config.data
    if data.img_size < 32:
        raise UserError(f"data.img_size is {data.img_size}; expected at least 32 pixels.")
    if len(data.jitter) != 2 or not 0 < data.jitter[0] <= data.jitter[1]:
        raise UserError(
            f"data.jitter is {data.jitter}; expected the smallest and the largest factor, such as [0.1, 2.0]."
        )
    if len(model.anchor_sizes) != _LEVELS or min(model.anchor_sizes) <= 0:
        raise UserError(f"model.anchor_sizes is {model.anchor_sizes}; expected five sizes in pixels, for p2 to p6.")
    if not model.anchor_ratios or min(model.anchor_ratios) <= 0:
        raise UserError(f"model.anchor_ratios is {model.anchor_ratios}; expected ratios such as [0.5, 1.0, 2.0].")
    if not model.box_hidden:
        raise UserError("model.box_hidden is empty; expected the width of at least one linear layer, such as [1024].")
    depth = SIZES[model.size].depths[2]
    if outside := [index for index in model.global_blocks if not 0 <= index < depth]:
        raise UserError(f"model.global_blocks has {outside}; expected blocks from 0 to {depth - 1} of '{model.size}'.")
    for name in (
        "fpn_channels",
        "window_size",
        "roi_sampled",
        "rpn_sampled",
        "pre_nms_train",
        "post_nms_train",
        "detections",
    ):
        if getattr(model, name) < 1:
            raise UserError(f"model.{name} is {getattr(model, name)}; expected at least 1.")


def check_pictures(data: CocoData, count: int) -> None:
    """Looks at ``count`` pictures spread evenly; raises Fault for one that is none, is cut off, or has another size."""
    for record in spread(data.images, count):
        check_picture(data, record)


def spread(images: Sequence[ImageRecord], count: int) -> list[ImageRecord]:
    """Returns ``count`` pictures spread evenly, or all if there are no more."""
    chosen = np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)
    return [images[number] for number in chosen.tolist()]


def check_picture(data: CocoData, record: ImageRecord) -> Look:
    """Looks at a picture, decoding it only where its last bytes don't say that it is whole; raises Fault as above."""
    path = data.path(record)
    try:
        with open_image(path) as image:
            look, size, ending = (
                Look(image.mode, orientation(image) != 1),
                upright_size(image),
                _ENDINGS.get(image.format or ""),
            )
        if ending is None or not _ends_with(path, ending):
            read_image(path)
    except UserError as error:
        raise Fault(
            "unreadable pictures", f"{error} It is image {record.id} of {data.annotations}.", image=record
        ) from None
    check_size(size, record, data)
    return look


def check_size(size: tuple[int, int], record: ImageRecord, data: CocoData) -> None:
    """Raises Fault unless a picture has the size that the JSON file says."""
    if size != (record.width, record.height):
        raise Fault(
            "pictures of another size than the JSON says",
            f"{data.path(record)} is {size[0]} x {size[1]} pixels (turned as its EXIF data says), but {data.annotations} says "
            f"{record.width} x {record.height} for image {record.id}; expected the same size.",
            image=record,
        )


def _ends_with(path: Path, ending: bytes) -> bool:
    with path.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - len(ending)))
        return file.read() == ending
