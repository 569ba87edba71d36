"""Anchors in floating point, at the strides the pyramid declares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


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
        self._last: tuple[Any, Tensor] | None = None  # anchors are the same from step to step, and cost copies to a GPU

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Returns the anchors [N, 4] in pixels of maps [B, C, H, W]: level by level, row by row, ratios fastest."""
        key = features[0].device, *(feature.shape[-2:] for feature in features)
        if self._last is None or self._last[0] != key:
            with torch.inference_mode(False):  # what inference makes can't serve training
                self._last = key, torch.cat([self.level(number, feature) for number, feature in enumerate(features)])
        return self._last[1]

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
