"""COCO-format data: a JSON file and a folder of pictures, read into checked records."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmae.detection.data import (
    annotation_entries,
    coco_records,
    missing_pictures,
    packed_objects,
    segmentations,
    unread_keys,
    value_forms,
)
from convmae.detection.data.annotation_cache import cache_path, load_arrays, save_arrays, stamp
from convmae.detection.data.annotation_entries import missing_segmentation
from convmae.detection.data.annotation_file import PREDICT, read_json
from convmae.detection.data.coco_records import Category, ImageRecord, ObjectRecord
from convmae.detection.data.missing_pictures import Reasons
from convmae.detection.data.packed_objects import Columns, PackedObjects
from convmae.engine.errors import UserError
from convmae.engine.faults import Effect, Fault, Remark, Report, Tally, refuse
from convmae.engine.log import process_rank
from convmae.engine.machine.garbage import collector_paused
from convmae.engine.pictures.reading import RGB, Reading
from convmae.engine.shards.places import InShards, place

_LARGE = 5_000_000  # bytes; smaller files are read in less than a second, without a cache


@dataclass
class CocoData:
    """One split. ``objects[image id]`` holds its objects, crowds included; ``remarks`` tell what it is used in spite of.

    ``groups`` are the supercategories that the file names; ``reading`` says how its pictures are read.
    """

    annotations: Path
    folder: Path
    categories: list[Category]
    images: list[ImageRecord]
    objects: Mapping[int, list[ObjectRecord]]
    remarks: list[Remark] = field(default_factory=list)
    groups: frozenset[str] = frozenset()
    reading: Reading = RGB

    def __post_init__(self) -> None:
        self.folder = place(self.folder)

    @property
    def dropped(self) -> dict[str, int]:
        """How many objects were left out, by reason."""
        return {remark.kind: remark.count for remark in self.remarks if remark.effect is Effect.LEFT_OUT}

    def path(self, image: ImageRecord) -> Path:
        """Returns the file of a picture."""
        return self.folder / image.file_name

    def paths(self) -> list[Path]:
        """Returns the files of all pictures."""
        return [self.path(image) for image in self.images]

    def training_objects(self, image: ImageRecord) -> list[ObjectRecord]:
        """Returns the objects to learn from: all but crowds."""
        return [found for found in self.objects.get(image.id, []) if not found.crowd]

    def with_objects(self) -> list[ImageRecord]:
        """Returns the pictures that hold an object to learn from."""
        return [image for image in self.images if self.packed.learnable(image)]

    def class_counts(self) -> list[int]:
        """Returns the number of objects of each class, crowds not counted."""
        rows, columns = self.packed.rows(self.images), self.packed.columns
        labels = columns["label"][rows[~columns["crowd"][rows]]]
        counts: list[int] = np.bincount(labels, minlength=len(self.categories)).tolist()
        return counts

    def sizes(self) -> NDArray[np.int64]:
        """Returns width and height of each picture [N, 2]."""
        return np.array([[image.width, image.height] for image in self.images], np.int64).reshape(-1, 2)

    def describe(self) -> str:
        """Returns one line for the log and the report."""
        crowds = self.packed.columns["crowd"][self.packed.rows(self.images)]
        empty = len(self.images) - len(self.with_objects())
        dropped = "".join(f"; left out: {count} {reason}" for reason, count in self.dropped.items())
        return (
            f"{len(self.images)} pictures ({empty} without objects), {(~crowds).sum()} objects of "
            f"{len(self.categories)} classes, {crowds.sum()} crowds{dropped}"
        )

    def subset(self, count: int) -> CocoData:
        """Returns the first ``count`` pictures by id that hold an object to learn from; 0 returns all."""
        if count == 0:
            return self
        chosen = sorted(self.with_objects(), key=lambda image: image.id)
        return replace(self, images=chosen[:count])

    def check(self, check: Callable[[CocoData, Report], None]) -> None:
        """Refuses what stops training by a check; what else it reports becomes remarks."""
        tally = Tally()

        def report(fault: Fault) -> None:
            refuse(fault)
            tally(fault)

        check(self, report)
        self.remarks = [*self.remarks, *tally.remarks]

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

    @cached_property
    def packed(self) -> PackedObjects:
        """The objects as columns, which count faster."""
        return (
            self.objects if isinstance(self.objects, PackedObjects) else PackedObjects.pack(self.images, self.objects)
        )


def read_coco(annotations: Path, folder: Path, masks: bool = True, reading: Reading = RGB) -> CocoData:
    """Returns the split that a COCO JSON file describes, its pictures lying in ``folder``.

    With ``masks`` each object needs a segmentation; ``reading`` says how the pictures are read. Raises UserError naming file
    and id for anything that isn't COCO, names a missing picture, image or category, says that a picture has more pixels than
    are read, or has a mask of another size than its picture. Objects without area are left out and counted. What a large file
    says is kept in the user's cache folder until the file changes.
    """
    before = _stamp(annotations, reading)
    path = cache_path(annotations) if before else None
    kept = load_arrays(path, before) if path else None
    data = _from_arrays(kept, annotations, folder) if kept else parse_coco(annotations, folder, refuse, reading)
    data.reading = reading
    check_files(data, refuse)
    if masks:
        check_masks(data, refuse)
    # A file that changed while it was read is not kept: the stamp would be of one state, the content of another.
    if path and not kept and process_rank() == 0 and _stamp(annotations, reading) == before:
        save_arrays(path, _to_arrays(data), before)
    return data


def parse_coco(annotations: Path, folder: Path, report: Report, reading: Reading = RGB) -> CocoData:
    """Returns what a COCO JSON file says, each fault of an entry going to ``report``.

    Raises UserError for a file that can't be read at all.
    """
    tally = Tally()

    def count(fault: Fault) -> None:
        report(fault)
        tally(fault)

    with collector_paused():
        content = read_json(annotations)
        categories = annotation_entries.read_categories(content["categories"], annotations, count)
        images = annotation_entries.read_images(content["images"], annotations, count, reading.max_pixels)
        found = annotation_entries.read_objects(content, categories, images, annotations, count)
        unread_keys.check_unread(content, annotations, count)
        objects = PackedObjects.pack(images, found)
    named = (one.get("supercategory") for one in content["categories"] if isinstance(one, dict))
    groups = frozenset(str(name) for name in named if not isinstance(name, (list, dict)))
    return CocoData(annotations, folder, categories, images, objects, tally.remarks, groups, reading)


def read_classes(annotations: Path) -> list[Category]:
    """Returns the classes that a COCO JSON file lists, in order of label. Raises UserError for a file that isn't COCO."""
    return annotation_entries.read_categories(read_json(annotations)["categories"], annotations, refuse)


