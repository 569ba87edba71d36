"""What models find on pictures, in each picture's own pixels."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convmae.engine.errors import UserError
from convmae.engine.pictures.images import as_rgb

if TYPE_CHECKING:
    from convmae.detection.data.coco_records import Category
    from convmae.pictures import Source

CONFIDENT = 0.5  # from which a detection is drawn, as in reports


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class _Result:
    """``source``: the picture as it was given; ``size``: its height and width in pixels; ``classes``: all names, by label."""

    source: Source
    size: tuple[int, int]
    classes: tuple[str, ...]

    def __repr__(self) -> str:
        height, width = self.size
        return f"{type(self).__name__}({self}, on {self.source.name}, {width} x {height} pixels)"

    @property
    def path(self) -> Path | None:
        """The picture's file, None where it was given otherwise."""
        return self.source.path

    def picture(self) -> Image.Image:
        """Returns the picture in RGB; a file is read once more."""
        return as_rgb(self.source.read())


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Detections(_Result):
    """Objects on a picture, the surest first.

    boxes: [n, 4] left, top, right, bottom in pixels; scores: [n], 0 to 1; labels: [n], places in ``classes``; rles: the masks
    as COCO's compressed run lengths, None of a detector without masks; categories: the classes with their ids in COCO files.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    rles: tuple[dict[str, Any], ...] | None = None
    categories: tuple[Category, ...]

    def __len__(self) -> int:
        return len(self.scores)

    def __str__(self) -> str:
        counts = Counter(self.names)
        return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "no objects"

    @property
    def names(self) -> tuple[str, ...]:
        """The class of each object."""
        return tuple(self.classes[label] for label in self.labels.tolist())

    @property
    def masks(self) -> NDArray[np.bool_] | None:
        """The masks [n, H, W], decoded at each call; None of a detector without masks."""
        from pycocotools import mask as mask_api

        if self.rles is None:
            return None
        if not self.rles:
            return np.zeros((0, *self.size), np.bool_)
        decoded: NDArray[np.uint8] = mask_api.decode(list(self.rles))
        return decoded.transpose(2, 0, 1).astype(np.bool_)

    def confident(self, threshold: float = CONFIDENT) -> Detections:
        """Returns the objects of at least this score."""
        keep = np.flatnonzero(self.scores >= threshold)
        return replace(
            self,
            boxes=self.boxes[keep],
            scores=self.scores[keep],
            labels=self.labels[keep],
            rles=None if self.rles is None else tuple(self.rles[index] for index in keep.tolist()),
        )

    def draw(self, threshold: float = CONFIDENT) -> Image.Image:
        """Returns the picture with the objects of at least this score: boxes, masks, names and scores."""
        from convmae.detection.evaluation.rated_pictures import draw_detections

        return draw_detections(self.picture(), self.confident(threshold).as_found(), self.categories)

    def as_found(self, image_id: int = 0) -> dict[str, Any]:
        """Returns the detections as the model's own dict of tensors (``DetectionModel.forward``)."""
        import torch

        found: dict[str, Any] = {"image_id": image_id}
        found |= {name: torch.from_numpy(getattr(self, name)) for name in ("boxes", "scores", "labels")}
        return found if self.rles is None else found | {"masks": list(self.rles)}

    def to_coco(self, image_id: int = 0) -> list[dict[str, Any]]:
        """Returns COCO's result rows: image_id, category_id, bbox (left, top, width, height), score, segmentation."""
        from convmae.detection.predict import result_rows

        return result_rows(self.as_found(image_id), self.categories)

    def to_supervision(self) -> Any:
        """Returns ``supervision.Detections``. Raises UserError where supervision is not installed."""
        return _supervision().Detections(
            xyxy=self.boxes.astype(np.float32),
            mask=self.masks,
            confidence=self.scores,
            class_id=self.labels.astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
        )


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class LabelMap(_Result):
    """A class for each pixel of a picture.

    labels: [H, W], places in ``classes``; scores: the probability of each class, [classes, H, W], if they were asked for;
    first: the number of the first class in the data's own label maps.
    """

    labels: NDArray[np.uint8]
    scores: NDArray[np.float32] | None = None
    first: int = 0

    def __str__(self) -> str:
        return ", ".join(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """The classes that occur, in their order."""
        return tuple(self.classes[label] for label in np.unique(self.labels).tolist())

    @property
    def colours(self) -> list[tuple[int, int, int]]:
        """A colour for each class, as in drawings."""
        from convmae.reports.drawing import palette

        return palette(len(self.classes))

    def draw(self) -> Image.Image:
        """Returns the picture in grey with each class's colour over it."""
        from convmae.reports.drawing import draw_labels

        return draw_labels(self.picture(), self.labels, self.colours)

    def image(self) -> Image.Image:
        """Returns the labels as the data's label maps number them (from 1 where 0 means other), with the colours as palette."""
        image = Image.fromarray(self.labels + np.uint8(self.first))
        image.putpalette([0, 0, 0] * self.first + [part for colour in self.colours for part in colour])
        return image

    def to_coco(self, image_id: int = 0) -> list[dict[str, Any]]:
        """Returns COCO-Stuff's result rows, one for each class that occurs; ids of categories count classes from 1."""
        from pycocotools import mask as mask_api

        rows = []
        for label in np.unique(self.labels).tolist():
            rle = mask_api.encode(np.asfortranarray(self.labels == label))
            rle["counts"] = rle["counts"].decode()
            rows.append({"image_id": image_id, "category_id": label + 1, "segmentation": rle})
        return rows

    def to_supervision(self) -> Any:
        """Returns ``supervision.Detections`` with a mask for each class. Raises UserError where supervision is missing."""
        supervision = _supervision()
        labels = np.unique(self.labels).astype(int)
        masks = self.labels[None] == labels[:, None, None]
        return supervision.Detections(
            xyxy=supervision.mask_to_xyxy(masks).astype(np.float32),
            mask=masks,
            class_id=labels,
            data={"class_name": np.array(self.names, dtype=str)},
        )


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Classification(_Result):
    """What a picture shows; probabilities: [classes], they add up to 1."""

    probabilities: NDArray[np.float32]

    def __str__(self) -> str:
        return f"{self.name} {self.score:.2f}"

    @property
    def label(self) -> int:
        """The most probable class's place in ``classes``."""
        return int(self.probabilities.argmax())

    @property
    def name(self) -> str:
        """The most probable class."""
        return self.classes[self.label]

    @property
    def score(self) -> float:
        """Its probability."""
        return float(self.probabilities[self.label])

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """Returns the most probable classes with their probabilities, the best first, fewer where there are fewer."""
        best = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.classes[label], float(self.probabilities[label])) for label in best.tolist()]

    def draw(self, count: int = 3) -> Image.Image:
        """Returns the picture under its most probable classes."""
        from convmae.reports.drawing import row

        return row([self.picture()], [", ".join(f"{name} {score:.2f}" for name, score in self.top(count))])

    def to_supervision(self) -> Any:
        """Returns ``supervision.Classifications``. Raises UserError where supervision is not installed."""
        return _supervision().Classifications(
            class_id=np.arange(len(self.classes)), confidence=self.probabilities.astype(np.float32)
        )


def _supervision() -> Any:
    try:
        import supervision
    except ImportError as error:
        raise UserError(f"to_supervision needs supervision ({error}): pip install supervision") from None
    return supervision
