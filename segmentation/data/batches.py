"""Training crops as one batch of bytes, which goes to the GPU in two copies that nobody waits for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.structures import PixelData

from convmae.segmentation.data.layout import IGNORE
from convmae.segmentation.mmseg_parts import SegDataPreProcessor, SegDataSample


def stack_crops(samples: Sequence[dict[str, Any]], side: int) -> dict[str, Any]:
    """Returns ``crops`` uint8 [B, C, S, S], ``labels`` uint8 [B, 1, S, S] and the ``sizes`` (height, width) of the crops.

    samples: of ``SegmentationDataset``, none larger than S = ``side`` pixels; what a smaller one leaves free is IGNORE.
    """
    crops = torch.zeros(len(samples), len(samples[0]["inputs"]), side, side, dtype=torch.uint8)
    labels = torch.full((len(samples), 1, side, side), IGNORE, dtype=torch.uint8)
    sizes = [tuple(sample["inputs"].shape[1:]) for sample in samples]
    for sample, (height, width), crop, label in zip(samples, sizes, crops, labels, strict=True):
        crop[:, :height, :width] = sample["inputs"]
        label[:, :height, :width] = sample["data_samples"].gt_sem_seg.data
    return {"crops": crops, "labels": labels, "sizes": sizes}


class CropPreProcessor(SegDataPreProcessor):
    """mmseg's preprocessor, which takes batches of ``stack_crops`` too and makes the same of them.

    Pictures are normalised on the device, where pixels beside a smaller crop become 0, the mean.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._non_blocking = True  # the loader pins training's batches; mmseg has no argument for it

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        if "crops" not in data:
            prepared: dict[str, Any] = super().forward(data, training)
            return prepared
        data = self.cast_data(data)
        inputs = (data["crops"].float() - self.mean) / self.std
        for picture, (height, width) in zip(inputs, data["sizes"], strict=True):
            if (height, width) != picture.shape[1:]:
                picture[:, height:] = 0
                picture[:, :, width:] = 0
        labels = data["labels"].long()
        return {
            "inputs": inputs,
            "data_samples": [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels],
        }
