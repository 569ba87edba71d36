"""Pictures computed without the padding that makes squares of them (``inference.square=false``)."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tiny_detector import CLASSES, write_run
from torch import Tensor

import convmae
from convmae.detection.config import DetectionConfig
from convmae.detection.data.dataset import collate_test, fitted
from convmae.detection.model.detection_model import DetectionModel
from convmae.engine.config import load_config

SIZES = ((50, 70), (64, 64), (20, 90), (90, 20), (50, 70))
SHAPES = ((64, 64), (64, 64), (32, 64), (64, 32), (64, 64))  # at 64 pixels a side, in multiples of 32


def test_only_what_holds_the_picture_is_computed_and_a_full_square_is_the_same(tmp_path: Path) -> None:
    write_run(tmp_path)
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]
    options = {"model__score_threshold": 0.01, "data__img_size": 64}
    square, trimmed = (
        convmae.load(tmp_path / "model.pth", inference__square=square, **options) for square in (True, False)
    )
    seen: list[tuple[int, ...]] = []

    def keep(module: object, inputs: tuple[Tensor, ...]) -> None:
        seen.append(tuple(inputs[0].shape))

    trimmed.module.model.backbone.register_forward_pre_hook(keep)
    results = trimmed.predict(pictures, batch_size=5)
    assert sorted(seen) == [(1, 3, 32, 64), (1, 3, 64, 32), (3, 3, 64, 64)]
    for result, whole, picture, shape in zip(results, square.predict(pictures), pictures, SHAPES, strict=True):
        (alone,) = trimmed.predict(picture)
        np.testing.assert_allclose(result.boxes, alone.boxes, atol=1e-2)
        if shape == (64, 64):
            np.testing.assert_allclose(result.boxes, whole.boxes, atol=1e-2)
        height, width = picture.shape[:2]
        assert (result.boxes <= np.array([width, height, width, height])).all()


def test_an_evaluations_batch_has_the_size_of_its_largest(tmp_path: Path) -> None:
    write_run(tmp_path)
    model = DetectionModel(load_config(DetectionConfig, tmp_path / "config.yaml", ["inference.square=false"]), CLASSES)
    seen: list[tuple[int, ...]] = []
    model.model.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    images = [torch.zeros(3, *size, dtype=torch.uint8) for size in ((20, 90), (15, 90))]
    batch = collate_test([fitted(Image.fromarray(one.permute(1, 2, 0).numpy()), 0, (64,), "grey") for one in images])
    with torch.no_grad():
        model.eval()(**batch, mode="predict")
    assert seen == [(2, 3, 32, 64)]
