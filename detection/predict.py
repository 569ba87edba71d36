"""A trained detector on any pictures: its detections drawn and as COCO rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from convmae.detection.config import DetectionConfig
from convmae.detection.data.annotation_entries import read_categories as parse_categories
from convmae.detection.data.annotation_entries import read_images
from convmae.detection.data.annotation_file import read_json
from convmae.detection.data.coco import CocoData, check_files, check_size
from convmae.detection.data.coco_records import Category, ImageRecord
from convmae.detection.data.dataset import collate_test, fitted
from convmae.detection.evaluation.coco_metric import coco_dataset, coco_results
from convmae.detection.model.detection_model import DetectionModel, trimmed
from convmae.detection.model.weights import fill_detector, open_weights
from convmae.engine.errors import UserError
from convmae.engine.faults import refuse
from convmae.engine.log import log
from convmae.engine.machine.compilation import check_compiler, compile_methods
from convmae.engine.machine.precision import autocast, set_up
from convmae.engine.pictures.images import Picture, read_image, size_of
from convmae.engine.pictures.reading import RGB, Reading


class Predictor:
    """Calls a detector on pictures of any sizes, in any thread."""

    def __init__(self, config: DetectionConfig, checkpoint: Path) -> None:
        """Raises UserError for weights that don't fill the model or don't name their classes, and for no possible scales."""
        self.device, self.dtype = set_up(config.runtime)
        self.sides, self.padding = config.inference.sides(config.data.img_size), config.data.padding
        self.reading = config.data.reading(config.model.in_chans)
        self.model = open_detector(config, checkpoint)
        self.model.eval().to(self.device)
        if config.runtime.compile:
            check_compiler(self.device)
            compile_methods(self.model.model.static_methods(), config.runtime.compile_mode, always=True)
        self._one_at_a_time = Lock()

    @property
    def categories(self) -> list[Category]:
        """The classes that labels number."""
        return self.model.categories

    @torch.inference_mode()
    def __call__(self, images: Sequence[Picture]) -> list[dict[str, Any]]:
        """Returns the detections of each picture as ``DetectionModel`` does, in its own pixels."""
        samples = [fitted(image, 0, self.sides, self.padding) for image in images]
        alike: dict[tuple[int, int], list[int]] = {}  # those of one shape are computed together
        for place, sample in enumerate(samples):
            alike.setdefault((0, 0) if self.model.square else trimmed(sample["sample"].geometry.content), []).append(
                place
            )
        deferred: dict[int, Callable[[], dict[str, Any]]] = {}
        for places in alike.values():
            batch = collate_test([samples[place] for place in places])
            with self._one_at_a_time, autocast(self.device, self.dtype):
                squares = [square.to(self.device) for square in batch["images"]]
                found = self.model(squares, samples=batch["samples"], mode="defer")
            deferred.update(zip(places, found, strict=True))
        return [deferred[place]() for place in range(len(samples))]


def open_detector(config: DetectionConfig, checkpoint: Path) -> DetectionModel:
    """Returns the detector in a file, with the classes that stand there. Raises UserError for weights that don't fill one."""
    weights = open_weights(checkpoint)
    found = weights.categories
    if found is None:
        raise UserError(
            f"{checkpoint} does not name its classes; expected a detector of this project. One of detectron2's layout becomes "
            "that by tools/convert_checkpoint.py --to convmae."
        )
    predictor = (value for name, value in weights.state.items() if name.endswith("box_predictor.cls_score.bias"))
    if list(getattr(next(predictor, None), "shape", ())) != [len(found) + 1]:
        raise UserError(
            f"{weights.source} lists {len(found)} classes and has no box_predictor for these; expected a whole detector."
        )
    model = DetectionModel(config, found)
    fill_detector(model, weights, checkpoint)
    return model


class Given:
    """Pictures by their files, numbered as they are read; ``names`` gives each the name of its drawing."""

    def __init__(self, names: Mapping[Path, Path], categories: list[Category], reading: Reading = RGB) -> None:
        self.names, self.categories, self._reading, self._read = names, categories, reading, 0

    def read(self, path: Path) -> Picture:
        """Returns a picture. Raises UserError where it can't be read."""
        return read_image(path, self._reading)

    def records(self, path: Path, image: Picture) -> list[ImageRecord]:
        """Returns what results say of a picture that was read."""
        self._read += 1
        return [ImageRecord(self._read, str(path), *size_of(image))]


class Listed:
    """As ``Given``, the pictures that a COCO file lists, annotated or not, by its ids; classes have that file's ids, too."""

    def __init__(self, annotations: Path, folder: Path, categories: list[Category], reading: Reading = RGB) -> None:
        """Raises UserError for a file without pictures or of other classes, and for pictures that are not in the folder."""
        content = read_json(annotations, ("images",))
        images = read_images(content["images"], annotations, refuse, reading.max_pixels)
        listed = parse_categories(content.get("categories") or [], annotations, refuse)
        self.categories = _with_ids(categories, listed, annotations)
        self._data = CocoData(annotations, folder, self.categories, images, {}, reading=reading)
        check_files(self._data, refuse)
        self._records: dict[Path, list[ImageRecord]] = {}
        for image in images:
            self._records.setdefault(self._data.path(image), []).append(image)
        self.names = {path: Path(records[0].file_name) for path, records in self._records.items()}

    def read(self, path: Path) -> Picture:
        """Returns a picture. Raises UserError where it can't be read or has another size than the file says."""
        image = read_image(path, self._data.reading)
        for record in self._records[path]:
            check_size(size_of(image), record, self._data)
        return image

    def records(self, path: Path, image: Picture) -> list[ImageRecord]:
        """Returns what the file says of a picture: an entry, or several of one file."""
        return self._records[path]


def _with_ids(ours: list[Category], listed: list[Category], path: Path) -> list[Category]:
    """Returns a detector's classes under the ids that a file gives their names; without a list of classes as they are."""
    if not listed or set(ours) <= set(listed):
        return ours
    ids = {category.name: category.id for category in listed}
    strange = [category.name for category in ours if category.name not in ids]
    if strange or len(ids) < len(listed):
        what = f"has no class {strange[0]!r}" if strange else "gives one name to two classes"
        names = ", ".join([*(one.name for one in ours[:5]), *["..."] * (len(ours) > 5)])
        raise UserError(
            f"{path} {what}; the detector's {len(ours)} classes are: {names}. Expected the same names in 'categories', or no "
            "'categories': then the detector's own ids are written."
        )
    log.warning(f"The detector's classes are written under the ids that {path} gives their names.")
    return [Category(ids[category.name], category.name) for category in ours]


def as_results(rows: Sequence[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Returns rows as COCO's servers take them, ``kind`` (bbox or segmentation) beside ids and score."""
    return [{key: row[key] for key in ("image_id", "category_id", kind, "score")} for row in rows]


def result_rows(found: dict[str, Any], categories: Sequence[Category]) -> list[dict[str, Any]]:
    """Returns a picture's detections as COCO's result rows."""
    return coco_results([found], CocoData(Path(), Path(), list(categories), [], {}))


def as_coco(
    images: Sequence[ImageRecord], predictions: Sequence[dict[str, Any]], categories: list[Category]
) -> dict[str, Any]:
    """Returns detections as a COCO data set that names the pictures; each annotation is a result row with an id and an area."""
    return coco_dataset(predictions, CocoData(Path(), Path(), categories, list(images), {}))
