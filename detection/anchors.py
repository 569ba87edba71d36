"""Anchors in floating point, at the strides the pyramid declares."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList


class Anchors(nn.Module):
    """One size a level, several ratios (height / width), centred on multiples of the level's stride.

    torchvision's generator rounds anchors to whole pixels and takes strides from sizes divided; published weights were
    trained without either.
    """

    def __init__(self, sizes: Sequence[float], ratios: Sequence[float], strides: Sequence[int]) -> None:
        super().__init__()
        if len(sizes) != len(strides):
            raise ValueError(f"found {len(sizes)} anchor sizes for {len(strides)} levels; expected one a level")
        self.sizes, self.ratios, self.strides = tuple(sizes), tuple(ratios), tuple(strides)

    def num_anchors_per_location(self) -> list[int]:
        """Returns the number of anchors at a position of each level."""
        return [len(self.ratios)] * len(self.sizes)

    def forward(self, images: ImageList, features: Sequence[Tensor]) -> list[Tensor]:
        """Returns for each picture its anchors [N, 4] in pixels: level by level, row by row, ratios fastest."""
        anchors = torch.cat([self.level(number, feature) for number, feature in enumerate(features)])
        return [anchors] * len(images.image_sizes)

    def level(self, number: int, feature: Tensor) -> Tensor:
        """Returns the anchors [H * W * ratios, 4] of a level from its feature map [B, C, H, W]."""
        size, stride = self.sizes[number], self.strides[number]
        widths = [size / math.sqrt(ratio) for ratio in self.ratios]
        shapes = [(-width / 2, -width * ratio / 2) for width, ratio in zip(widths, self.ratios, strict=True)]
        corners = torch.tensor(shapes, dtype=torch.float32, device=feature.device)
        base = torch.cat([corners, -corners], dim=1)
        rows = torch.arange(feature.shape[-2], dtype=torch.float32, device=feature.device) * stride
        columns = torch.arange(feature.shape[-1], dtype=torch.float32, device=feature.device) * stride
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        centres = torch.stack([x, y, x, y], dim=-1)
        return (centres[:, :, None] + base).view(-1, 4)
