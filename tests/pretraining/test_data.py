"""Pretraining samples against torchvision's own augmentation with the same draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from convmae.engine.images import to_tensor
from convmae.pretraining.config import PretrainingDataOptions
from convmae.pretraining.data import PictureFolder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One picture with detail, and large enough that a crop of it is decoded at half its size."""
    rng = np.random.default_rng(0)
    grid = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    grid.resize((320, 240), Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", quality=95)
    return tmp_path


@pytest.mark.parametrize("img_size", [160, 48])
@pytest.mark.parametrize("flip", [True, False])
def test_a_sample_is_torchvisions_random_crop_with_the_same_draws(folder: Path, img_size: int, flip: bool) -> None:
    pictures = PictureFolder(PretrainingDataOptions(root=str(folder), flip=flip), img_size)
    plain = v2.Compose(
        [
            v2.RandomResizedCrop(img_size, (0.2, 1.0), interpolation=v2.InterpolationMode.BICUBIC),
            v2.RandomHorizontalFlip(0.5 if flip else 0.0),
        ]
    )
    with Image.open(folder / "a.jpg") as image:
        for seed in range(6):
            torch.manual_seed(seed)
            sample = pictures[0]
            torch.manual_seed(seed)
            expected, noise = to_tensor(plain(image)), torch.rand(pictures.tokens)
            assert sample["images"].dtype == torch.uint8
            assert (sample["images"].float() - expected.float()).abs().mean() < 2
            assert torch.equal(sample["noise"], noise)