def check_files(data: CocoData, report: Report) -> None:
    """Reports pictures that are not in the folder. Raises UserError where the folder itself is absent."""
    folder, path, images = data.folder, data.annotations, data.images
    if not folder.is_dir():
        raise UserError(f"There is no picture folder {folder}; expected the pictures that {path} names.")
    listed = cache(_files)  # a look at each folder, not at each file

    def exists(image: ImageRecord) -> bool:
        parent, name = os.path.split(folder / image.file_name)
        return name in listed(parent) or os.path.isfile(folder / image.file_name)

    missing = [image for image in images if not exists(image)]
    if not missing:
        return
    reasons = Reasons([image.file_name for image in missing], folder, path)
    if len(missing) == len(images):
        raise UserError(
            f"The folder {folder} holds none of the {len(images)} pictures that {path} names (the first is "
            f"{images[0].file_name}).{reasons.of_all()}"
        )
    for image in missing:
        message = (
            f"{data.path(image)} is missing (image {image.id} of {path}); {len(missing)} of {len(images)} pictures are"
            f"{reasons.of_one(image.file_name)}"
        )
        report(Fault("missing pictures", message, image=image))


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


def check_masks(data: CocoData, report: Report) -> None:
    """Reports objects that have no mask to learn from."""
    for row in data.packed.without_segmentation().tolist():
        report(missing_segmentation(int(data.packed.columns["id"][row]), data.annotations))


