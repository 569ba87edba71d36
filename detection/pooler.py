"""RoI align over a pyramid: half-pixel-corrected, sampling ratio by the box's size, level by its area."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align


class Pooler(nn.Module):
    """Cuts features of ``size x size`` out of the level that suits each box (FPN, arXiv 1612.03144, equation 1).

    A box of ``canonical_size`` pixels a side goes to the level of stride 16, one of half that side to the level below.
    """

    def __init__(self, size: int, strides: Sequence[int], canonical_size: float = 224.0) -> None:
        super().__init__()
        self.size, self.strides, self.canonical_size = size, tuple(strides), canonical_size

    def forward(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Returns [N, C, size, size] for the boxes of all pictures in order.

        features: one [B, C, H, W] a level, finest first; boxes: one [n, 4] a picture, in pixels.
        """
        counts = torch.tensor([len(found) for found in boxes], device=features[0].device)
        picture = torch.repeat_interleave(torch.arange(len(boxes), device=features[0].device), counts)
        joined = torch.cat(list(boxes))
        rois = torch.cat([picture[:, None].to(joined.dtype), joined], dim=1)
        level = self.levels(joined)
        parts, order = [], []
        for number, (feature, stride) in enumerate(zip(features, self.strides, strict=True)):
            index = torch.where(level == number)[0]
            order.append(index)
            parts.append(roi_align(feature, rois[index].to(feature.dtype), self.size, 1 / stride, 0, aligned=True))
        return torch.cat(parts)[torch.argsort(torch.cat(order))]

    def levels(self, boxes: Tensor) -> Tensor:
        """Returns the level (0: finest) of each box [N, 4]."""
        side = torch.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
        above = torch.floor(torch.log2(side / self.canonical_size + 1e-8))
        return (above.long() + self.strides.index(16)).clamp(0, len(self.strides) - 1)
