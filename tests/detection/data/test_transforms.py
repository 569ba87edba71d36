"""Large-scale jitter and fitting: boxes, masks and pixels move together."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as mask_api

from convmae.detection.data.coco_records import ObjectRecord, Segmentation
from convmae.detection.data.transforms import GREY, Geometry, fit, large_scale_jitter, place_objects
from convmae.engine.pictures.images import normalize

WIDTH, HEIGHT, SIZE = 120, 90, 96
BOX = (30, 20, 81, 70)


def polygon() -> Segmentation:
    left, top, right, bottom = BOX
    return [[left, top, right, top, right, bottom, left, bottom]]


def runs() -> Segmentation:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    mask[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 1
    found = mask_api.encode(mask)
    return {"size": [HEIGHT, WIDTH], "counts": found["counts"].decode()}


def an_object(segmentation: Segmentation) -> ObjectRecord:
    return ObjectRecord(1, 2, tuple(map(float, BOX)), 1.0, False, segmentation)  # type: ignore[arg-type]


def picture() -> Image.Image:
    """Black, with the object in white."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize("kind", [polygon, runs])
@pytest.mark.parametrize("seed", range(12))
def test_box_mask_and_pixels_of_an_object_stay_together(kind, seed: int) -> None:
    random.seed(seed)
    geometry = large_scale_jitter(WIDTH, HEIGHT, SIZE, (0.3, 2.0), flip=0.5)
    placed = place_objects(geometry, [an_object(kind())], masks=True)
    white = geometry.image(picture())[0] > 190
    if not len(placed["boxes"]):
        assert white.sum() <= 2 * SIZE  # at most a sliver
        return
    mask = placed["masks"][0].bool()
    assert (mask & white).sum() / (mask | white).sum() > 0.88
    rows, columns = torch.where(mask)
    outline = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    assert (placed["boxes"][0] - outline).abs().max() <= 1
    assert placed["labels"].tolist() == [2]


def test_the_square_is_padded_with_grey_and_covers_the_whole_picture_in_testing() -> None:
    geometry = fit(WIDTH, HEIGHT, 60)
    square = geometry.image(picture())
    assert (geometry.height, geometry.width) == geometry.content == (45, 60)
    assert square.shape == (3, 60, 60)
    assert (square[:, 45:] == GREY).all()
    assert not (square[:, :45] == GREY).all(dim=0).all(dim=1).any()


def test_the_mean_colour_is_zero_once_normalised() -> None:
    square = fit(WIDTH, HEIGHT, 60).image(picture(), "mean")
    assert normalize(square[None])[0, :, 45:].abs().max() < 0.01
    assert torch.equal(square[:, :45], fit(WIDTH, HEIGHT, 60).image(picture())[:, :45])


def test_boxes_go_to_the_square_and_back() -> None:
    boxes = np.array([[3.5, 10.25, 77.0, 80.0], [0, 0, WIDTH, HEIGHT]])
    for geometry in (fit(WIDTH, HEIGHT, 333), Geometry((WIDTH, HEIGHT), 240, 180, 128, left=0, top=0, flip=True)):
        back = geometry.restore_boxes(torch.from_numpy(geometry.boxes(boxes)))
        assert torch.allclose(back, torch.from_numpy(boxes))


def test_a_cut_object_has_the_box_of_what_is_left_and_an_uncut_one_keeps_its_sides_between_pixels() -> None:
    whole = Geometry((WIDTH, HEIGHT), 100, 75, SIZE)
    box = place_objects(whole, [an_object(polygon())], masks=True)["boxes"][0]
    assert torch.allclose(box, torch.tensor(BOX) * 100 / 120)
    # A disc whose right half lies beyond the square: its box must end where its remaining mask does.
    angles = np.linspace(0, 2 * np.pi, 100, endpoint=False)
    disc = np.stack([60 + 30 * np.cos(angles), 45 + 30 * np.sin(angles)], axis=1).ravel().tolist()
    cut = Geometry((WIDTH, HEIGHT), WIDTH, HEIGHT, 40, left=0, top=0)
    record = ObjectRecord(1, 0, (30.0, 15.0, 90.0, 75.0), 1.0, False, [disc])
    placed = place_objects(cut, [record], masks=True)
    left, top, right, bottom = placed["boxes"][0].tolist()
    assert (right, bottom) == (40, 40)
    assert left == pytest.approx(30, abs=1)
    assert top > 20  # the disc's topmost point is beyond the cut


@pytest.mark.parametrize("side", [SIZE, 4 * SIZE])
def test_an_uncut_object_keeps_the_files_box_even_far_from_its_mask_at_any_scale(side: int) -> None:
    geometry = fit(WIDTH, HEIGHT, side)
    amodal = (BOX[0] - 8, BOX[1] - 8, BOX[2] + 8, BOX[3] + 8)
    record = ObjectRecord(1, 0, amodal, 1.0, False, an_object(polygon()).segmentation)
    placed = place_objects(geometry, [record], masks=True)["boxes"]
    assert torch.allclose(placed, torch.from_numpy(geometry.boxes(np.array([amodal]))).float())


def test_draws_follow_from_the_global_generator_alone() -> None:
    random.seed(3)
    first = [large_scale_jitter(WIDTH, HEIGHT, SIZE, (0.1, 2.0), 0.5) for _ in range(3)]
    random.seed(3)
    assert first == [large_scale_jitter(WIDTH, HEIGHT, SIZE, (0.1, 2.0), 0.5) for _ in range(3)]


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 4000), (4000, 1)])
def test_extreme_pictures_pass(width: int, height: int) -> None:
    random.seed(0)
    image = Image.new("RGB", (width, height))
    for geometry in (
        fit(width, height, 64),
        *(large_scale_jitter(width, height, 64, (0.1, 2.0), 0.5) for _ in range(9)),
    ):
        assert geometry.image(image).shape == (3, 64, 64)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [(40, 30), (96, 64), (300, 200), (1, 7)])
def test_a_mask_is_decoded_at_the_squares_pixels_alone(
    size: tuple[int, int], flip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    width, height = size
    masks = np.random.default_rng(0).integers(0, 2, (4, height, width)).astype(np.uint8)
    masks[2], masks[3] = 0, 1
    runs = [mask_api.encode(np.asfortranarray(mask)) for mask in masks]
    found: list[Segmentation] = [{"size": [height, width], "counts": run["counts"].decode()} for run in runs]
    monkeypatch.setattr(mask_api, "decode", None)  # which would take the memory of the whole picture for each mask
    for scale in (0.4, 1.0, 2.7):
        across, down = max(1, round(scale * width)), max(1, round(scale * height))
        geometry = Geometry(size, across, down, 96, max(0, across - 96) // 2, max(0, down - 96) // 3, flip)
        rows = (
            ((np.arange(geometry.content[0]) + geometry.top + 0.5) / geometry.scale[1]).astype(int).clip(max=height - 1)
        )
        columns = ((np.arange(geometry.content[1]) + geometry.left + 0.5) / geometry.scale[0]).astype(int)
        shown = (masks[:, :, ::-1] if flip else masks)[:, rows[:, None], columns.clip(max=width - 1)]
        placed = geometry.masks(found)
        assert np.array_equal(placed[:, : geometry.content[0], : geometry.content[1]], shown)
        assert placed.sum() == shown.sum()
