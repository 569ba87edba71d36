"""The heads' losses are mmseg's, bit for bit, and so is the accuracy that is logged beside them."""

from collections.abc import Callable

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.structures import SegDataSample

from convmae.segmentation.config import LossOptions, SegmentationConfig
from convmae.segmentation.data.layout import IGNORE
from convmae.segmentation.model.heads import pixel_accuracy
from convmae.segmentation.model.losses import weigh_pixels
from convmae.segmentation.model.upernet import build_model, heads


@pytest.mark.parametrize("options", [LossOptions(), LossOptions(ohem=0.6, ohem_kept=20, class_weights=[1.0, 2.0, 5.0])])
def test_loss_and_accuracy_are_mmsegs(options: LossOptions, tiny_config: Callable[[], SegmentationConfig]) -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (4, 1, 20, 24))
    labels[torch.rand(labels.shape) < 0.2] = IGNORE
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]
    scores = torch.randn(4, 3, 5, 6)
    for head in heads(build_model(tiny_config(), 3)):
        weigh_pixels([head], options, torch.tensor([500, 300, 200]).numpy())
        found, expected = (of(head, scores, samples) for of in (type(head).loss_by_feat, BaseDecodeHead.loss_by_feat))
        assert found.keys() == expected.keys()
        assert torch.equal(found["loss_ce"], expected["loss_ce"])
        torch.testing.assert_close(found["acc_seg"], expected["acc_seg"][0])


def test_without_labelled_pixels_there_is_no_accuracy() -> None:
    labels = torch.full((2, 4, 4), IGNORE)
    assert pixel_accuracy(torch.randn(2, 3, 4, 4), labels).isnan()
    labels[0, 0, :2] = torch.tensor([0, 1])
    scores = torch.zeros(2, 3, 4, 4)
    scores[:, 1] = 1
    assert pixel_accuracy(scores, labels) == 50
