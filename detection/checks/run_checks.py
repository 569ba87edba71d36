"""What can be known to be wrong before a run starts: options that make no detector, pictures that can't be used."""

from __future__ import annotations

from convmae.backbones import SIZES
from convmae.detection.config import DetectionConfig
from convmae.detection.data.coco import CocoData, ImageRecord
from convmae.engine.errors import UserError
from convmae.engine.faults import UNREADABLE, Fault, Report, as_fault, refuse, spread
from convmae.engine.pictures.images import Look, look_at, read_image
from convmae.engine.pictures.limits import in_turn
from convmae.engine.pictures.value_ranges import check_ranges


def check_options(config: DetectionConfig) -> None:
    """Raises UserError for options that can't work, naming the option."""
    model, data = config.model, config.data
    if data.jitter[0] > data.jitter[1]:
        raise UserError(
            f"data.jitter is {data.jitter}; expected the smallest and the largest factor, such as [0.1, 2.0]."
        )
    if not model.anchor_ratios:
        raise UserError("model.anchor_ratios is empty; expected ratios such as [0.5, 1.0, 2.0].")
    if not model.box_hidden:
        raise UserError("model.box_hidden is empty; expected the width of at least one linear layer, such as [1024].")
    depth = SIZES[model.size].depths[2]
    if outside := [index for index in model.global_blocks if not 0 <= index < depth]:
        raise UserError(f"model.global_blocks has {outside}; expected blocks from 0 to {depth - 1} of '{model.size}'.")


def check_pictures(data: CocoData, count: int, report: Report = refuse, skip: bool = False) -> None:
    """Looks at ``count`` pictures spread evenly, and at what the values of all lie in; reports what may not be meant.

    Raises Fault for a picture that is none or is cut off, unless the run is to ``skip`` such, or that has another size.
    """
    for record in spread(data.images, count):
        try:
            check_picture(data, record)
        except Fault as fault:
            if not (skip and fault.kind == UNREADABLE):
                raise
    check_ranges(data.paths(), data.reading, report)


def check_picture(data: CocoData, record: ImageRecord, decode: bool = False) -> Look:
    """Looks at a picture, decoding it on demand or where its last bytes don't say that it is whole; raises Fault as above."""
    try:
        look = look_at(data.path(record), data.reading)
        if decode:
            with in_turn(look.size):
                read_image(data.path(record), data.reading)
    except UserError as error:
        kind = as_fault(error, UNREADABLE).kind
        raise Fault(kind, f"{error} It is image {record.id} of {data.annotations}.", image=record) from None
    check_size(look.size, record, data)
    return look


def check_size(size: tuple[int, int], record: ImageRecord, data: CocoData) -> None:
    """Raises Fault unless a picture has the size that the JSON file says."""
    if size != (record.width, record.height):
        swapped = "; width and height are swapped, perhaps by a tool that passes over EXIF data"
        raise Fault(
            "pictures of another size than the JSON says",
            f"{data.path(record)} is {size[0]} x {size[1]} pixels (turned as its EXIF data says), but {data.annotations} says "
            f"{record.width} x {record.height} for image {record.id}; expected the same size"
            f"{swapped if size == (record.height, record.width) else ''}.",
            image=record,
        )