def check_objects(data: CocoData, report: Report) -> None:
    """Reports a split without any object, from which nothing can be learnt or measured, and what is there in their place.

    Where entries stop training, the objects that they took away are no fault of their own.
    """
    if not data.with_objects() and not any(remark.effect is Effect.STOPS for remark in data.remarks):
        crowds = int(data.packed.columns["crowd"].sum())
        message = f"{data.annotations}: no picture holds an object (crowds aside); expected at least one."
        report(Fault("splits without objects", f"{message} {_tell_absent(data.remarks, crowds)}"))


def _tell_absent(remarks: Sequence[Remark], crowds: int) -> str:
    """Returns what a split without objects has in their place: how many were left out, by kind, and how many are crowds."""
    told = [
        f"Left out: {remark.count} {remark.kind}, the first: {remark.first[0]}"
        for remark in remarks
        if remark.effect is Effect.LEFT_OUT
    ]
    if crowds:
        told.append(
            f"{crowds} have iscrowd=1, which marks a region of many objects and is left out of training; set it to 0 for what "
            "is one object."
        )
    return " ".join(told) or f"Pictures without annotations can be predicted: {PREDICT}."


def check_same_classes(first: CocoData, second: CocoData, report: Report) -> None:
    """Reports each class that one of two splits does not list under the same id."""
    ours, theirs = set(first.categories), set(second.categories)
    for category in sorted(ours ^ theirs, key=lambda category: category.id):
        holder, other = (first, second) if category in ours else (second, first)
        message = (
            f"{holder.annotations} has the class {category.id} {category.name!r}, {other.annotations} has not; expected both "
            "splits to list the same classes under the same ids."
        )
        report(Fault("classes in one split alone", message))


def _files(folder: str) -> set[str]:
    packed = place(folder)
    if isinstance(packed, InShards):
        return {path.name for path in packed.iterdir()}
    try:
        with os.scandir(folder) as found:
            return {entry.name for entry in found if entry.is_file()}
    except (OSError, ValueError):  # no folder, or no name of one: nothing lies there
        return set()


def _stamp(annotations: Path, reading: Reading) -> str:
    """Returns the stamp of a file that is worth keeping, or "" for a small one or none."""
    try:
        return stamp(annotations, f"{_code()} {reading.max_pixels}") if annotations.stat().st_size >= _LARGE else ""
    except (OSError, ValueError):  # what can't be a path among them
        return ""


@cache
def _code() -> str:
    """A digest of what reads the file: what other code has read is not what this would."""
    modules = (
        annotation_entries,
        coco_records,
        missing_pictures,
        packed_objects,
        segmentations,
        unread_keys,
        value_forms,
    )
    sources = [Path(module.__file__ or "") for module in modules] + [Path(__file__)]
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def _to_arrays(data: CocoData) -> Columns:
    names = {
        "categories": [[category.id, category.name] for category in data.categories],
        "files": [image.file_name for image in data.images],
        "remarks": [(one.kind, one.effect.name, one.count, one.first) for one in data.remarks],
        "groups": sorted(data.groups),
    }
    return {
        "names": np.frombuffer(json.dumps(names).encode(), np.uint8),
        "images": np.array([[image.id, image.width, image.height] for image in data.images], np.int64),
        **data.packed.columns,
    }


def _from_arrays(arrays: Columns, annotations: Path, folder: Path) -> CocoData:
    names = json.loads(arrays.pop("names").tobytes())
    sizes: Sequence[tuple[int, int, int]] = arrays.pop("images").tolist()
    categories = [Category(number, name) for number, name in names["categories"]]
    images = [
        ImageRecord(number, name, width, height)
        for (number, width, height), name in zip(sizes, names["files"], strict=True)
    ]
    remarks = [Remark(kind, Effect[effect], count, tuple(first)) for kind, effect, count, first in names["remarks"]]
    objects = PackedObjects(images, arrays)
    return CocoData(annotations, folder, categories, images, objects, remarks, frozenset(names["groups"]))
