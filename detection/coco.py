"""COCO-format data: a JSON file and a folder of pictures, read into checked records."""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from pycocotools import mask as mask_api

from convmae.engine.errors import UserError

Segmentation = list[list[float]] | dict[str, Any]  # polygons x0 y0 x1 y1 ... in pixels, or a compressed RLE


@dataclass(frozen=True, slots=True)
class Category:
    """A class: its id in the file (ids may have gaps) and its name. Labels number the classes 0..K-1 in order of id."""

    id: int
    name: str


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """A picture; width and height in pixels as the JSON file says."""

    id: int
    file_name: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class ObjectRecord:
    """An annotated object; box: left, top, right, bottom in pixels; crowds count in evaluation only."""

    id: int
    label: int
    box: tuple[float, float, float, float]
    area: float
    crowd: bool
    segmentation: Segmentation | None


@dataclass
class CocoData:
    """One split. ``objects[image id]`` holds its objects, crowds included; ``dropped`` counts what was left out, by reason."""

    annotations: Path
    folder: Path
    categories: list[Category]
    images: list[ImageRecord]
    objects: dict[int, list[ObjectRecord]]
    dropped: dict[str, int] = field(default_factory=dict)

    def path(self, image: ImageRecord) -> Path:
        """Returns the file of a picture."""
        return self.folder / image.file_name

    def training_objects(self, image: ImageRecord) -> list[ObjectRecord]:
        """Returns the objects to learn from: all but crowds."""
        return [found for found in self.objects.get(image.id, []) if not found.crowd]

    def class_counts(self) -> list[int]:
        """Returns the number of objects of each class, crowds not counted."""
        counts = [0] * len(self.categories)
        for image in self.images:
            for found in self.training_objects(image):
                counts[found.label] += 1
        return counts

    def describe(self) -> str:
        """Returns one line for the log and the report."""
        objects = [found for image in self.images for found in self.objects.get(image.id, [])]
        crowds = sum(found.crowd for found in objects)
        empty = sum(not self.training_objects(image) for image in self.images)
        dropped = "".join(f"; left out: {count} {reason}" for reason, count in self.dropped.items())
        return (
            f"{len(self.images)} pictures ({empty} without objects), {len(objects) - crowds} objects of "
            f"{len(self.categories)} classes, {crowds} crowds{dropped}"
        )

    def subset(self, count: int) -> CocoData:
        """Returns the first ``count`` pictures by id that hold an object to learn from; 0 returns all."""
        if count == 0:
            return self
        chosen = [image for image in sorted(self.images, key=lambda image: image.id) if self.training_objects(image)]
        return CocoData(self.annotations, self.folder, self.categories, chosen[:count], self.objects, self.dropped)

    def ground_truth(self) -> dict[str, Any]:
        """Returns the split as the dictionary that COCO evaluation reads."""
        annotations = [
            {
                "id": found.id,
                "image_id": image.id,
                "category_id": self.categories[found.label].id,
                "bbox": [found.box[0], found.box[1], found.box[2] - found.box[0], found.box[3] - found.box[1]],
                "area": found.area,
                "iscrowd": int(found.crowd),
                **({} if found.segmentation is None else {"segmentation": found.segmentation}),
            }
            for image in self.images
            for found in self.objects.get(image.id, [])
        ]
        return {
            "info": {},
            "images": [{"id": image.id, "width": image.width, "height": image.height} for image in self.images],
            "categories": [{"id": category.id, "name": category.name} for category in self.categories],
            "annotations": annotations,
        }


