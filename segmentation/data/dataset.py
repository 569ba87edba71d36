"""Pictures and label maps as training crops and validation items, in mmseg's form."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from convmae.engine.feeding.pictures import Pictures
from convmae.engine.pictures.images import Picture
from convmae.engine.pictures.reading import reading_picture
from convmae.segmentation.config import SegmentationDataOptions
from convmae.segmentation.data.layout import IGNORE, Pair, check_size, read_label
from convmae.segmentation.mmseg_parts import (
    PackSegInputs,
    PhotoMetricDistortion,
    RandomCrop,
    RandomFlip,
    RandomResize,
    rescale_size,
)


class SegmentationDataset(Dataset[dict[str, Any]]):
    """Map-style data: ``inputs`` uint8 [C, H, W] and ``data_samples`` with ``gt_sem_seg`` int64 [1, H, W].

    In training both are a crop of at most ``options.crop`` pixels a side, drawn from the global generators; in validation
    they are as the files are. Raises UserError, naming the file, where a picture or label map turns out to be broken.
    """

    def __init__(
        self, pairs: list[Pair], classes: list[str], options: SegmentationDataOptions, train: bool, channels: int = 3
    ) -> None:
        self.pairs = pairs
        self.classes = classes
        self.options = options
        self.reading = options.reading(channels)
        self.pictures = Pictures([pair.image for pair in pairs], self.reading, options.keep if train else "none")
        self.metainfo = {"classes": classes}  # mmengine hands it to the metrics
        self._transforms = _training_transforms(options) if train else []
        self._pack = PackSegInputs()

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> Path:
        """Returns the file of a picture, for messages."""
        return self.pairs[index].image

    def __getitem__(self, index: int) -> dict[str, Any]:
        pair = self.pairs[index]
        # Hue and saturation are distorted alike whether the channels are RGB or BGR, so mmseg's transforms serve RGB.
        with reading_picture():
            image = _pixels(self.pictures.read(index))
        label = read_label(pair.label, len(self.classes), self.options.reduce_zero_label, self.reading.max_pixels)
        check_size(pair, label.shape[::-1], image.shape[1::-1])
        results: dict[str, Any] = {
            "img": image,
            "img_path": str(pair.image),
            "seg_map_path": str(pair.label),
            "img_shape": image.shape[:2],
            "ori_shape": image.shape[:2],
            "gt_seg_map": label,
            "seg_fields": ["gt_seg_map"],
        }
        for transform in self._transforms:
            results = transform(results)
        # Of one pixel's width a mirrored array counts as contiguous, and mmseg would pack it with its negative stride.
        results["img"] = results["img"].copy()
        return self._pack(results)


def _pixels(picture: Picture) -> NDArray[np.uint8]:
    """A picture as bytes [H, W, C]."""
    if isinstance(picture, Tensor):
        return np.ascontiguousarray(picture.permute(1, 2, 0).numpy())
    return np.array(picture)


class _RandomRescale(RandomResize):
    """mmcv's resizing at the picture's own ratio, which would leave no pixel across a long strip."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        height, width = results["img_shape"]
        sides = rescale_size((width, height), self._random_scale())
        self.resize.scale = tuple(max(1, side) for side in sides)
        resized: dict[str, Any] = self.resize(results)
        return resized


def _training_transforms(options: SegmentationDataOptions) -> list[Any]:
    """mmseg's transforms draw from numpy's global generator, which the engine seeds for each sample."""
    transforms: list[Any] = [
        _RandomRescale(picture_scale(options), tuple(options.ratio_range), resize_type="Resize", keep_ratio=False),
        RandomCrop(crop_size=(options.crop, options.crop), cat_max_ratio=options.cat_max_ratio, ignore_index=IGNORE),
        RandomFlip(prob=options.flip),
    ]
    if options.photometric:
        transforms.append(PhotoMetricDistortion())
    return transforms


def picture_scale(options: SegmentationDataOptions) -> tuple[int, int]:
    """Returns the long and the short side that pictures are resized to fit in."""
    long, short = options.scale
    return long, short
