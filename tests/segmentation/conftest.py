"""A small ADE20K-layout data folder that the segmentation tests share."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convmae.segmentation.config import SegmentationConfig

CLASSES = ["square", "stripe", "dot"]


def write_pair(root: Path, split: str, name: str, label: np.ndarray, seed: int = 0) -> None:
    """Writes a noisy picture whose brightness follows ``label``, and ``label``."""
    noise = np.random.default_rng(seed).integers(0, 40, (*label.shape, 3))
    image = np.clip(label[..., None].astype(int) * 60 + noise, 0, 255).astype(np.uint8)
    for folder, suffix, array in (("images", ".jpg", image), ("annotations", ".png", label)):
        path = root / folder / split / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)


@pytest.fixture
def ade_root(tmp_path: Path) -> Path:
    """Six training and three validation pictures of 48 x 40 pixels, label 0 = other, 1..3 = CLASSES."""
    root = tmp_path / "data"
    for split, count, first in (("training", 6, 0), ("validation", 3, 6)):
        for number in range(count):
            label = np.random.default_rng(number).integers(0, 4, (5, 6)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
            write_pair(root, split, f"picture_{number}", label, first + number)
    (root / "classes.txt").write_text("0\tother\n" + "".join(f"{i}\t{name}\n" for i, name in enumerate(CLASSES, 1)))
    return root


@pytest.fixture
def tiny_config(ade_root: Path) -> Callable[[], SegmentationConfig]:
    """Makes a run on ``ade_root`` that takes seconds."""

    def make() -> SegmentationConfig:
        config = SegmentationConfig()
        config.model.size, config.model.decode_channels, config.model.aux_channels = "tiny", 16, 16
        config.data.root, config.data.crop, config.data.scale = str(ade_root), 32, [48, 40]
        config.data.batch_size, config.data.workers = 2, 0
        config.inference.crop, config.inference.stride = 32, 20
        config.schedule.steps, config.schedule.warmup = 2, 1
        config.schedule.eval_every = config.schedule.save_every = 0
        config.runtime.device, config.runtime.precision = "cpu", "fp32"
        return config

    return make
