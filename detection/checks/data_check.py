"""All that is in COCO-format data and all that is wrong with it; training refuses at the first fault instead."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from convmae.detection.checks.class_names import check_learnt, check_measured
from convmae.detection.checks.perfect_detector import check_perfect, describe_scores, perfect_scores
from convmae.detection.checks.preflight import check_picture, decode_picture, under_root
from convmae.detection.checks.splits import check_evaluation, check_samples, check_split
from convmae.detection.config import DetectionConfig
from convmae.detection.data.coco import (
    CocoData,
    check_files,
    check_masks,
    check_same_classes,
    parse_coco,
)
from convmae.detection.data.coco_records import ImageRecord
from convmae.engine.errors import UserError
from convmae.engine.faults import Effect, Fault, spread
from convmae.engine.pictures.duplicates import check_repeated, check_shared, content_of
from convmae.engine.pictures.images import Look
from convmae.engine.pictures.reading import Reading
from convmae.engine.pictures.value_ranges import check_ranges


@dataclass
class SplitCheck:
    """A split and its faults; ``data`` is None where its file can't be read at all.

    ``good``: pictures that were opened and are as the file says; ``modes``: how many have each of Pillow's modes; ``perfect``:
    what a perfect detector scores by COCO's evaluation, of the validation split alone.
    """

    name: str
    annotations: Path
    data: CocoData | None = None
    faults: list[Fault] = field(default_factory=list)
    good: list[ImageRecord] = field(default_factory=list)
    modes: Counter[str] = field(default_factory=Counter)
    perfect: dict[str, float] = field(default_factory=dict)
    contents: dict[Path, bytes] = field(default_factory=dict)  # of each picture that is good

    def title(self) -> str:
        """Returns what the split holds, and where."""
        perfect = f"; a perfect detector scores {describe_scores(self.perfect)}" if self.perfect else ""
        return f"{self.data.describe()}{perfect} ({self.annotations})" if self.data else f"({self.annotations})"


def check_data(config: DetectionConfig, count: int = 0) -> list[SplitCheck]:
    """Returns the training and the validation split with all faults, having opened ``count`` pictures of each (0: all)."""
    options = config.data
    splits = [
        _check_split(
            name,
            under_root(options, annotations),
            under_root(options, images),
            config.model.masks,
            count,
            options.reading(config.model.in_chans),
        )
        for name, annotations, images in (
            ("training", options.train_annotations, options.train_images),
            ("validation", options.val_annotations, options.val_images),
        )
    ]
    for split in splits:
        if split.data is not None:
            check_repeated(split.data.paths(), split.faults.append, contents=None if count else split.contents)
    train, val = (split.data for split in splits)
    reports = [split.faults.append for split in splits]
    if train is not None:
        options.let_skip(splits[0].faults, len(train.images), count)
        check_samples(train, options, reports[0], config.model.masks)
    if val is not None:
        check_evaluation(val, options.img_size, config.model.detections, reports[1])
        if not any(fault.effect is Effect.STOPS for fault in splits[1].faults):
            splits[1].perfect = perfect_scores(val, config.model.masks)
            check_perfect(val, splits[1].perfect, reports[1])
    if train is not None and val is not None:
        check_same_classes(train, val, reports[1])
        check_learnt(train, val, reports[0])
        check_measured(val, train, reports[1])
        contents = None if count else {**splits[0].contents, **splits[1].contents}
        check_shared(train.paths(), val.paths(), reports[1], contents=contents)
    return splits


def _check_split(name: str, annotations: Path, folder: Path, masks: bool, count: int, reading: Reading) -> SplitCheck:
    split = SplitCheck(name, annotations)
    report = split.faults.append
    try:
        data = split.data = parse_coco(annotations, folder, report, reading)
    except UserError as error:
        report(Fault("files that can't be read", str(error)))
        return split
    check_split(data, report, masks)
    if masks:
        check_masks(data, report)
    try:
        check_files(data, report)
    except UserError as error:
        report(Fault("folders without the pictures", str(error)))
        return split
    missing = {fault.image for fault in split.faults if fault.kind == "missing pictures"}
    present = [image for image in data.images if image not in missing]
    chosen = spread(present, count or len(present))

    def examine(record: ImageRecord) -> tuple[Look, bytes] | Fault:
        try:
            look = check_picture(data, record)
            return look, content_of(decode_picture(data, record, look.size))
        except Fault as fault:
            return fault

    with ThreadPoolExecutor() as pool:  # decoding and waiting for a disk both let other threads run
        looks = list(tqdm(pool.map(examine, chosen), f"{name} pictures", total=len(chosen), leave=False, disable=None))
    for record, seen in zip(chosen, looks, strict=True):
        if isinstance(seen, Fault):
            report(seen)
            continue
        look, split.contents[data.path(record)] = seen
        split.good.append(record)
        split.modes[look.mode] += 1
        if look.turned:
            message = (
                f"{data.path(record)} (image {record.id}) is turned as its EXIF data says; its boxes must be so, too."
            )
            report(Fault("pictures turned by EXIF data", message, Effect.NOTE, record))
    check_ranges([data.path(record) for record in split.good], reading, report, complete=not count)
    return split
