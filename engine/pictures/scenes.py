"""Seeded textured scenes as an image folder, as class folders, as COCO and as ADE20K: data to try everything on.

Texture and colour are drawn without regard to the class: muted colours for the ground, vivid ones for the objects. So
colour helps to find an object, and only its shape tells what it is.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from convmae.engine.errors import UserError

CLASSES = ("disc", "ring", "square", "triangle", "star")
OBJECTS = (2, 8)  # fewest and most objects in a scene
EXTENT = (1 / 6, 2 / 3)  # smallest and largest diameter of an object, as a share of the picture's side
MIN_VISIBLE = 0.4  # no object shows less of itself than this: a smaller piece no longer tells its class
MIN_SIZE = 64  # at 64 px the smallest object is 8 px wide; below that a star is a blot
CONTRAST = 90.0  # distance aimed at between any two colours of a scene, in 8-bit RGB units
MUTED, VIVID = 40.0, 100.0  # largest spread over the channels of the ground's colour, smallest of an object's
TEXTURE_SPAN = (15.0, 55.0)  # distance between a texture's two colours: below CONTRAST, so that outlines stand out
NOISE = 4.0  # standard deviation of the pixel noise, 8-bit units
SUPERSAMPLE = 4  # outlines are drawn at this many times the resolution
MARKER = "scenes.json"  # written last: says what a folder holds, and that it is whole

Image8 = NDArray[np.uint8]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Scene:
    """image: uint8 [H, W, 3]; masks: bool [N, H, W], the visible part of each object; labels: int [N] into CLASSES."""

    image: Image8
    masks: Mask
    labels: NDArray[np.int64]

    @property
    def label_map(self) -> Image8:
        """uint8 [H, W] in ADE20K's numbering: 0, "other", does not occur; 1 is background; 2.. are CLASSES."""
        label_map = np.ones(self.image.shape[:2], np.uint8)
        for mask, label in zip(self.masks, self.labels, strict=True):
            label_map[mask] = label + 2
        return label_map


@dataclass(frozen=True)
class Layouts:
    """Where the layouts of one set of scenes lie: a folder of pictures, and the roots of class folders, COCO and ADE20K."""

    images: Path
    classes: Path
    coco: Path
    ade20k: Path


@dataclass
class _Object:
    label: int
    box: tuple[int, int, int, int]  # left, top, right, bottom of its part inside the picture
    coverage: Floats  # share of each pixel of that box that it covers, were nothing in front of it
    area: float  # in pixels, were nothing in front of it or beyond the border
    visible: Mask  # [size, size]


def draw_scene(seed: int, split: str, index: int, size: int = 160) -> Scene:
    """Returns scene ``index`` of ``split``: a function of these four alone, whatever else is drawn before it."""
    rng = np.random.default_rng([seed, *split.encode(), index])
    objects = _place_objects(rng, size)
    ground, *colours = _colours_apart(rng, len(objects))
    canvas = _texture(rng, ground, size, size)
    for item, colour in zip(objects, colours, strict=True):
        left, top, right, bottom = item.box
        alpha = item.coverage[..., None]
        below = canvas[top:bottom, left:right]
        below += alpha * (_texture(rng, colour, bottom - top, right - left) - below)
    canvas *= _lighting(rng, size)
    canvas += NOISE * rng.standard_normal(canvas.shape, np.float32)
    return Scene(
        np.clip(np.rint(canvas), 0, 255).astype(np.uint8),
        np.stack([item.visible for item in objects]),
        np.array([item.label for item in objects], np.int64),
    )


def generate(root: Path, train: int, val: int, unlabelled: int = 0, size: int = 160, seed: int = 0) -> Layouts:
    """Writes scenes under ``root`` in four layouts and returns where they lie; the same set already there is kept.

    ``images/`` holds the training pictures and ``unlabelled`` more, for pretraining; ``coco/`` and ``ade20k/`` hold the
    training and validation pictures with annotations, ``classes/`` a crop around each of their objects. Raises UserError for
    counts or sizes that make no data set, and for a folder that holds something else.
    """
    if train < 1 or val < 1 or unlabelled < 0 or size < MIN_SIZE:
        raise UserError(
            f"{train} training, {val} validation and {unlabelled} unlabelled scenes of {size} px asked for; expected "
            f"at least one of the first two, and {MIN_SIZE} px or more, below which the shapes can't be told apart."
        )
    layouts = Layouts(root / "images", root / "classes", root / "coco", root / "ade20k")
    made_of = {
        "layouts": len(fields(layouts)),
        "train": train,
        "val": val,
        "unlabelled": unlabelled,
        "size": size,
        "seed": seed,
    }
    marker = root / MARKER
    if marker.is_file() and json.loads(marker.read_text(encoding="utf-8")) == made_of:
        return layouts
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"{root} holds something else than {made_of}; give another folder, or remove this one.")
    layouts.images.mkdir(parents=True)
    for index in range(unlabelled):
        (layouts.images / f"unlabelled_{index:06d}.jpg").write_bytes(
            _jpeg(draw_scene(seed, "unlabelled", index, size).image)
        )
    for split, count in (("train", train), ("val", val)):
        _write_split(layouts, split, (draw_scene(seed, split, index, size) for index in range(count)))
    names = ["other (ignored)", "background", *CLASSES]
    lines = "".join(f"{index}\t{name}\n" for index, name in enumerate(names))
    (layouts.ade20k / "classes.txt").write_text(lines, encoding="utf-8")
    marker.write_text(json.dumps(made_of), encoding="utf-8")
    return layouts


