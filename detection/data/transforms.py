"""Where each pixel of a picture goes: large-scale jitter for training, fitting into a square for testing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pycocotools import mask as mask_api
from torch import Tensor

from convmae.detection.data.coco_records import ObjectRecord, Segmentation, run_lengths, to_rle
from convmae.engine.pictures.images import Picture, channel_statistics, to_tensor

GREY = 128


def padding_colour(padding: str, channels: int) -> tuple[int, ...]:
    """Returns the colour beyond a picture, "grey" or the "mean" that pictures are normalised by, as bytes.

    The published detector was trained with grey, before normalisation; its ViTDet port with zeros after it, which is the mean
    colour but for rounding (0.01 of a deviation at most).
    """
    return {"grey": (GREY,) * channels, "mean": tuple(round(255 * mean) for mean in channel_statistics(channels)[0])}[
        padding
    ]


@dataclass(frozen=True)
class Geometry:
    """Flip, then resize to ``width x height``, then cut the square of ``size`` pixels at (left, top), padded right and below.

    All in pixels. ``source``: width and height of the picture it is for.
    """

    source: tuple[int, int]
    width: int
    height: int
    size: int
    left: int = 0
    top: int = 0
    flip: bool = False

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the resized picture for one of the source, along x and y."""
        return self.width / self.source[0], self.height / self.source[1]

    @property
    def content(self) -> tuple[int, int]:
        """Height and width of the part of the square that the picture covers."""
        return min(self.size, self.height - self.top), min(self.size, self.width - self.left)

    def image(self, image: Picture, padding: str = "grey") -> Tensor:
        """Returns the picture as uint8 [C, size, size], padded with the colour of that name."""
        if isinstance(image, Tensor):
            # Band by band, as Pillow resizes the three of RGB.
            pixels = torch.stack(
                [torch.from_numpy(np.array(self._cut(Image.fromarray(band)))) for band in image.numpy()]
            )
        else:
            pixels = to_tensor(self._cut(image))
        square = torch.tensor(padding_colour(padding, len(pixels)), dtype=torch.uint8)[:, None, None]
        square = square.repeat(1, self.size, self.size)
        height, width = self.content
        square[:, :height, :width] = pixels
        return square

    def _cut(self, image: Image.Image) -> Image.Image:
        """The part of the picture that the square shows, at its size there."""
        if self.flip:
            image = ImageOps.mirror(image)
        (scale_x, scale_y), (height, width) = self.scale, self.content
        corners = (
            self.left / scale_x,
            self.top / scale_y,
            min((self.left + width) / scale_x, image.width),
            min((self.top + height) / scale_y, image.height),
        )
        return image.resize((width, height), Image.Resampling.BILINEAR, box=corners)

    def boxes(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns boxes [N, 4] in the square's pixels, not clipped."""
        moved = boxes.copy()
        if self.flip:
            moved[:, [0, 2]] = self.source[0] - boxes[:, [2, 0]]
        return moved * np.tile(self.scale, 2) - np.tile((self.left, self.top), 2)

    def restore_boxes(self, boxes: Tensor) -> Tensor:
        """Returns boxes [N, 4] of the square in the source picture's pixels, clipped to it."""
        scale = boxes.new_tensor(self.scale).repeat(2)
        restored = (boxes + boxes.new_tensor((self.left, self.top)).repeat(2)) / scale
        if self.flip:
            restored[:, [0, 2]] = self.source[0] - restored[:, [2, 0]]
        return torch.minimum(restored.clamp(min=0), boxes.new_tensor(self.source).repeat(2))

    def masks(self, segmentations: Sequence[Segmentation]) -> NDArray[np.uint8]:
        """Returns masks [N, size, size] of zeros and ones; polygons are drawn at the new scale, so they stay sharp."""
        height, width = self.content
        masks = np.zeros((len(segmentations), self.size, self.size), dtype=np.uint8)
        places = None
        for mask, found in zip(masks, segmentations, strict=True):
            if isinstance(found, dict):  # decoded at these places alone: a picture may have a hundred times as many
                places = places or self._places()
                ends = np.searchsorted(places[0], run_lengths(found["counts"]).cumsum())
                pixels = np.repeat((np.arange(len(ends)) % 2).astype(np.uint8), np.diff(ends, prepend=0))
                mask[:height, :width] = pixels.reshape(-1, height)[places[1]].T
            else:
                mask[:height, :width] = mask_api.decode(to_rle(self._polygons(found), height, width))
        return masks

    def _polygons(self, polygons: list[list[float]]) -> list[list[float]]:
        moved = []
        for polygon in polygons:
            points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
            if self.flip:
                points = points * (-1, 1) + (self.source[0], 0)
            moved.append((points * self.scale - (self.left, self.top)).ravel().tolist())
        return moved

    def _places(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where in the runs of a mask, column by column, the square's pixels lie, each column once; and which is whose."""
        (scale_x, scale_y), (height, width), (columns, rows) = self.scale, self.content, self.source
        down = ((np.arange(height) + self.top + 0.5) / scale_y).astype(np.int64).clip(max=rows - 1)
        across = ((np.arange(width) + self.left + 0.5) / scale_x).astype(np.int64).clip(max=columns - 1)
        shown, numbers = np.unique(columns - 1 - across if self.flip else across, return_inverse=True)
        return (shown[:, None] * rows + down).ravel(), numbers


def fit(width: int, height: int, size: int) -> Geometry:
    """Returns the geometry of a test picture: the long side fits the square, the aspect is kept."""
    scale = size / max(width, height)
    return Geometry((width, height), max(1, round(width * scale)), max(1, round(height * scale)), size)


def large_scale_jitter(width: int, height: int, size: int, scales: tuple[float, float], flip: float) -> Geometry:
    """Returns a random geometry: fit into the square times a factor from ``scales``, a random window, a flip.

    Draws from the global ``random``, which the engine sets for each sample.
    """
    scale = size * random.uniform(*scales) / max(width, height)
    new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
    return Geometry(
        (width, height),
        new_width,
        new_height,
        size,
        left=round(random.random() * max(0, new_width - size)),
        top=round(random.random() * max(0, new_height - size)),
        flip=random.random() < flip,
    )


def place_objects(geometry: Geometry, objects: Sequence[ObjectRecord], masks: bool) -> dict[str, Tensor]:
    """Returns boxes [N, 4], labels [N] and, if wanted, masks [N, size, size] uint8 of the objects left in the square."""
    boxes = geometry.boxes(np.array([found.box for found in objects], dtype=np.float64).reshape(-1, 4))
    labels = np.array([found.label for found in objects], dtype=np.int64)
    height, width = geometry.content
    clipped = boxes.clip(0, (width, height, width, height))
    if not masks:
        keep = ((clipped[:, 2:] - clipped[:, :2]) >= 1).all(axis=1)
        return {"boxes": torch.from_numpy(clipped[keep].astype(np.float32)), "labels": torch.from_numpy(labels[keep])}
    inside = np.flatnonzero(((clipped[:, 2:] - clipped[:, :2]) > 0).all(axis=1))
    outlines = [objects[number].segmentation for number in inside.tolist()]
    drawn = geometry.masks([outline for outline in outlines if outline is not None])
    visible = drawn.any(axis=(1, 2))
    drawn, inside = drawn[visible], inside[visible]
    return {
        "boxes": torch.from_numpy(_tighten(clipped[inside], boxes[inside], drawn).astype(np.float32)),
        "labels": torch.from_numpy(labels[inside]),
        "masks": torch.from_numpy(drawn),
    }


def _tighten(boxes: NDArray[np.float64], whole: NDArray[np.float64], masks: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Returns boxes of objects that a crop cut moved to the outline of the mask that is left; others are the file's.

    boxes: what is left of the ``whole`` ones. Sides that are a pixel from the outline at most keep their place between pixels.
    """
    columns, rows = masks.max(axis=1), masks.max(axis=2)
    size = masks.shape[-1]
    outline = np.stack(
        [
            columns.argmax(axis=1),
            rows.argmax(axis=1),
            size - columns[:, ::-1].argmax(axis=1),
            size - rows[:, ::-1].argmax(axis=1),
        ],
        axis=1,
    ).reshape(-1, 4)
    cut = (boxes != whole).any(axis=1, keepdims=True)
    return np.where(cut & (np.abs(boxes - outline) > 1), outline, boxes)
