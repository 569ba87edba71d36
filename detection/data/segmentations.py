"""Segmentations of COCO files, checked before pycocotools sees them: it takes memory, and writes, by what they say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from pycocotools import mask as mask_api

from convmae.detection.data.coco_records import ImageRecord, Segmentation, run_lengths
from convmae.detection.data.value_forms import NUMBERS, form, told, whole
from convmae.engine.faults import Effect, Fault, Report

LARGEST = 2**32 - 1  # pixels of a picture with masks, whose runs have 32 bits
LONGEST = 10_000_000  # pixels along a picture's outlines, of which drawing takes some hundred bytes each
WINDING = 1000  # times their picture's longer side that outlines are long at most; samples enlarge small pictures
_BYTES = ("b'", 'b"')  # what the text of bytes begins with


def read_segmentation(
    found: Any, image: ImageRecord, where: str, report: Report, drawn: dict[int, float]
) -> Segmentation:
    """Returns polygons, or run lengths as a compressed RLE of the picture's size. Raises Fault for anything else.

    ``drawn``: pixels along the outlines of each picture so far, by its id.
    """
    pixels = image.height * image.width
    if pixels > LARGEST:
        message = f"{where}: its picture {image.file_name} has {pixels} pixels; expected {LARGEST} at most: cut it up."
        raise Fault("masks of too many pixels", message, image=image)
    if isinstance(found, list):
        return _polygons(found, image, where, report, drawn)
    if not (isinstance(found, dict) and isinstance(found.get("counts"), (list, str)) and "size" in found):
        raise Fault(
            "segmentations of no known form",
            f"{where}: its segmentation is neither polygons nor an RLE with 'counts' and 'size'; found {form(found)}.",
            image=image,
        )
    size = [image.height, image.width]
    if found["size"] != size:
        swapped = " Width and height of the mask are swapped." if found["size"] == size[::-1] else ""
        raise Fault(
            "masks of another size than their picture",
            f"{where}: its mask is {told(found['size'])} (height, width), its picture {image.file_name} {size}; expected the "
            f"same size.{swapped}",
            image=image,
        )
    counts = found["counts"]
    if isinstance(counts, list) and float in set(map(type, counts)):  # 3.0 is 3, as for ids
        counts = [value if (number := whole(value)) is None else number for value in counts]
    try:
        total = _pixels(counts, pixels)
    except ValueError as error:
        printed = " They are bytes as Python prints them: write counts.decode()." if str(counts)[:2] in _BYTES else ""
        message = f"{where}: the counts of its mask are broken: {error}.{printed}"
        raise Fault("broken run lengths", message, image=image) from None
    if total != pixels:
        raise Fault(
            "broken run lengths",
            f"{where}: the runs of its mask add up to {told(total)} pixels; expected height * width of {size}.",
            image=image,
        )
    if isinstance(counts, list):
        counts = mask_api.frPyObjects({"size": size, "counts": counts}, *size)["counts"].decode()
    return {"size": size, "counts": counts}


def _pixels(counts: list[Any] | str, most: int) -> int:
    """Returns what the runs of an RLE add up to. Raises ValueError for what are no runs, or one beyond ``most`` pixels."""
    if isinstance(counts, list):
        if not set(map(type, counts)) <= {int} or min(counts, default=0) < 0:
            raise ValueError("expected whole numbers from 0")
        return sum(counts)
    runs = run_lengths(counts)
    if runs.min() < 0:
        raise ValueError("a run is negative")
    if runs.max() > most:  # of more the sum could go round
        raise ValueError(f"a run is {runs.max()} pixels; its picture has {most}")
    return int(runs.sum())


def _polygons(
    found: list[Any], image: ImageRecord, where: str, report: Report, drawn: dict[int, float]
) -> list[list[float]]:
    # Drawing takes memory by the length of an outline, so one far away is not drawn.
    reach = max(image.width, image.height)
    longest = min(LONGEST, WINDING * reach)
    parts, length = [], drawn.get(image.id, 0.0)
    for part in found:
        if not (isinstance(part, list) and len(part) % 2 == 0 and set(map(type, part)) <= NUMBERS):
            raise _no_polygons(found, image, where)
        if len(part) < 6:
            continue
        low, high = min(part), max(part)
        if not (-reach <= low and high <= 2 * reach and math.isfinite(sum(part))):
            message = (
                f"{where}: its polygon reaches from {told(low)} to {told(high)}, its picture {image.file_name} is "
            )
            raise Fault(
                "polygons far outside their picture",
                f"{message}{image.width} x {image.height}.",
                Effect.LEFT_OUT,
                image,
            )
        most = len(part) / 2 * (high - low)
        # To measure takes longer than the rest, so what is surely short counts as at most.
        length += most if length + most <= longest / 2 else _length(part)
        if length > longest:
            message = (
                f"{where}: with its polygons the outlines in {image.file_name} are {length:.3g} pixels long; expected "
                f"{longest} at most."
            )
            raise Fault("polygons without end", message, Effect.LEFT_OUT, image)
        parts.append(part)
    if len(found) > 2 and all(len(part) == 2 for part in found):
        raise _no_polygons(found, image, where)
    drawn[image.id] = length
    if not parts:
        message = f"{where}: its segmentation is {told(found)}."
        raise Fault("polygons of less than three points", message, Effect.LEFT_OUT, image)
    if len(parts) < len(found):
        message = f"{where}: {len(found) - len(parts)} of its {len(found)} polygons have less than three points."
        report(Fault("parts of less than three points", message, Effect.NOTE, image))
    return parts


def _length(polygon: list[float]) -> float:
    """Returns how many pixels are drawn along an outline."""
    points = np.array(polygon, np.float64).reshape(-1, 2)
    return float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())


def _no_polygons(found: list[Any], image: ImageRecord, where: str) -> Fault:
    expected = "expected polygons as [[x1, y1, x2, y2, ...], ...]"
    message = f"{where}: its segmentation is {told(found)}; {expected}, found {form(found)}."
    return Fault("polygons that are no lists of points", message, image=image)
