"""What a run checks before it starts: options that make no detector, splits as they are read, pictures that can't be used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from convmae.detection.checks.class_names import check_learnt, check_measured
from convmae.detection.checks.splits import check_evaluation, check_samples, check_split
from convmae.detection.config import DetectionConfig, DetectionDataOptions
from convmae.detection.data.coco import CocoData, ImageRecord, check_objects, check_same_classes, check_size, read_coco
from convmae.detection.evaluation.coco_scores import COUNTED
from convmae.engine.errors import UserError
from convmae.engine.faults import UNREADABLE, Fault, Report, as_fault, log_remarks, refuse, spread
from convmae.engine.log import log
from convmae.engine.pictures.duplicates import check_shared
from convmae.engine.pictures.images import Look, Picture, look_at, read_image
from convmae.engine.pictures.limits import in_turn
from convmae.engine.pictures.value_ranges import check_ranges
from convmae.engine.shares import log_share, take_share


def check_options(config: DetectionConfig) -> None:
    """Raises UserError for options that can't work, naming the option."""
    from convmae.backbones import SIZES  # here, because timm takes seconds to import and a data check needs none of it

    model, data = config.model, config.data
    config.inference.sides(data.img_size)
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


def read_splits(
    options: DetectionDataOptions, masks: bool, detections: int = COUNTED, channels: int = 3
) -> tuple[CocoData, CocoData]:
    """Returns the training and the validation split, checked before anything runs, and logs what was found.

    detections: how many a detector keeps of a picture; channels: of the pictures that it sees.
    """
    train = _read_split(options, options.train_annotations, options.train_images, masks, channels)
    train.check(lambda data, report: check_samples(data, options, report, masks))
    whole = len(train.images)
    train = take_images(train, options.share, options.share_seed, options.keep_empty)
    log_share(len(train.images), whole, options.share, options.share_seed)
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
        return take_images(whole, options.share, options.share_seed, options.keep_empty).subset(options.limit)
    val = _read_split(options, options.val_annotations, options.val_images, masks, channels)
    val.check(lambda data, report: check_evaluation(data, options.img_size, detections, report))
    return val


def _read_split(options: DetectionDataOptions, annotations: str, images: str, masks: bool, channels: int) -> CocoData:
    reading = options.reading(channels)
    data = read_coco(under_root(options, annotations), under_root(options, images), masks, reading)
    data.check(lambda data, report: check_split(data, report, masks))
    return data


def take_images(data: CocoData, share: float, seed: int, keep_empty: bool = True) -> CocoData:
    """Returns a split with a share, as ``engine/shares.py`` draws it, of the pictures that are trained on.

    Raises UserError for one without objects.
    """
    if share == 1:
        return data
    pictures = data.images if keep_empty else data.with_objects()
    taken = replace(data, images=take_share(pictures, share, seed, lambda image: image.file_name))
    if not taken.with_objects():
        data.check(check_objects)  # none on any picture
        refuse(
            Fault(
                "shares without objects",
                f"{data.annotations}: the {len(taken.images)} pictures that data.share={share:g} takes by data.share_seed="
                f"{seed} hold no object; expected at least one: take a larger share, or another seed.",
            )
        )
    return taken


def under_root(options: DetectionDataOptions, path: str) -> Path:
    """Returns where a path of the options lies."""
    return Path(options.root, path)


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


def check_picture(data: CocoData, record: ImageRecord) -> Look:
    """Looks at a picture, decoding it where its last bytes don't say that it is whole; raises Fault as above."""
    with _named(data, record):
        look = look_at(data.path(record), data.reading)
    check_size(look.size, record, data)
    return look


def decode_picture(data: CocoData, record: ImageRecord, size: tuple[int, int]) -> Picture:
    """Returns a picture of ``size``, width and height, large ones one after the other. Raises Fault for one that is broken."""
    with _named(data, record), in_turn(size):
        return read_image(data.path(record), data.reading)


@contextmanager
def _named(data: CocoData, record: ImageRecord) -> Iterator[None]:
    """Makes what is wrong with a picture a Fault of its record."""
    try:
        yield
    except UserError as error:
        kind = as_fault(error, UNREADABLE).kind
        raise Fault(kind, f"{error} It is image {record.id} of {data.annotations}.", image=record) from None