def _write_split(layouts: Layouts, split: str, scenes: Iterable[Scene]) -> None:
    long_name = {"train": "training", "val": "validation"}[split]
    coco_images = layouts.coco / f"{split}2017"
    ade_images = layouts.ade20k / "images" / long_name
    ade_labels = layouts.ade20k / "annotations" / long_name
    annotations_file = layouts.coco / "annotations" / f"instances_{split}2017.json"
    for folder in (coco_images, ade_images, ade_labels, annotations_file.parent):
        folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, scene in enumerate(scenes, 1):
        height, width = scene.image.shape[:2]
        stem = f"{split}_{image_id - 1:06d}"
        jpeg = _jpeg(scene.image)
        (coco_images / f"{stem}.jpg").write_bytes(jpeg)
        (ade_images / f"{stem}.jpg").write_bytes(jpeg)
        if split == "train":
            (layouts.images / f"{stem}.jpg").write_bytes(jpeg)
        Image.fromarray(scene.label_map).save(ade_labels / f"{stem}.png")
        images.append({"id": image_id, "file_name": f"{stem}.jpg", "height": height, "width": width})
        for mask, label in zip(scene.masks, scene.labels.tolist(), strict=True):
            folder = layouts.classes / split / CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{stem}_{len(annotations):06d}.jpg").write_bytes(_jpeg(_around(scene.image, mask)))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label + 1,
                    "segmentation": {"size": [height, width], "counts": _run_lengths(mask)},
                    "area": int(mask.sum()),
                    "bbox": _bounding_box(mask),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": index, "name": name, "supercategory": "shape"} for index, name in enumerate(CLASSES, 1)]
    content = {
        "info": {"description": "generated scenes"},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    annotations_file.write_text(json.dumps(content), encoding="utf-8")


def _place_objects(rng: np.random.Generator, size: int) -> list[_Object]:
    """Later objects lie in front; one that would leave too little of itself or another to be seen is not placed."""
    wanted = int(rng.integers(OBJECTS[0], OBJECTS[1] + 1))
    placed: list[_Object] = []
    for _ in range(20 * wanted):
        if len(placed) == wanted:
            break
        item = _draw_object(rng, size)
        hidden = item.visible
        enough = all((earlier.visible & ~hidden).sum() >= MIN_VISIBLE * earlier.area for earlier in placed)
        if enough and hidden.sum() >= MIN_VISIBLE * item.area:
            for earlier in placed:
                earlier.visible &= ~hidden
            placed.append(item)
    return placed


def _draw_object(rng: np.random.Generator, size: int) -> _Object:
    label = int(rng.integers(len(CLASSES)))
    # log-uniform: as many of half the largest diameter and less as of more
    diameter = size * math.exp(rng.uniform(math.log(EXTENT[0]), math.log(EXTENT[1])))
    centre = rng.uniform(diameter / 4, size - diameter / 4, 2)
    corner = np.floor(centre - diameter / 2).astype(int)
    side = math.ceil(diameter) + 2
    outline = Image.new("L", (side * SUPERSAMPLE, side * SUPERSAMPLE))
    _draw_shape(
        ImageDraw.Draw(outline),
        CLASSES[label],
        (centre - corner) * SUPERSAMPLE,
        diameter / 2 * SUPERSAMPLE,
        rng.uniform(0, math.tau),
    )
    coverage = np.asarray(outline.reduce(SUPERSAMPLE), np.float32) * np.float32(1 / 255)
    left, top = np.maximum(corner, 0).tolist()
    right, bottom = np.minimum(corner + side, size).tolist()
    area = float(coverage.sum())
    coverage = coverage[top - corner[1] : bottom - corner[1], left - corner[0] : right - corner[0]]
    visible = np.zeros((size, size), np.bool_)
    visible[top:bottom, left:right] = coverage >= 0.5
    return _Object(label, (left, top, right, bottom), coverage, area, visible)


def _draw_shape(draw: ImageDraw.ImageDraw, name: str, centre: NDArray[np.float64], radius: float, turn: float) -> None:
    x, y = centre
    if name in ("disc", "ring"):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
        if name == "ring":
            hole = 0.55 * radius
            draw.ellipse((x - hole, y - hole, x + hole, y + hole), fill=0)
        return
    corners, notch = {"square": (4, 1.0), "triangle": (3, 1.0), "star": (5, 0.42)}[name]
    steps = 2 * corners if name == "star" else corners
    radii = radius * np.where(np.arange(steps) % 2 == 0, 1.0, notch)
    angles = turn + math.tau * np.arange(steps) / steps
    points = np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1)
    draw.polygon(points.ravel().tolist(), fill=255)


