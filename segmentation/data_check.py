"""All that is in pictures with label maps and all that is wrong with it; training refuses at the first faults instead."""

from __future__ import annotations

from collections.abc import Sequence

from convmae.engine.faults import SHOWN, Effect, Fault
from convmae.segmentation.check import Found, check_split
from convmae.segmentation.config import SegmentationDataOptions


def check_data(
    options: SegmentationDataOptions, classes: Sequence[str], count: int = 0, channels: int = 3
) -> list[Found]:
    """Returns the training and the validation split with all faults, having decoded ``count`` pairs of each (0: all)."""
    names = ("training", "validation")
    splits = [check_split(name, options, len(classes), count or None, count or None, channels) for name in names]
    if not count or count >= max(len(split.pairs) for split in splits):  # a sample does not tell what is nowhere
        _check_seen_classes(splits, classes)
    return splits


def _check_seen_classes(splits: Sequence[Found], classes: Sequence[str]) -> None:
    """Reports on the last split the classes that one split alone has pixels of, and those that none has."""
    train, val = splits
    if not (train.decoded and val.decoded):
        return
    absent = [name for name, pixels in zip(classes, train.pixels + val.pixels, strict=True) if not pixels]
    if absent:
        more = f"; and {len(absent) - SHOWN} more" if len(absent) > SHOWN else ""
        message = f"No label map holds {'; '.join(absent[:SHOWN])}{more}: neither learnt nor counted."
        val.faults.append(Fault("lists with classes that no label map holds", message, Effect.NOTE))
    for label, name in enumerate(classes):
        seen = [split for split in splits if split.pixels[label]]
        if len(seen) == 1:
            (other,) = (split for split in splits if split is not seen[0])
            message = (
                f"{other.labels} has no pixel of {name!r}, {seen[0].labels} has {seen[0].pixels[label]:,} in "
                f"{seen[0].pictures[label]:,} pictures."
            )
            val.faults.append(Fault("classes with pixels in one split alone", message, Effect.NOTE))
