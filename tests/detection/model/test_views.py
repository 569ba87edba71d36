"""Objects from several views: against a plain loop over them by the data's own geometry, mirrored, crowded and empty."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as mask_api
from tiny_detector import CLASSES, SIZE, small_config
from torch import Tensor
from torchvision.ops import batched_nms

from convmae.detection.config import InferenceOptions
from convmae.detection.data.coco import CocoData, read_coco
from convmae.detection.data.dataset import EvalSet, Sample, collate_test, fitted
from convmae.detection.data.transforms import Geometry, fit
from convmae.detection.model.detection_model import DetectionModel
from convmae.detection.model.restore import restore
from convmae.detection.model.views import View, detect_in_views, merge, move, views_of
from convmae.engine.pictures.images import normalize

SIDES = (SIZE, 40, 99)
Found = dict[str, Any]


@pytest.fixture
def data(split: Path) -> CocoData:
    return read_coco(split / "instances.json", split / "images")


def detector(flip: bool, **model: object) -> DetectionModel:
    torch.manual_seed(0)
    config = small_config(**{"score_threshold": 0.0, **model})
    config.inference = InferenceOptions(flip=flip)
    return DetectionModel(config, CLASSES).eval()


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


def square(geometry: Geometry, image: Image.Image) -> Tensor:
    return normalize(geometry.image(image)[None])


def geometries(image: Image.Image, sides: tuple[int, ...], flip: bool) -> list[Geometry]:
    """Of all views; training's flip mirrors them."""
    plain = [fit(*image.size, side) for side in sides]
    return [dataclasses.replace(one, flip=mirrored) for one in plain for mirrored in (False, True)[: 1 + flip]]