def _colours_apart(rng: np.random.Generator, count: int) -> Floats:
    """[1 + count, 3]: a muted colour, then vivid ones in random order, all apart from one another."""
    chosen = rng.uniform(50, 205) + rng.uniform(-MUTED / 2, MUTED / 2, (1, 3))
    apart = CONTRAST
    while len(chosen) <= count:
        candidates = rng.uniform(10, 245, (64, 3))
        candidates = candidates[np.ptp(candidates, axis=1) >= VIVID]
        distances = np.linalg.norm(candidates[:, None] - chosen, axis=2).min(axis=1, initial=np.inf)
        if distances.max(initial=0) >= apart:
            chosen = np.vstack([chosen, candidates[np.argmax(distances >= apart)]])
        else:
            apart *= 0.9  # the colour cube is nearly full
    return np.vstack([chosen[:1], rng.permutation(chosen[1:])]).astype(np.float32)


def _texture(rng: np.random.Generator, colour: Floats, height: int, width: int) -> Floats:
    """[height, width, 3] around ``colour``: stripes, checkers, noise or a gradient, at a random angle and scale."""
    direction = rng.standard_normal(3)
    half = direction / np.linalg.norm(direction) * rng.uniform(*TEXTURE_SPAN) / 2
    kind = rng.choice(("stripes", "checkers", "noise", "gradient"))
    angle, period, shift = rng.uniform(0, math.tau), rng.uniform(6, 16), rng.uniform(0, math.tau, 2)
    y, x = np.ogrid[:height, :width]
    u = np.float32(math.cos(angle)) * x + np.float32(math.sin(angle)) * y
    v = np.float32(math.cos(angle)) * y - np.float32(math.sin(angle)) * x
    if kind == "stripes":
        pattern = np.clip(3 * np.sin(u * (math.tau / period) + shift[0]), -1, 1)
    elif kind == "checkers":
        pattern = np.clip(
            4 * np.sin(u * (math.pi / period) + shift[0]) * np.sin(v * (math.pi / period) + shift[1]), -1, 1
        )
    elif kind == "noise":
        cells = (max(2, round(width / period * 2)), max(2, round(height / period * 2)))
        coarse = Image.fromarray(rng.uniform(-1.4, 1.4, cells[::-1]).astype(np.float32))
        pattern = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    else:
        pattern = 2 * (u - u.min()) / (np.ptp(u) + 1) - 1
    return (colour + pattern[..., None].astype(np.float32) * half.astype(np.float32)).astype(np.float32)


def _lighting(rng: np.random.Generator, size: int) -> Floats:
    """[size, size, 1] factor that grows by up to a quarter across the picture, in a random direction."""
    angle = rng.uniform(0, math.tau)
    y, x = np.ogrid[-0.5 : 0.5 : size * 1j, -0.5 : 0.5 : size * 1j]
    slope = rng.uniform(0, 0.25) * (math.cos(angle) * x + math.sin(angle) * y)
    return (1 + slope[..., None]).astype(np.float32)


def _jpeg(image: Image8) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def _around(image: Image8, mask: Mask) -> Image8:
    """The square around an object with a quarter of it as margin, moved into the picture where it would reach beyond."""
    left, top, width, height = _bounding_box(mask)
    side = min(math.ceil(1.25 * max(width, height)), *mask.shape)
    x = min(max(0, left + (width - side) // 2), mask.shape[1] - side)
    y = min(max(0, top + (height - side) // 2), mask.shape[0] - side)
    return image[y : y + side, x : x + side]


def _run_lengths(mask: Mask) -> list[int]:
    """COCO's uncompressed run lengths: column by column, beginning with the zeros."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate([[0], changes, [flat.size]])
    runs = np.diff(starts).tolist()
    return [0, *runs] if flat[0] else runs


def _bounding_box(mask: Mask) -> list[int]:
    """COCO's box: left, top, width, height in pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)]
