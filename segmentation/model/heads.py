"""mmseg's heads with a loss and an accuracy that never make the host wait for a GPU."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from convmae.segmentation.data.layout import IGNORE
from convmae.segmentation.mmseg_parts import FCNHead, SegDataSample, UPerHead


class _PixelLoss:
    """``loss_by_feat`` of a head with one loss. mmseg's sorts the scores of every pixel and selects pixels by masks."""

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples: list[SegDataSample]) -> dict[str, Tensor]:
        """Returns the loss by its name and ``acc_seg``, from scores [B, N, h, w] and label maps [B, 1, H, W]."""
        labels = self._stack_batch_gt(batch_data_samples)  # type: ignore[attr-defined]
        scores = F.interpolate(seg_logits, labels.shape[2:], mode="bilinear", align_corners=self.align_corners)  # type: ignore[attr-defined]
        weight = self.sampler.sample(scores, labels) if self.sampler else None  # type: ignore[attr-defined]
        labels = labels.squeeze(1)
        loss = self.loss_decode  # type: ignore[attr-defined]
        value = loss(scores, labels, weight=weight, ignore_index=IGNORE)
        return {loss.loss_name: value, "acc_seg": pixel_accuracy(scores, labels)}


class PyramidHead(_PixelLoss, UPerHead):
    """UPerNet's decoder."""


class AuxiliaryHead(_PixelLoss, FCNHead):
    """Convolutions on one map, beside the decoder in training."""


def pixel_accuracy(scores: Tensor, labels: Tensor) -> Tensor:
    """Returns the percentage of labelled pixels with the best score at their label, []; nan where none is labelled.

    scores: [B, N, H, W]; labels: [B, H, W]. Of equal scores the first wins, where mmseg takes any.
    """
    return 100 * (scores.argmax(1) == labels).sum() / (labels != IGNORE).sum()