def by_hand(model: DetectionModel, image: Image.Image, sides: tuple[int, ...], flip: bool) -> Found:
    """Detections in the picture's pixels, with masks as probabilities in their boxes, as plainly as can be."""
    heads, views = model.model.roi_heads, geometries(image, sides, flip)
    singles = [model.model(square(view, image), sizes=[view.content])[0][0] for view in views]
    boxes = torch.cat([view.restore_boxes(one["boxes"]) for view, one in zip(views, singles, strict=True)])
    scores, labels = (torch.cat([one[name] for one in singles]) for name in ("scores", "labels"))
    kept = batched_nms(boxes, scores, labels, heads.nms_threshold)[: heads.detections]
    found = {"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]}
    if heads.has_mask:
        masks = []
        for view in views:
            there = torch.from_numpy(view.boxes(found["boxes"].double().numpy())).float()
            pyramid = model.model.features(square(view, image))[:-1]
            inside = heads.mask_outputs(pyramid, [there], found["labels"]).sigmoid().numpy()
            masks.append(inside[:, :, ::-1] if view.flip else inside)
        found["masks"] = torch.from_numpy(np.mean(masks, axis=0))
    return found


@torch.no_grad()
@pytest.mark.parametrize(
    ("sides", "flip", "options"),
    [
        ((SIZE,), True, {}),
        (SIDES, False, {}),
        (SIDES, True, {}),
        (SIDES, True, {"detections": 7}),  # fewer than each view has
        (SIDES, True, {"masks": False, "nms_threshold": 0.2}),
    ],
)
def test_several_views_are_a_plain_loop_over_them(sides: tuple[int, ...], flip: bool, options: dict[str, Any]) -> None:
    model, image = detector(flip, **options), noise(90, 61)
    expected = by_hand(model, image, sides, flip)
    batch = collate_test([fitted(image, 5, sides, "grey")])
    squares = [normalize(images) for images in batch["images"]]
    contents = [geometry.content for geometry in batch["samples"][0].geometries]
    views = [view for one, size in zip(squares, contents, strict=True) for view in views_of(one, [size], flip)]
    (found,) = detect_in_views(model.model, views)
    assert len(found["boxes"]) == options.get("detections", 100)
    torch.testing.assert_close(batch["samples"][0].geometry.restore_boxes(found["boxes"]), expected["boxes"])
    assert torch.equal(found["labels"], expected["labels"])
    torch.testing.assert_close(found["scores"], expected["scores"])
    assert found.keys() == expected.keys()
    if "masks" in expected:
        torch.testing.assert_close(found["masks"], expected["masks"], rtol=0, atol=1e-4)
    (restored,) = model(**batch, mode="predict")  # the same from the bytes, in the picture's pixels
    assert restored["image_id"] == 5
    torch.testing.assert_close(restored["boxes"], expected["boxes"])
    assert restored.get("masks") == restore(found, batch["samples"][0]).get("masks")


@torch.no_grad()
def test_one_view_of_any_size_is_what_the_network_finds(data: CocoData) -> None:
    model = detector(flip=False)
    for side in (SIZE, 99):
        batch = collate_test([EvalSet(data, side)[number] for number in range(4)])
        sizes = [sample.geometry.content for sample in batch["samples"]]
        plain, _ = model.model(normalize(batch["images"][0]), sizes=sizes)
        for found, one, sample in zip(model(**batch, mode="predict"), plain, batch["samples"], strict=True):
            expected = restore(one, sample)
            assert found["masks"] == expected["masks"]
            for name in ("boxes", "scores", "labels"):
                assert torch.equal(found[name], expected[name])
        for one, same in zip(
            detect_in_views(model.model, [View(normalize(batch["images"][0]), sizes)]), plain, strict=True
        ):
            for name, values in same.items():
                torch.testing.assert_close(one[name], values)


@torch.no_grad()
@pytest.mark.parametrize("sides", [(SIZE,), (SIZE, 2 * SIZE)])
def test_a_mirrored_picture_has_mirrored_detections(sides: tuple[int, ...]) -> None:
    image = noise(SIZE, 48)  # so that no resizing rounds a mirrored picture otherwise
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)

    def found(model: DetectionModel, picture: Image.Image) -> Found:
        (one,) = model(**collate_test([fitted(picture, 1, sides, "grey")]), mode="predict")
        return {**one, "masks": mask_api.decode(one["masks"]).astype(bool)}

    def boxes_back(one: Found) -> Tensor:
        left, top, right, bottom = one["boxes"].unbind(1)
        return torch.stack([SIZE - right, top, SIZE - left, bottom], 1)

    model = detector(flip=True)
    here, there = found(model, image), found(model, mirrored)
    assert len(here["boxes"]) > 50
    torch.testing.assert_close(boxes_back(there), here["boxes"], rtol=0, atol=1e-3)
    torch.testing.assert_close(there["scores"], here["scores"])
    assert torch.equal(there["labels"], here["labels"])
    assert (here["masks"] != there["masks"][:, ::-1]).mean() < 1e-3
    plain = detector(flip=False)
    here, there = found(plain, image), found(plain, mirrored)
    assert not torch.allclose(boxes_back(there)[:5], here["boxes"][:5], atol=1)


@torch.no_grad()
def test_pictures_of_a_batch_do_not_change_one_another_in_any_view(data: CocoData) -> None:
    model, test_set = detector(flip=True), EvalSet(data, SIZE, 40)
    together = model(**collate_test([test_set[number] for number in range(4)]), mode="predict")
    for number, found in enumerate(together):
        (alone,) = model(**collate_test([test_set[number]]), mode="predict")
        torch.testing.assert_close(found["scores"], alone["scores"], rtol=0, atol=1e-5)
        # Scores that are all but equal may change places: batches are multiplied in another order on some processors.
        rows = [torch.cat([one["boxes"], one["labels"][:, None].float()], dim=1) for one in (found, alone)]
        near = (rows[0][:, None] - rows[1]).abs().amax(2) <= 1e-3
        near &= (found["scores"][:, None] - alone["scores"]).abs() <= 1e-5
        assert near.any(0).all()
        assert near.any(1).all()


