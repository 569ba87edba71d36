"""Weights of pixels in the loss: by class, by hardness, against plain code and mmseg's own."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from mmseg.structures.sampler import OHEMPixelSampler
from torch import Tensor, nn

from convmae.engine.errors import UserError
from convmae.segmentation.config import LossOptions, SegmentationConfig
from convmae.segmentation.data.layout import IGNORE
from convmae.segmentation.model.losses import class_weights, weigh_pixels
from convmae.segmentation.model.upernet import build_model, heads

PIXELS = np.array([800, 150, 50])


@pytest.fixture
def head(tiny_config: Callable[[], SegmentationConfig]) -> nn.Module:
    return heads(build_model(tiny_config(), 3))[0]


def batch(count: int = 4) -> tuple[Tensor, Tensor]:
    """Scores [B, 3, 20, 24] and labels [B, 1, 20, 24], some ignored; the later crops are the harder ones."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (count, 1, 20, 24), generator=generator)
    scores = (
        F.one_hot(labels[:, 0], 3).permute(0, 3, 1, 2) * torch.tensor([4.0, 3.0, 1.0, 0.0])[:count, None, None, None]
    )
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = IGNORE
    return scores + torch.randn(scores.shape, generator=generator), labels


def loss_of(head: nn.Module, scores: Tensor, labels: Tensor) -> Tensor:
    return head.loss_by_feat(scores, [SegDataSample(gt_sem_seg=PixelData(data=one)) for one in labels])["loss_ce"]


def test_weights_that_balance_are_enets_and_1_on_average() -> None:
    weights = class_weights(LossOptions(balance=True), PIXELS)
    assert weights is not None
    share = PIXELS / 1000
    plain = np.array([1 / np.log(1.02 + part) for part in share])
    assert plain.tolist() == pytest.approx([1.670, 6.369, 14.780], abs=1e-3)
    np.testing.assert_allclose(weights / weights[0], plain / plain[0], rtol=1e-6)
    assert float((weights * torch.from_numpy(share)).sum()) == pytest.approx(1)
    assert class_weights(LossOptions(), PIXELS) is None


def test_loss_with_class_weights_is_a_mean_over_all_pixels(head: nn.Module) -> None:
    scores, labels = batch()
    weigh_pixels([head], LossOptions(class_weights=[0.5, 1.0, 4.0]), PIXELS)
    each = F.cross_entropy(scores, labels[:, 0], ignore_index=IGNORE, reduction="none")
    weight = torch.tensor([0.5, 1.0, 4.0])[labels[:, 0].clamp(max=2)]
    torch.testing.assert_close(loss_of(head, scores, labels), (each * weight).sum() / labels.numel())


def test_hard_pixels_of_a_crop_are_mmsegs(head: nn.Module) -> None:
    scores, labels = batch()
    weigh_pixels([head], LossOptions(ohem=0.6, ohem_kept=50), PIXELS)
    kept = torch.cat([OHEMPixelSampler(head, 0.6, 50).sample(scores[i : i + 1], labels[i : i + 1]) for i in range(4)])
    assert kept[0].sum() == 50  # an easy crop keeps what it must
    assert kept[3].sum() > 100
    each = F.cross_entropy(scores, labels[:, 0], ignore_index=IGNORE, reduction="none")
    torch.testing.assert_close(loss_of(head, scores, labels), (each * kept).mean())


@pytest.mark.parametrize(
    "options",
    [LossOptions(), LossOptions(balance=True), LossOptions(ohem=0.6, ohem_kept=50, class_weights=[1.0, 2.0, 9.0])],
)
def test_parts_add_up_and_a_batch_without_labels_has_no_loss(head: nn.Module, options: LossOptions) -> None:
    scores, labels = batch()
    weigh_pixels([head], options, PIXELS)
    parts = [loss_of(head, scores[part], labels[part]) for part in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(loss_of(head, scores, labels), sum(parts) / 2)
    assert parts[0] != parts[1]
    scores.requires_grad_(True)
    loss = loss_of(head, scores, torch.full_like(labels, IGNORE))
    loss.backward()
    assert loss == 0
    assert scores.grad is not None
    assert scores.grad.count_nonzero() == 0  # which nan is not


@pytest.mark.parametrize(
    ("options", "pixels", "message"),
    [
        (LossOptions(class_weights=[1.0, 2.0]), PIXELS, r"has 2 numbers from 1 to 2; expected 3"),
        (LossOptions(class_weights=[1.0, 2.0, -1.0]), PIXELS, "none below 0"),
        (LossOptions(class_weights=[0.0, 0.0, 0.0]), PIXELS, "not all 0"),
        (LossOptions(class_weights=[1.0, 1.0, 1.0], balance=True), PIXELS, "expected one of them"),
    ],
)
def test_weights_that_fit_no_classes_are_refused(options: LossOptions, pixels: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        class_weights(options, pixels)
