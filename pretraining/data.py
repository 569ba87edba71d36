"""Unlabelled pictures for pretraining."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision.transforms import v2

from convmae.engine.images import list_images, read_image, to_tensor
from convmae.pretraining.config import PretrainingDataOptions


class PictureFolder(Dataset):
    """Random square crops of the pictures below a folder, each with the noise that its mask follows from.

    A sample holds ``images`` (bytes [3, S, S]) and ``noise`` ([L], L the number of 16-pixel patches).
    """

    def __init__(self, options: PretrainingDataOptions, img_size: int) -> None:
        self.paths = list_images(options.root)
        self.tokens = (-(-img_size // 16)) ** 2
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(
                    img_size, (options.crop_scale, 1.0), interpolation=v2.InterpolationMode.BICUBIC, antialias=True
                ),
                v2.RandomHorizontalFlip(0.5 if options.flip else 0.0),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> Path:
        """Returns the file of a picture, for messages."""
        return self.paths[index]

    def __getitem__(self, index: int) -> dict[str, Any]:
        image: Image.Image = self.transform(read_image(self.paths[index]))
        return {"images": to_tensor(image), "noise": torch.rand(self.tokens)}
