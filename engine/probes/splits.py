"""A folder of class folders as labelled pictures, and these as a model is tested on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from torchvision.transforms import v2

from convmae.engine.faults import Remark
from convmae.engine.pictures.images import read_image, to_tensor
from convmae.engine.pictures.limits import own_limits
from convmae.engine.pictures.reading import RGB, Reading

BICUBIC = v2.InterpolationMode.BICUBIC


@dataclass
class ClassFolder:
    """One split: its class folders in order, each picture with its label, the classes' names, and how pictures are read.

    ``remarks``: what of the folder is passed over, or may not be meant.
    """

    root: Path
    folders: list[str]
    pictures: list[tuple[Path, int]]
    classes: list[str]
    reading: Reading = RGB
    remarks: list[Remark] = field(default_factory=list)

    def describe(self) -> str:
        """Returns one line for the log and the report."""
        return f"{len(self.pictures)} pictures of {len(self.classes)} classes, in {self.root}"


def centre_crop(img_size: int, test_crop: float) -> v2.Compose:
    """Returns what makes the square of a test picture: ``test_crop`` of its shorter side, at ``img_size`` pixels."""
    return v2.Compose([v2.Resize(round(img_size / test_crop), BICUBIC, antialias=True), v2.CenterCrop(img_size)])


class EvalSet(Dataset):
    """Centre crops: ``images``, bytes [C, S, S]; ``labels`` [] and ``index`` [], the picture's place in the split."""

    def __init__(self, split: ClassFolder, img_size: int, test_crop: float) -> None:
        self.split, self.transform = split, centre_crop(img_size, test_crop)

    def __len__(self) -> int:
        return len(self.split.pictures)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, label = self.split.pictures[index]
        with own_limits():  # Pillow's are for crops, too
            image = to_tensor(self.transform(read_image(path, self.split.reading)))
        return {"images": image, "labels": label, "index": torch.tensor(index)}