def read_coco(annotations: Path, folder: Path, masks: bool = True) -> CocoData:
    """Returns the split that a COCO JSON file describes, its pictures lying in ``folder``.

    With ``masks`` each object needs a segmentation. Raises UserError naming file and id for anything that isn't COCO, names a
    missing picture, image or category, or has a mask of another size than its picture. Objects without area are left out and
    counted.
    """
    content = _read_json(annotations)
    categories = _categories(content["categories"], annotations)
    images = _images(content["images"], annotations)
    _check_files(images, folder, annotations)
    data = CocoData(annotations, folder, categories, images, defaultdict(list))
    labels = {category.id: label for label, category in enumerate(categories)}
    by_id = {image.id: image for image in images}
    dropped: dict[str, int] = defaultdict(int)
    seen: set[int] = set()
    for entry in content["annotations"]:
        where = f"{annotations}: annotation {entry.get('id') if isinstance(entry, dict) else entry!r}"
        entry = _keys(entry, where, ("id", "image_id", "category_id", "bbox"))
        if entry["id"] in seen:
            raise UserError(f"{where}: the id occurs twice; expected every annotation to have its own.")
        seen.add(entry["id"])
        if entry["image_id"] not in by_id:
            raise UserError(f"{where} belongs to image {entry['image_id']!r}, which the file's 'images' don't list.")
        if entry["category_id"] not in labels:
            raise UserError(
                f"{where} has category {entry['category_id']!r}; the file's 'categories' list {_some(labels)}."
            )
        image = by_id[entry["image_id"]]
        found = _object(entry, labels[entry["category_id"]], image, masks, where)
        if isinstance(found, str):
            dropped[found] += 1
        else:
            data.objects[image.id].append(found)
    data.dropped = dict(dropped)
    data.objects = dict(data.objects)
    return data


def read_classes(annotations: Path) -> list[Category]:
    """Returns the classes that a COCO JSON file lists, in order of label. Raises UserError for a file that isn't COCO."""
    return _categories(_read_json(annotations)["categories"], annotations)


def check_same_classes(first: CocoData, second: CocoData) -> None:
    """Raises UserError unless both splits list the same classes under the same ids."""
    if first.categories == second.categories:
        return
    ours, theirs = set(first.categories), set(second.categories)
    differing = sorted(ours ^ theirs, key=lambda category: category.id)[0]
    holder, other = (first, second) if differing in ours else (second, first)
    raise UserError(
        f"{holder.annotations} has the class {differing.id} {differing.name!r}, {other.annotations} has not; expected both "
        "splits to list the same classes under the same ids."
    )


def _read_json(path: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"There is no annotation file {path}; expected a COCO JSON file (instances_*.json).") from None
    except OSError as error:
        raise UserError(f"The annotation file {path} can't be read: {error.strerror}.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not JSON ({error}); expected a COCO annotation file.") from None
    parts = ("images", "annotations", "categories")
    if not isinstance(content, dict):
        raise UserError(
            f"{path} holds a JSON {type(content).__name__}; expected COCO's object with {', '.join(parts)}."
        )
    for part in parts:
        if not isinstance(content.get(part), list):
            found = ", ".join(list(map(str, content))[:8]) or "nothing"
            raise UserError(
                f"{path} is not COCO: it has no list {part!r} (found: {found}); expected {', '.join(parts)}."
            )
    if not content["images"] or not content["categories"]:
        empty = "images" if not content["images"] else "categories"
        raise UserError(f"{path}: the list {empty!r} is empty; expected at least one.")
    return content


def _categories(entries: list[Any], path: Path) -> list[Category]:
    categories = []
    for number, entry in enumerate(entries):
        entry = _keys(entry, f"{path}: category number {number}", ("id", "name"))
        categories.append(Category(entry["id"], str(entry["name"])))
    _check_unique(categories, f"{path}: category")
    return sorted(categories, key=lambda category: category.id)


def _images(entries: list[Any], path: Path) -> list[ImageRecord]:
    images = []
    for number, entry in enumerate(entries):
        entry = _keys(entry, f"{path}: image number {number}", ("id", "file_name", "width", "height"))
        width, height = entry["width"], entry["height"]
        if not (isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0):
            raise UserError(f"{path}: image {entry['id']} is {width!r} x {height!r}; expected whole, positive sizes.")
        images.append(ImageRecord(entry["id"], str(entry["file_name"]), width, height))
    _check_unique(images, f"{path}: image")
    return images


def _check_files(images: list[ImageRecord], folder: Path, path: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"There is no picture folder {folder}; expected the pictures that {path} names.")
    missing = [image for image in images if not os.path.isfile(folder / image.file_name)]
    if not missing:
        return
    if len(missing) == len(images):
        raise UserError(
            f"The folder {folder} holds none of the {len(images)} pictures that {path} names (the first is "
            f"{images[0].file_name}); is it the right folder?"
        )
    raise UserError(
        f"{folder / missing[0].file_name} is missing (image {missing[0].id} of {path}"
        + (f", and {len(missing) - 1} more)." if len(missing) > 1 else ").")
    )


