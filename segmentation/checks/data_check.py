"""All that is in pictures with label maps and all that is wrong with it; training refuses at the first faults instead."""

from __future__ import annotations

from convmae.engine.pictures.duplicates import check_shared
from convmae.segmentation.checks.class_fit import check_fit
from convmae.segmentation.checks.splits import check_repeated_pairs, check_split
from convmae.segmentation.config import SegmentationDataOptions
from convmae.segmentation.data.class_list import ClassList
from convmae.segmentation.data.found import Found


def check_data(options: SegmentationDataOptions, classes: ClassList, count: int = 0, channels: int = 3) -> list[Found]:
    """Returns the training and the validation split with all faults, having decoded ``count`` pairs of each (0: all)."""
    number, decode = len(classes.names), count or None
    training, validation = (
        check_split(name, options, number, decode, decode, channels) for name in ("training", "validation")
    )
    whole = not count or count >= max(
        len(training.pairs), len(validation.pairs)
    )  # a sample does not tell what is nowhere
    check_fit(training, classes, options.reduce_zero_label, whole=whole)
    check_fit(validation, classes, options.reduce_zero_label, training, whole)
    for split in (training, validation):
        check_repeated_pairs(split, None if count else split.contents)
    options.let_skip(training.faults, len(training.pairs), count)
    contents = None if count else {**training.contents, **validation.contents}
    check_shared(training.paths(), validation.paths(), validation.faults.append, contents=contents)
    return [training, validation]
