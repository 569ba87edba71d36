"""The entries of a COCO file, checked one by one: every fault that a file can have is defined here.

Training refuses the first fault that stops it; `tools/check_data.py` collects them all. Both give what to do with one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from convmae.detection.data.coco_records import Category, ImageRecord, ObjectRecord, mask_area
from convmae.detection.data.missing_pictures import leads_out
from convmae.detection.data.segmentations import read_segmentation
from convmae.detection.data.value_forms import NUMBERS, form, meant, told, unquote, whole
from convmae.engine.faults import Effect, Fault, Report
from convmae.engine.pictures.limits import check_pixels
from convmae.engine.pictures.reading import MAX_PIXELS

_LARGEST_ID = 2**63 - 1
_LONGEST = 2**31 - 1  # side of a picture
_IDS = {"id", "image_id", "category_id"}
_NO_MASKS: tuple[Any, ...] = (None, [], {}, [[]], "")
OUTSIDE = "boxes outside their picture"
T = TypeVar("T", Category, ImageRecord)


def read_categories(entries: list[Any], path: Path, report: Report) -> list[Category]:
    """Returns the classes in order of id."""
    categories = []
    for number, entry in enumerate(entries):
        try:
            entry = _keys(entry, f"{path}: category number {number}", ("id", "name"))
            if isinstance(entry["name"], (list, dict)):
                message = f"{path}: category {entry['id']}: its name is {told(entry['name'])}; expected a text."
                raise Fault("classes without a name", message)
            name = "" if entry["name"] is None else str(entry["name"])
            categories.append(Category(entry["id"], name))
        except Fault as fault:
            report(fault)
    return sorted(_unique(categories, f"{path}: category", report), key=lambda category: category.id)


def read_images(entries: list[Any], path: Path, report: Report, max_pixels: int = MAX_PIXELS) -> list[ImageRecord]:
    """Returns the pictures in the file's order; those said to have more than ``max_pixels`` are a fault."""
    images = []
    for number, entry in enumerate(entries):
        try:
            entry = _keys(entry, f"{path}: image number {number}", ("id", "file_name", "width", "height"))
            width, height = whole(entry["width"]), whole(entry["height"])
            if not (width and height and width > 0 and height > 0):
                found, advice = f"{told(entry['width'])} x {told(entry['height'])}", unquote(entry["width"])
                message = f"{path}: image {entry['id']} is {found}; expected whole, positive sizes{advice}."
                raise Fault("pictures of no size", message)
            if max(width, height) > _LONGEST:
                message = f"{path}: image {entry['id']} is {told(width)} x {told(height)}; expected {_LONGEST} at most."
                raise Fault("pictures of too many pixels", message)
            check_pixels(f"{path}: image {entry['id']}", (width, height), max_pixels)
            name = entry["file_name"]
            if type(name) not in (str, int) or name == "":
                message = f"{path}: image {entry['id']}: its file_name is {told(name)}; expected a file in the folder."
                raise Fault("pictures without a name", message)
            if leads_out(str(name)):
                message = (
                    f"{path}: image {entry['id']}: its file_name {str(name)!r} leads out of the picture folder; "
                    "write the names relative to that folder, as train/1.jpg, or give a folder further up."
                )
                raise Fault("names that lead out of the picture folder", message)
            # Links in the folder are followed, but not from where they lead back up.
            name = os.path.normpath(name) if ".." in str(name) else str(name)
            images.append(ImageRecord(entry["id"], name, width, height))
        except Fault as fault:
            report(fault)
    return _unique(images, f"{path}: image", report)


def read_objects(
    content: dict[str, list[Any]], categories: list[Category], images: list[ImageRecord], path: Path, report: Report
) -> dict[int, list[ObjectRecord]]:
    """Returns the objects of each picture that has some, by its id; what is reported and not refused is left out.

    What belongs to a picture or class that was reported is passed over: the fault is not the object's.
    """
    labels = {category.id: label for label, category in enumerate(categories)}
    by_id = {image.id: image for image in images}
    names = {
        "image_id": {image.file_name: f"image {image.id}" for image in images},
        "category_id": {category.name: f"category {category.id}" for category in categories},
    }
    reported = _ids(content["images"]) - by_id.keys(), _ids(content["categories"]) - labels.keys()
    # [[]] stands for no mask where nothing else does; among masks it is one that was lost.
    masked = any(
        isinstance(entry, dict) and entry.get("segmentation") not in _NO_MASKS for entry in content["annotations"]
    )
    known = _some(categories)
    drawn: dict[int, float] = {}
    seen: set[int] = set()
    objects: dict[int, list[ObjectRecord]] = {}
    for entry in content["annotations"]:
        where = f"{path}: annotation {_identity(entry)}"
        image = None
        try:
            entry = _keys(entry, where, ("id", "image_id", "category_id", "bbox"), names)
            image, label = by_id.get(entry["image_id"]), labels.get(entry["category_id"])
            if entry["id"] in seen:
                message = f"{where}: the id occurs twice; expected every annotation to have its own."
                raise Fault("annotation ids that occur twice", message, image=image)
            seen.add(entry["id"])
            if entry["image_id"] in reported[0] or entry["category_id"] in reported[1]:
                continue
            if image is None:
                message = f"{where} belongs to image {entry['image_id']}, which the file's 'images' don't list."
                raise Fault("objects of unknown pictures", message)
            if label is None:
                message = f"{where} has category {entry['category_id']}; the file's 'categories' list {known}."
                raise Fault("objects of unknown classes", message, image=image)
            if not masked:
                entry = {**entry, "segmentation": None}
            objects.setdefault(image.id, []).append(_object(entry, label, image, where, report, drawn))
        except Fault as fault:
            report(fault)
    return objects


