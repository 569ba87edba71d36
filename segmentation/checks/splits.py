"""What a split holds and what is wrong with it, found by looking at every picture and label map."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from convmae.engine.errors import UserError
from convmae.engine.faults import UNREADABLE, Effect, Fault, as_fault, spread
from convmae.engine.pictures.duplicates import check_repeated, content_of
from convmae.engine.pictures.images import Look, Picture, look_at, read_image
from convmae.engine.pictures.limits import in_turn
from convmae.engine.pictures.reading import Reading
from convmae.engine.pictures.value_ranges import check_ranges
from convmae.engine.shares import log_share, take_share
from convmae.segmentation.config import SegmentationDataOptions
from convmae.segmentation.data.found import Found
from convmae.segmentation.data.label_values import LabelValues, measure
from convmae.segmentation.data.layout import (
    Pair,
    check_mode,
    check_size,
    check_values,
    find_pairs,
    read_values,
    split_folders,
    unreadable_label,
)


def check_split(
    name: str,
    options: SegmentationDataOptions,
    num_classes: int,
    decode: int | None,
    look: int | None = None,
    channels: int = 3,
) -> Found:
    """Pairs the files of "training" or "validation" and returns what is there and all faults.

    Of the training split ``data.share`` is taken. Of ``look`` pairs, spread evenly (None: all), the label map is decoded and
    the picture's header read; of ``decode`` of them (None: all) the picture is decoded, too, as is one that ends before its
    format's end mark.
    """
    reading = options.reading(channels)
    found = Found(name, *split_folders(options, name), reading=reading)
    found.pixels, found.pictures = np.zeros(num_classes, np.int64), np.zeros(num_classes, np.int64)
    try:
        found.pairs = find_pairs(found.images, found.labels, found.faults.append)
    except UserError as error:
        found.faults.append(Fault("folders that can't be used", str(error)))
        return found
    if name == "training":
        pairs = take_pairs(found, options.share, options.share_seed)
        log_share(len(pairs), len(found.pairs), options.share, options.share_seed)
        found.pairs = pairs
    pairs = spread(found.pairs, len(found.pairs) if look is None else look)
    chosen = set(spread(pairs, len(pairs) if decode is None else decode))

    def examine(pair: Pair) -> tuple[Look, Look, LabelValues] | Fault:
        try:
            image, label = _look(pair, reading)
            with in_turn(image.size):
                if pair in chosen:
                    found.contents[pair.image] = content_of(_decode(pair.image, reading))
                return image, label, measure(*read_values(pair.label, reading.max_pixels))
        except Fault as fault:
            fault.image = pair
            return fault

    with ThreadPoolExecutor() as pool:  # decoding and waiting for a disk both let other threads run
        progress = tqdm(pool.map(examine, pairs), f"{name} pictures", total=len(pairs), leave=False, disable=None)
        for pair, seen in zip(pairs, progress, strict=True):
            if isinstance(seen, Fault):
                found.faults.append(seen)
                continue
            image, label, values = seen
            _add_values(found, pair, values)
            try:
                check_values(pair.label, values.counts, num_classes, options.reduce_zero_label)
            except Fault as fault:
                fault.image = pair
                found.faults.append(fault)
            else:
                _add(found, pair, image, label, values.counts, int(options.reduce_zero_label))
    found.decoded = sum(pair in chosen for pair in found.good)
    check_ranges([pair.image for pair in found.good], reading, found.faults.append, complete=decode is None)
    return found


def take_pairs(found: Found, share: float, seed: int) -> list[Pair]:
    """Returns a share of a split's pairs, as ``engine/shares.py`` draws it."""
    return take_share(
        found.pairs, share, seed, lambda pair: pair.image.relative_to(found.images).with_suffix("").as_posix()
    )


def check_repeated_pairs(found: Found, contents: Mapping[Path, bytes] | None = None) -> None:
    """Adds to a split's faults the pictures that it holds more than once, and which of them have two label maps."""
    in_order, limit = set(found.good), found.reading.max_pixels

    def contradiction(first: int, place: int) -> str | None:
        known, pair = found.pairs[first], found.pairs[place]
        if not {known, pair} <= in_order:
            return None
        if np.array_equal(read_values(known.label, limit)[0], read_values(pair.label, limit)[0]):
            return None
        return f"{pair.label} and {known.label} differ"

    check_repeated(found.paths(), found.faults.append, contradiction, contents, "pictures with two label maps")


def _add_values(found: Found, pair: Pair, values: LabelValues) -> None:
    found.maps += 1
    found.values += values.counts
    found.most_values = max(found.most_values, int(np.count_nonzero(values.counts)))
    if values.smooth:
        message = (
            f"{pair.label}: where labels change, pixels have values between them, as after smooth resizing or JPEG; they are "
            "read as other classes. Export it anew, or resize by the nearest pixel."
        )
        found.faults.append(Fault("label maps whose edges run smoothly", message, Effect.DOUBTFUL, pair))
    for value, colour in values.colours.items():
        known, path = found.colours.setdefault(value, (colour, pair.label))
        if known != colour:
            message = (
                f"{pair.label} shows label {value} in the colour {colour}, {path} in {known}; what saved them may have "
                "numbered the colours anew in each file."
            )
            found.faults.append(Fault("label maps with another palette", message, Effect.DOUBTFUL, pair))
            break


def _add(found: Found, pair: Pair, image: Look, label: Look, counts: NDArray[np.int64], first: int) -> None:
    """Takes in a label map that is in order; ``first`` is the label of the first class."""
    found.good.append(pair)
    found.sizes.append(image.size)
    found.modes[image.mode] += 1
    found.label_modes[label.mode] += 1
    if image.turned:
        message = f"{pair.image} is turned as its EXIF data says; its label map must be so, too."
        found.faults.append(Fault("pictures turned by EXIF data", message, Effect.NOTE, pair))
    of_class = counts[first : first + len(found.pixels)]
    found.pixels += of_class
    found.pictures += of_class > 0
    found.ignored += int(counts.sum() - of_class.sum())
    if not of_class.any():
        message = f"{pair.label}: every pixel is ignored, so that nothing is learnt or counted from it."
        found.faults.append(Fault("label maps that are all ignored", message, Effect.NOTE, pair))


def _look(pair: Pair, reading: Reading) -> tuple[Look, Look]:
    """Looks at the files of a pair; raises Fault where one is unreadable, or the label map is none of the picture."""
    try:
        image = look_at(pair.image, reading)
    except UserError as error:
        raise as_fault(error, UNREADABLE) from None
    try:
        label = look_at(pair.label, replace(reading, channels=1))
    except UserError as error:
        raise unreadable_label(error) from None
    check_mode(pair.label, label.mode)
    check_size(pair, label.size, image.size)
    return image, label


def _decode(path: Path, reading: Reading) -> Picture:
    """Returns a picture. Raises Fault for a broken one."""
    try:
        return read_image(path, reading)
    except UserError as error:
        raise as_fault(error, UNREADABLE) from None
