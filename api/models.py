"""Trained models that predict: a classifier, a detector or a segmenter, by what a weight file says."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from convmae.backbones import CheckpointError
from convmae.engine.config import run_config
from convmae.engine.errors import UserError
from convmae.engine.files import check_is_file
from convmae.engine.pictures.images import Picture, size_of
from convmae.kinds import CLASSIFICATION, DETECTION, KINDS, SEGMENTATION, kind_of
from convmae.options import as_overrides, in_python
from convmae.pictures import Given, Source, sources
from convmae.results import Classification, Detections, LabelMap

if TYPE_CHECKING:
    import torch

    from convmae.classification.predict import Predictor as _Classify
    from convmae.detection.data.coco_records import Category
    from convmae.detection.predict import Predictor as _Detect
    from convmae.engine.pictures.reading import Reading
    from convmae.segmentation.predict import Predictor as _Segment

Result = TypeVar("Result", Detections, LabelMap, Classification)
BATCH = 8


class Model(ABC, Generic[Result]):
    """What every loaded model has. Any number of threads may predict with one at a time."""

    task: str
    classes: tuple[str, ...]  # by label

    def __init__(self, config: Any, classes: Sequence[str], predictor: Any) -> None:
        self.config, self.classes = config, tuple(classes)
        self._predictor = predictor

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        device: torch.device = self._predictor.device
        return device

    @property
    def module(self) -> torch.nn.Module:
        """The network itself."""
        module: torch.nn.Module = self._predictor.model
        return module

    @property
    def reading(self) -> Reading:
        """How it has files read: channels, range of values, most pixels."""
        reading: Reading = self._predictor.reading
        return reading

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.classes)} classes, on {self.device})"

    def stream(
        self, pictures: Given, *, batch_size: int = BATCH, channels: str = "rgb", **options: Any
    ) -> Iterator[Result]:
        """Yields what ``predict`` returns as it is found, so that neither all pictures nor all results need be in memory.

        Args:
            pictures: a path, a folder with those below it, a PIL picture (as it stands: its EXIF data turn nothing), a uint8
                array [H, W, C], a tensor [C, H, W] of uint8 or of floats from 0 to 1, or a list or generator of these; an
                array or tensor of four axes is a list of pictures.
            batch_size: pictures that are read and computed at a time; those of one shape go through the model together.
            channels: "rgb" or "bgr", the order of arrays' and tensors' channels.
            options: the model's own, as its ``predict`` takes them.

        Raises:
            UserError: a picture that can't be read, or of the wrong kind, shape or range, by its name or number.
        """
        if not isinstance(batch_size, int) or batch_size < 1:
            raise UserError(f"batch_size is {batch_size!r}; expected a whole number of at least 1.")
        given = sources(pictures, self._predictor.reading, channels)
        while batch := list(islice(given, batch_size)):
            with in_python():
                images = [source.read() for source in batch]
            yield from self._find(batch, images, batch_size, **options)

    @abstractmethod
    def _find(
        self, batch: Sequence[Source], images: Sequence[Picture], batch_size: int, *more: Any, **options: Any
    ) -> list[Result]:
        """Returns the results of pictures that have been read."""


class Detector(Model[Detections]):
    """Finds objects: Mask R-CNN, or a cascade of it."""

    task = DETECTION
    _predictor: _Detect

    @property
    def categories(self) -> tuple[Category, ...]:
        """The classes with their ids in COCO files, by label."""
        return tuple(self._predictor.categories)

    def predict(
        self,
        pictures: Given,
        *,
        batch_size: int = BATCH,
        channels: str = "rgb",
        score_threshold: float | None = None,
        tile: int | None = None,
        overlap: float = 0.2,
    ) -> list[Detections]:
        """Returns the objects of each picture, always as a list; ``pictures`` as ``stream`` takes them.

        Args:
            score_threshold: objects of less are left out; None for the recipe's ``model.score_threshold``.
            tile: pictures of more pixels than this along a side are looked at in squares of it, and what lies across their
                borders is put together: for objects that are small in a large picture.
            overlap: part of a tile's side that its neighbours show too; best no smaller than most objects are.
        """
        return list(
            self.stream(
                pictures,
                batch_size=batch_size,
                channels=channels,
                score_threshold=score_threshold,
                tile=tile,
                overlap=overlap,
            )
        )

    def _find(
        self,
        batch: Sequence[Source],
        images: Sequence[Picture],
        batch_size: int,
        score_threshold: float | None = None,
        tile: int | None = None,
        overlap: float = 0.2,
    ) -> list[Detections]:
        lowest = self.config.model.score_threshold
        if score_threshold is not None and not lowest <= score_threshold <= 1:
            raise UserError(
                f"score_threshold is {score_threshold}; expected {lowest:g} (the recipe's model.score_threshold) to 1. For "
                "less, load the model with model__score_threshold=0."
            )
        found = [
            Detections(
                source=source,
                size=size_of(image)[::-1],
                classes=self.classes,
                boxes=one["boxes"].numpy(),
                scores=one["scores"].numpy(),
                labels=one["labels"].numpy(),
                rles=tuple(one["masks"]) if "masks" in one else None,
                categories=self.categories,
            )
            for source, image, one in zip(batch, images, self._look(images, batch_size, tile, overlap), strict=True)
        ]
        return found if score_threshold is None else [one.confident(score_threshold) for one in found]

    def _look(
        self, images: Sequence[Picture], batch_size: int, tile: int | None, overlap: float
    ) -> list[dict[str, Any]]:
        """Returns what the detector finds on pictures, on those larger than ``tile`` in tiles."""
        if tile is None:
            return self._predictor(images)
        from convmae.detection.tiles import detect_in_tiles

        threshold = self.config.model.nms_threshold
        return [
            detect_in_tiles(self._predictor, image, tile, overlap, threshold, batch_size)
            if max(size_of(image)) > tile
            else self._predictor([image])[0]
            for image in images
        ]


class Segmenter(Model[LabelMap]):
    """Labels every pixel: UPerNet."""

    task = SEGMENTATION
    _predictor: _Segment

    @property
    def first(self) -> int:
        """The number of the first class in the data's label maps: 1 where 0 means other, else 0."""
        return self._predictor.first

    def predict(
        self, pictures: Given, *, batch_size: int = BATCH, channels: str = "rgb", scores: bool = False
    ) -> list[LabelMap]:
        """Returns the label map of each picture, always as a list; ``pictures`` as ``stream`` takes them.

        scores: return the probability of each class at each pixel, too: 4 bytes each.
        """
        return list(self.stream(pictures, batch_size=batch_size, channels=channels, scores=scores))

    def _find(
        self, batch: Sequence[Source], images: Sequence[Picture], batch_size: int, scores: bool = False
    ) -> list[LabelMap]:
        scored = self._predictor.scores(images) if scores else [None] * len(images)
        labels = (
            [one.argmax(0).astype(np.uint8) for one in scored if one is not None] if scores else self._predictor(images)
        )
        return [
            LabelMap(
                source=source,
                size=size_of(image)[::-1],
                classes=self.classes,
                labels=one,
                scores=probabilities,
                first=self.first,
            )
            for source, image, one, probabilities in zip(batch, images, labels, scored, strict=True)
        ]


