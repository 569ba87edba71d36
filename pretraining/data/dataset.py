"""Unlabelled pictures for pretraining."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from torchvision.transforms import v2

from convmae.engine.faults import Fault, Tally, refuse_all
from convmae.engine.feeding.pictures import Crops, Pictures
from convmae.engine.pictures.folders import list_images
from convmae.engine.pictures.images import Box, resize_crop
from convmae.engine.pictures.reading import reading_picture
from convmae.engine.pictures.value_ranges import check_ranges
from convmae.pretraining.config import PretrainingDataOptions
from convmae.pretraining.data.label_maps import check_label_maps


class PictureFolder(Dataset):
    """Random square crops of the pictures below a folder, each with the noise that its mask follows from.

    A sample holds ``images`` (bytes [channels, S, S]) and ``noise`` ([L], L the number of 16-pixel patches). ``remarks``: what
    of the folder is passed over, or may not be meant.
    """

    def __init__(self, options: PretrainingDataOptions, img_size: int, channels: int = 3) -> None:
        faults: list[Fault] = []
        self.paths = list_images(options.root, faults.append, once=True)
        self.reading = options.reading(channels)
        check_label_maps(self.paths, faults.append)
        check_ranges(self.paths, self.reading, faults.append)
        refuse_all(faults)
        self.remarks = Tally(faults).remarks
        self.tokens = (-(-img_size // 16)) ** 2
        self.img_size = img_size
        self.pictures = Pictures(self.paths, self.reading, options.keep, Crops(img_size, options.crop_scale))
        self.crop = v2.RandomResizedCrop(img_size, (options.crop_scale, 1.0))
        self.flip = 0.5 if options.flip else 0.0  # how often

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> Path:
        """Returns the file of a picture, for messages."""
        return self.paths[index]

    def __getitem__(self, index: int) -> dict[str, Any]:
        with reading_picture():
            image, crop = self.pictures.read_crop(index, self.choose, self.img_size)
        picture = resize_crop(image, crop, self.img_size)
        if torch.rand(1).item() < self.flip:
            picture = picture.flip(-1)
        return {"images": picture, "noise": torch.rand(self.tokens)}

    def choose(self, height: int, width: int) -> Box:
        """Draws a crop of a picture of that size."""
        return Box(**self.crop.make_params([torch.empty(3, height, width, device="meta")]))