def _object(
    entry: dict[str, Any], label: int, image: ImageRecord, where: str, report: Report, drawn: dict[int, float]
) -> ObjectRecord:
    numbers = entry["bbox"]
    if not (isinstance(numbers, list) and len(numbers) == 4 and all(map(_is_number, numbers))):
        raise Fault(
            "boxes that are no four numbers",
            f"{where}: its bbox is {told(numbers)}; expected [left, top, width, height] in pixels, found {form(numbers)}.",
            image=image,
        )
    left, top, width, height = map(float, numbers)
    size = f"its picture {image.file_name} is {image.width} x {image.height}"
    if left + width <= left or top + height <= top:  # a far one has none among floats, whatever its sides
        raise Fault("boxes without area", f"{where}: its bbox is {numbers}.", Effect.LEFT_OUT, image)
    if left >= image.width or top >= image.height or left + width <= 0 or top + height <= 0:
        raise Fault(OUTSIDE, f"{where}: its bbox is {numbers}, {size}.", Effect.LEFT_OUT, image)
    if min(left, top) < -1 or left + width > image.width + 1 or top + height > image.height + 1:
        report(Fault("boxes partly outside", f"{where}: its bbox is {numbers}, {size}.", Effect.NOTE, image))
    crowd = entry.get("iscrowd", 0)
    if crowd not in (0, 1, None):
        raise Fault("odd crowd flags", f"{where}: its iscrowd is {told(crowd)}; expected 0 or 1.", image=image)
    segmentation = entry.get("segmentation") or None
    if segmentation is not None:
        segmentation = read_segmentation(segmentation, image, where, report, drawn)
    area = entry.get("area")
    if _is_number(area) and area <= 0:
        message = f"{where}: its area is {area}; it is taken from its {'box' if segmentation is None else 'mask'}."
        report(Fault("areas that are not above 0", message, Effect.NOTE, image))
    if not _is_number(area) or area <= 0:
        area = width * height if segmentation is None else mask_area(segmentation, image.height, image.width)
    box = (left, top, left + width, top + height)
    return ObjectRecord(entry["id"], label, box, float(area), bool(crowd), segmentation)


def missing_segmentation(number: int, path: Path, image: ImageRecord | None = None) -> Fault:
    """Returns the fault of an object that has no mask to learn from."""
    return Fault(
        "objects without a segmentation",
        f"{path}: annotation {number} has no segmentation; for data with boxes alone, train without masks: model.masks=false.",
        image=image,
    )


def _keys(
    entry: Any, where: str, keys: tuple[str, ...], names: Mapping[str, Mapping[str, str]] | None = None
) -> dict[str, Any]:
    """Returns an entry that has all ``keys``, ids among them as whole numbers; ``names``: what could be taken for an id."""
    if not isinstance(entry, dict):
        raise Fault(
            "incomplete entries", f"{where} is a {type(entry).__name__}; expected an object with {', '.join(keys)}."
        )
    for key in keys:
        if key not in entry:
            raise Fault("incomplete entries", f"{where} has no {key!r}; expected {', '.join(keys)}.")
    for key in filter(_IDS.__contains__, keys):
        value = entry[key]
        number = whole(value)
        if number is None or abs(number) > _LARGEST_ID:
            named = (names or {}).get(key, {}).get(value) if isinstance(value, str) else None
            advice = f": that is the name of {named}" if named else unquote(value)
            raise Fault("odd ids", f"{where}: its {key} is {told(value)}; expected a whole number{advice}.")
        if number is not value:
            entry = {**entry, key: number}
    return entry


def _unique(records: Iterable[T], where: str, report: Report) -> list[T]:
    known: dict[int, T] = {}
    for record in records:
        if record.id in known:
            report(Fault("ids that occur twice", f"{where} id {record.id} occurs twice; expected every id once."))
        else:
            known[record.id] = record
    return list(known.values())


def _identity(entry: Any) -> Any:
    """Returns what an entry is told by: its id, or itself where it is no object."""
    found = entry.get("id") if isinstance(entry, dict) else entry
    return found if type(found) is int and abs(found) <= _LARGEST_ID else told(found)


def _ids(entries: list[Any]) -> set[int]:
    ids = (meant(entry.get("id")) for entry in entries if isinstance(entry, dict))
    return {found for found in ids if found is not None}


def _is_number(value: Any) -> TypeGuard[float]:
    return type(value) in NUMBERS and abs(value) < 1e30  # of which a NaN is none


def _some(categories: list[Category]) -> str:
    ids = [category.id for category in categories]
    return ", ".join(map(str, ids[:10])) + (f", ... {ids[-1]}" if len(ids) > 10 else "")
