"""Tiles of a large picture find what the whole picture holds: a detector that is exact on discs shows what tiles do to it."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools import mask as mask_api
from scipy import ndimage

from convmae.detection.data.rle import encode_runs
from convmae.detection.tiles import detect_in_tiles, place_tiles
from convmae.engine.errors import UserError
from convmae.engine.pictures.images import Picture

COLOURS = ((250, 40, 40), (40, 250, 40))  # of the two classes


def scene(width: int, height: int, count: int, radii: tuple[int, int], seed: int) -> Image.Image:
    """Discs of two colours that don't touch, on black, anywhere on the picture."""
    generator = np.random.default_rng(seed)
    image, placed = Image.new("RGB", (width, height)), list[tuple[int, int, int]]()
    draw = ImageDraw.Draw(image)
    for _ in range(200 * count):
        radius = int(generator.integers(*radii))
        x, y = int(generator.integers(0, width)), int(generator.integers(0, height))
        if len(placed) < count and all(np.hypot(x - a, y - b) > radius + r + 3 for a, b, r in placed):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=COLOURS[len(placed) % 2])
            placed.append((x, y, radius))
    assert len(placed) == count
    return image


def discs(images: Sequence[Picture], masks: bool = True, least: int = 0) -> list[dict[str, Any]]:
    """Finds the connected parts of each colour that have more than ``least`` pixels, surer the more they have."""
    results = []
    for image in images:
        pixels = np.asarray(image)
        boxes, scores, labels, rles = [], [], [], []
        for label, colour in enumerate(COLOURS):
            parts, _ = ndimage.label((pixels == colour).all(-1))
            for number, (rows, columns) in enumerate(ndimage.find_objects(parts), 1):
                part = parts == number
                if part.sum() > least:
                    boxes.append((columns.start, rows.start, columns.stop, rows.stop))
                    scores.append(min(1.0, 0.3 + part.sum() / 1e5))
                    labels.append(label)
                    rles.append(mask_api.encode(np.asfortranarray(part)))
        found = {
            "boxes": torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
            "scores": torch.tensor(scores),
            "labels": torch.tensor(labels, dtype=torch.int64),
        }
        results.append({**found, "masks": rles} if masks else found)
    return results


def ordered(found: dict[str, Any]) -> list[tuple[Any, ...]]:
    masks = (
        [mask_api.decode(rle).tobytes() for rle in found["masks"]] if "masks" in found else [b""] * len(found["scores"])
    )
    boxes = [tuple(box) for box in found["boxes"].tolist()]
    return sorted(zip(found["labels"].tolist(), boxes, masks, strict=True))


@pytest.mark.parametrize(
    ("size", "count", "radii", "side", "overlap"),
    [
        ((900, 700), 60, (4, 20), 256, 0.2),  # objects smaller than what tiles share
        ((640, 480), 12, (30, 60), 200, 0.25),  # larger than that: all are cut somewhere
        ((500, 500), 3, (80, 120), 128, 0.3),  # larger than a tile
        ((300, 90), 10, (4, 12), 100, 0.5),  # each object in several tiles
        ((80, 70), 5, (4, 9), 128, 0.2),  # one tile is enough
    ],
)  # fmt: skip
@pytest.mark.parametrize("masks", [True, False], ids=["masks", "boxes"])
def test_tiles_find_what_the_whole_picture_has(
    size: tuple[int, int], count: int, radii: tuple[int, int], side: int, overlap: float, masks: bool
) -> None:
    for seed in range(2):
        image = scene(*size, count, radii, seed)
        (whole,) = discs([image], masks)
        found = detect_in_tiles(lambda images: discs(images, masks), image, side, overlap, 0.5, 3)
        assert ordered(found) == ordered(whole)
        assert (found["scores"][:-1] >= found["scores"][1:]).all()