class Classifier(Model[Classification]):
    """Tells what a picture shows."""

    task = CLASSIFICATION
    _predictor: _Classify

    def predict(self, pictures: Given, *, batch_size: int = BATCH, channels: str = "rgb") -> list[Classification]:
        """Returns the classes of each picture, always as a list; ``pictures`` as ``stream`` takes them."""
        return list(self.stream(pictures, batch_size=batch_size, channels=channels))

    def _find(self, batch: Sequence[Source], images: Sequence[Picture], batch_size: int) -> list[Classification]:
        return [
            Classification(source=source, size=size_of(image)[::-1], classes=self.classes, probabilities=one)
            for source, image, one in zip(batch, images, self._predictor(images), strict=True)
        ]


def open_model(
    path: str | os.PathLike[str], recipe: str | None, overrides: Sequence[str], task: str | None = None
) -> Detector | Segmenter | Classifier:
    """Returns the model in a weight file with a recipe's options as ``a.b=c``, as tools take them; see ``load``."""
    try:
        check_is_file(os.fspath(path))
        return _OPENERS[kind_of(path, task)](Path(path), recipe, overrides)
    except CheckpointError as error:
        raise UserError(str(error)) from None


def _open_detector(path: Path, recipe: str | None, overrides: Sequence[str]) -> Detector:
    from convmae.detection.config import DetectionConfig
    from convmae.detection.predict import Predictor

    config = run_config(DetectionConfig, path, recipe, overrides)
    predictor = Predictor(config, path)
    return Detector(config, [category.name for category in predictor.categories], predictor)


def _open_segmenter(path: Path, recipe: str | None, overrides: Sequence[str]) -> Segmenter:
    from convmae.segmentation.config import SegmentationConfig
    from convmae.segmentation.predict import Predictor

    config = run_config(SegmentationConfig, path, recipe, overrides)
    predictor = Predictor(config, path)
    return Segmenter(config, predictor.classes, predictor)


def _open_classifier(path: Path, recipe: str | None, overrides: Sequence[str]) -> Classifier:
    from convmae.classification.config import FinetuningConfig
    from convmae.classification.predict import Predictor

    config = run_config(FinetuningConfig, path, recipe, overrides)
    predictor = Predictor(config, path)
    return Classifier(config, predictor.classes, predictor)


_OPENERS: dict[str, Callable[[Path, str | None, Sequence[str]], Detector | Segmenter | Classifier]] = {
    DETECTION: _open_detector,
    SEGMENTATION: _open_segmenter,
    CLASSIFICATION: _open_classifier,
}


def load(
    path: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    precision: str = "auto",
    task: str | None = None,
    compile: bool = False,
    config: str | os.PathLike[str] | None = None,
    **overrides: Any,
) -> Detector | Segmenter | Classifier:
    """Returns the model in a weight file, ready to predict; the file is read here, and not again.

    Args:
        path: a run's ``model.pth``, or other weights of a whole model; FILE:KEY chooses one of several in a file.
        device: "cpu" or "cuda"; None takes a GPU where there is one.
        precision: "auto" (bf16 where the device multiplies it fast, else fp32), "fp32", "bf16" or "fp16".
        task: "detection", "segmentation" or "classification", where another kind of file is to be refused.
        compile: compile the encoder by torch.compile at the first picture, and again for each new shape.
        config: the model's recipe; None for the one in the file, or the ``config.yaml`` beside it.
        overrides: options of the recipe with ``__`` for the dot, such as ``model__score_threshold=0.01``.

    Raises:
        UserError: no such file, a file of no model or of another kind, or options that can't be.
    """
    if task is not None and task not in KINDS:
        raise UserError(f"task is {task!r}; expected one of {', '.join(KINDS)}, or None.")
    runtime = {
        "runtime.device": "auto" if device is None else str(device),
        "runtime.precision": precision,
        "runtime.compile": compile,
    }
    recipe = None if config is None else os.fspath(config)
    with in_python():
        return open_model(path, recipe, as_overrides({**runtime, **overrides}), task)
