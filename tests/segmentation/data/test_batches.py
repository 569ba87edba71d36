"""Stacked crops are, bit for bit, what mmseg's preprocessor makes of them one by one."""

from collections.abc import Callable

import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.structures import PixelData
from mmseg.models import SegDataPreProcessor
from mmseg.structures import SegDataSample
from torch import Tensor

from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.data.batches import stack_crops
from convmae.segmentation.data.layout import IGNORE
from convmae.segmentation.model.upernet import build_model


def crop(height: int, width: int, seed: int) -> dict:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 3, (1, height, width), generator=generator)
    label[torch.rand(label.shape, generator=generator) < 0.2] = IGNORE
    inputs = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
    return {"inputs": inputs, "data_samples": SegDataSample(gt_sem_seg=PixelData(data=label))}


@pytest.mark.parametrize("sizes", [[(32, 32)] * 3, [(32, 32), (20, 32), (32, 7), (1, 1)]])
def test_a_batch_is_what_mmseg_makes_of_the_crops(
    sizes: list[tuple[int, int]], tiny_config: Callable[[], SegmentationConfig]
) -> None:
    ours = build_model(tiny_config(), 3).data_preprocessor
    mean, std = ([float(value) for value in getattr(ours, name).flatten()] for name in ("mean", "std"))
    theirs = SegDataPreProcessor(mean=mean, std=std, size=(32, 32), seg_pad_val=IGNORE)

    def crops() -> list[dict]:
        return [crop(*size, seed) for seed, size in enumerate(sizes)]

    batch = stack_crops(crops(), 32)
    assert batch["crops"].dtype is batch["labels"].dtype is torch.uint8
    found, expected = ours(batch, True), theirs(pseudo_collate(crops()), True)
    assert torch.equal(found["inputs"], expected["inputs"])
    for one, other in zip(found["data_samples"], expected["data_samples"], strict=True):
        label: Tensor = one.gt_sem_seg.data
        assert label.dtype is torch.int64
        assert torch.equal(label, other.gt_sem_seg.data)