@torch.no_grad()
def test_views_without_detections_add_none() -> None:
    image, model = noise(SIZE, 48), detector(flip=True)
    best = []
    for view in geometries(image, (SIZE, 40), flip=True):
        (one,), _ = model.model(square(view, image), sizes=[view.content])
        best.append(float(one["scores"].max()))
    batch = collate_test([fitted(image, 1, (SIZE, 40), "grey")])

    def found(threshold: float) -> Found:
        model.model.roi_heads.score_threshold = threshold
        (one,) = model(**batch, mode="predict")
        return one

    first, second = sorted(best)[-2:]
    one = found((first + second) / 2)  # only one of four views has any
    assert 0 < len(one["boxes"]) == len(one["masks"])
    assert float(one["scores"].max()) == pytest.approx(second)
    none = found(0.999)
    assert none["boxes"].shape == (0, 4)
    assert none["masks"] == []
    model.model.roi_heads.has_mask = False
    assert found(0.999).keys() == {"image_id", "boxes", "scores", "labels"}


def test_merged_are_the_best_of_each_class() -> None:
    def part(*rows: tuple[float, float, int]) -> dict[str, Tensor]:
        """Boxes of 10 x 10 pixels by left side, score, label."""
        boxes = torch.tensor([[left, 0.0, left + 10, 10.0] for left, _, _ in rows]).reshape(-1, 4)
        scores, labels = torch.tensor([row[1] for row in rows]), torch.tensor([row[2] for row in rows])
        return {"boxes": boxes, "scores": scores, "labels": labels.long()}

    parts = [part((0, 0.5, 1), (40, 0.4, 0)), part(), part((1, 0.9, 1), (1, 0.8, 0), (39, 0.3, 1))]
    merged = merge(parts, threshold=0.5, most=100)
    assert merged["scores"].tolist() == pytest.approx([0.9, 0.8, 0.4, 0.3])
    assert merged["labels"].tolist() == [1, 0, 0, 1]
    assert merged["boxes"][:, 0].tolist() == [1, 1, 40, 39]
    assert merge(parts, 0.5, 2)["scores"].tolist() == pytest.approx([0.9, 0.8])
    assert merge([part(), part()], 0.5, 2)["boxes"].shape == (0, 4)


def test_boxes_move_there_and_back(data: CocoData) -> None:
    boxes = torch.tensor([[3.0, 5.0, 40.0, 17.5], [0.0, 0.0, 64.0, 43.0]])
    for mirrored in (False, True):
        (there,) = move([{"boxes": boxes}], [(43, 64)], [(67, 99)], mirrored)
        geometry = Geometry((64, 43), 99, 67, 99, flip=mirrored)
        np.testing.assert_allclose(there["boxes"], geometry.boxes(boxes.double().numpy()), rtol=1e-6)
        (back,) = move([there], [(67, 99)], [(43, 64)], mirrored)
        torch.testing.assert_close(back["boxes"], boxes)


def test_each_view_is_fitted_from_the_picture_itself(data: CocoData) -> None:
    item = EvalSet(data, 32, 128, padding="mean")[0]
    with Image.open(data.path(data.images[0])) as image:
        expected = [fit(96, 64, side).image(image, "mean") for side in (32, 128)]
    assert all(torch.equal(*both) for both in zip(item["images"], expected, strict=True))
    assert item["sample"] == Sample(10, 96, 64, (fit(96, 64, 32), fit(96, 64, 128)))
    mirrored = [view.images for view in views_of(expected[1][None], [(85, 128)], flip=True)]
    assert torch.equal(mirrored[1][..., :85, :], expected[1][None, :, :85].flip(-1))
    assert torch.equal(mirrored[0], expected[1][None])  # nothing is mirrored in place


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1)])
@torch.no_grad()
def test_pictures_of_a_pixels_width_have_views(size: tuple[int, int]) -> None:
    (found,) = detector(flip=True)(**collate_test([fitted(noise(*size), 1, (SIZE, 32), "grey")]), mode="predict")
    assert (found["boxes"].amax(0)[2:] <= torch.tensor(size)).all()
    assert all(mask["size"] == [size[1], size[0]] for mask in found["masks"])