def test_what_a_border_leaves_of_an_object_is_dropped() -> None:
    """The right tile shows 12 columns of a disc and finds a shifted part of them; the left tile shows all of it."""
    image = Image.new("RGB", (300, 128))
    left, right = place_tiles(300, 128, 200, 0.25)[:2]
    assert (left.right, right.left) == (200, 100)

    def detect(images: Sequence[Picture]) -> list[dict[str, Any]]:
        boxes = [[[60.0, 30.0, 112.0, 80.0]], [[0.0, 50.0, 9.0, 60.0], [120.0, 30.0, 180.0, 80.0]]]
        return [
            {
                "boxes": torch.tensor(one),
                "scores": torch.full((len(one),), 0.9),
                "labels": torch.zeros(len(one), dtype=int),
            }
            for one in boxes[: len(images)]
        ]

    found = detect_in_tiles(detect, image, 200, 0.25, 0.5, 2)
    assert sorted(found["boxes"].tolist()) == [[60.0, 30.0, 112.0, 80.0], [220.0, 30.0, 280.0, 80.0]]


def test_neighbours_of_one_tile_and_other_classes_stay_apart() -> None:
    """Two objects side by side across a border, and one of another class in the same place as the first."""
    image = Image.new("RGB", (300, 100))
    boxes = np.array([[90, 10, 210, 40], [90, 42, 210, 72], [90, 10, 210, 40]], dtype=np.float64)
    labels = [0, 0, 1]

    def detect(images: Sequence[Picture]) -> list[dict[str, Any]]:
        results = []
        for tile in place_tiles(300, 100, 200, 0.25)[: len(images)]:
            own = (boxes - np.tile((tile.left, tile.top), 2)).clip(0, (200, 100, 200, 100))
            results.append(
                {
                    "boxes": torch.from_numpy(own),
                    "scores": torch.tensor([0.9, 0.8, 0.7]),
                    "labels": torch.tensor(labels),
                }
            )
        return results

    found = detect_in_tiles(detect, image, 200, 0.25, 0.5, 2)
    assert found["boxes"].tolist() == boxes.tolist()
    assert found["labels"].tolist() == labels


@pytest.mark.parametrize(
    ("width", "height", "side", "overlap"), [(1000, 700, 256, 0.2), (257, 256, 256, 0.0), (90, 500, 100, 0.9)]
)
def test_tiles_cover_the_picture_and_overlap(width: int, height: int, side: int, overlap: float) -> None:
    covered = np.zeros((height, width), dtype=bool)
    tiles = place_tiles(width, height, side, overlap)
    for tile in tiles:
        assert tile.right - tile.left == min(side, width)
        assert tile.bottom - tile.top == min(side, height)
        covered[tile.top : tile.bottom, tile.left : tile.right] = True
    assert covered.all()
    lefts = sorted({tile.left for tile in tiles})
    assert all(after - before <= side * (1 - overlap) + 1 for before, after in itertools.pairwise(lefts))


def test_tiles_that_can_not_be_are_refused() -> None:
    for side, overlap, said in (
        (16, 0.2, "tile is 16 pixels; expected at least 32"),
        (64, 1.0, "overlap is 1; expected"),
    ):
        with pytest.raises(UserError, match=said):
            place_tiles(100, 100, side, overlap)


def blob(height: int, width: int, seed: int) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random((height, width)) < (0.5, 0.95, 0.02)[seed % 3]


@pytest.mark.parametrize("seed", range(6))
def test_runs_of_a_part_are_those_of_the_whole_mask(seed: int) -> None:
    for (height, width), (left, top) in (
        ((5, 7), (2, 3)),
        ((9, 4), (0, 0)),
        ((9, 12), (0, 0)),
        ((1, 1), (11, 8)),
        ((0, 0), (0, 0)),
    ):
        part = np.ones((height, width), bool) if seed == 0 else blob(height, width, seed)
        whole = np.zeros((9, 12), bool)
        whole[top : top + height, left : left + width] = part
        expected = mask_api.encode(np.asfortranarray(whole))
        assert encode_runs(part, (left, top), (9, 12)) == {"size": [9, 12], "counts": expected["counts"].decode()}