def _object(entry: dict[str, Any], label: int, image: ImageRecord, masks: bool, where: str) -> ObjectRecord | str:
    """Returns the record, or the reason to leave it out."""
    numbers = entry["bbox"]
    if not (isinstance(numbers, list) and len(numbers) == 4 and all(map(_is_number, numbers))):
        raise UserError(f"{where}: its bbox is {numbers!r}; expected [left, top, width, height] in pixels.")
    left, top, width, height = map(float, numbers)
    if width <= 0 or height <= 0:
        return "boxes without area"
    if left >= image.width or top >= image.height or left + width <= 0 or top + height <= 0:
        return "boxes outside their picture"
    crowd = bool(entry.get("iscrowd", 0))
    segmentation = entry.get("segmentation") or None
    if segmentation is None and masks and not crowd:
        raise UserError(
            f"{where} has no segmentation; for data with boxes alone, train without masks: model.masks=false."
        )
    if segmentation is not None:
        segmentation = _segmentation(segmentation, image, where)
        if segmentation is None:
            return "polygons of less than three points"
    area = entry.get("area")
    if not _is_number(area):
        area = width * height if segmentation is None else mask_area(segmentation, image.height, image.width)
    box = (left, top, left + width, top + height)
    return ObjectRecord(entry["id"], label, box, float(area), crowd, segmentation)


def _segmentation(found: Any, image: ImageRecord, where: str) -> Segmentation | None:
    if isinstance(found, list):
        if not all(isinstance(part, list) and len(part) % 2 == 0 and all(map(_is_number, part)) for part in found):
            raise UserError(f"{where}: its polygons are not lists of x, y pairs.")
        return [part for part in found if len(part) >= 6] or None
    if not (isinstance(found, dict) and isinstance(found.get("counts"), (list, str)) and "size" in found):
        raise UserError(f"{where}: its segmentation is neither polygons nor an RLE with 'counts' and 'size'.")
    size = list(found["size"]) if isinstance(found["size"], list) else found["size"]
    if size != [image.height, image.width]:
        raise UserError(
            f"{where}: its mask is {size} (height, width), its picture {image.file_name} {[image.height, image.width]}; "
            "expected the same size."
        )
    counts = found["counts"]
    if isinstance(counts, str):
        return {"size": size, "counts": counts}
    if not all(isinstance(run, int) and run >= 0 for run in counts) or sum(counts) != image.height * image.width:
        raise UserError(
            f"{where}: the runs of its mask add up to {sum(counts)} pixels; expected height * width of {size}."
        )
    compressed = mask_api.frPyObjects(found, *size)
    return {"size": size, "counts": compressed["counts"].decode()}


def mask_area(segmentation: Segmentation, height: int, width: int) -> float:
    """Returns the number of pixels of a segmentation on a picture of that size."""
    return float(mask_api.area(to_rle(segmentation, height, width)))


def to_rle(segmentation: Segmentation, height: int, width: int) -> dict[str, Any]:
    """Returns a segmentation as compressed RLE; polygons are drawn on a canvas of that size."""
    if isinstance(segmentation, dict):
        return segmentation
    return mask_api.merge(mask_api.frPyObjects(segmentation, height, width))


def _keys(entry: Any, where: str, keys: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise UserError(f"{where} is a {type(entry).__name__}; expected an object with {', '.join(keys)}.")
    missing = [key for key in keys if key not in entry]
    if missing:
        raise UserError(f"{where} has no {missing[0]!r}; expected {', '.join(keys)}.")
    if isinstance(entry["id"], bool) or not isinstance(entry["id"], int):
        raise UserError(f"{where}: its id is {entry['id']!r}; expected a whole number.")
    return entry


def _check_unique(records: Iterable[Category] | Iterable[ImageRecord], where: str) -> None:
    seen: set[int] = set()
    for record in records:
        if record.id in seen:
            raise UserError(f"{where} id {record.id} occurs twice; expected every id once.")
        seen.add(record.id)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _some(labels: Mapping[int, int]) -> str:
    ids = sorted(labels)
    return ", ".join(map(str, ids[:10])) + (f", ... {ids[-1]}" if len(ids) > 10 else "")
