"""RoI align over a pyramid: half-pixel-corrected, sampling ratio by the box's size, level by its area."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

# On a CPU, maps of up to so many positions are pooled by matrix products: several times faster there than torchvision's
# loops, which use one thread, and slower beyond, since every position of the map takes part.
_DENSE_LIMIT = 64 * 64


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
        joined = torch.cat(list(boxes))
        rois = torch.cat([F.pad(found, (1, 0), value=picture) for picture, found in enumerate(boxes)])
        level = self.levels(joined)
        order = level.argsort(stable=True)  # pictures stay in order within a level
        # The one result that the host waits for.
        counts = (level[:, None] == torch.arange(len(self.strides), device=level.device)).sum(dim=0).tolist()
        parts = []
        for feature, stride, some in zip(features, self.strides, rois[order].split(counts), strict=True):
            if _is_dense(feature):
                parts.append(dense_roi_align(feature, some, self.size, 1 / stride))
            else:
                pooled = roi_align(poolable(feature), some.float(), self.size, 1 / stride, 0, aligned=True)
                parts.append(pooled.to(feature.dtype))
        return torch.cat(parts)[order.argsort()]

    def levels(self, boxes: Tensor) -> Tensor:
        """Returns the level (0: finest) of each box [N, 4]."""
        side = torch.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
        above = torch.floor(torch.log2(side / self.canonical_size + 1e-8))
        return (above.long() + self.strides.index(16)).clamp(0, len(self.strides) - 1)


def poolable(feature: Tensor) -> Tensor:
    """Returns a map [B, C, H, W] as it is pooled from, so that several poolers share one copy."""
    # In fp32 whatever the map's precision: bf16 would move the edges of boxes by whole pixels.
    return feature if _is_dense(feature) else feature.float().contiguous()


def _is_dense(feature: Tensor) -> bool:
    return feature.device.type == "cpu" and feature.shape[-2] * feature.shape[-1] <= _DENSE_LIMIT


def dense_roi_align(feature: Tensor, rois: Tensor, size: int, scale: float) -> Tensor:
    """Returns what ``torchvision.ops.roi_align(..., aligned=True)`` does, [N, C, size, size], by matrix products.

    Each value is a mean of bilinear samples on a grid, so it is linear in the rows and in the columns of the map separately.
    feature: [B, C, H, W]; rois: [N, 5], picture (in ascending order) and box.
    """
    batch, channels, height, width = feature.shape
    with torch.no_grad():
        corners = rois[:, 1:] * scale - 0.5
        rows = _sample_weights(corners[:, 1], corners[:, 3], size, height).to(feature.dtype)
        columns = _sample_weights(corners[:, 0], corners[:, 2], size, width).to(feature.dtype)
        counts = torch.bincount(rois[:, 0].long(), minlength=batch).tolist()
    maps = feature.permute(0, 2, 3, 1).reshape(batch, height, width * channels)
    cut = torch.cat([part.flatten(0, 1) @ one for part, one in zip(rows.split(counts), maps, strict=True)])
    cut = cut.view(-1, size, width, channels)
    return (columns[:, None] @ cut).permute(0, 3, 1, 2)


def _sample_weights(start: Tensor, end: Tensor, size: int, cells: int) -> Tensor:
    """Returns the weight [N, size, cells] of each row (or column) of a map in each bin of boxes from ``start`` to ``end``."""
    length = (end - start) / size
    count = length.ceil().clamp(min=1)
    sample = torch.arange(int(count.max()) if len(count) else 1, device=start.device)
    within = (sample + 0.5) / count[:, None]
    steps = torch.arange(size, device=start.device)[:, None] + within[:, None]
    position = start[:, None, None] + length[:, None, None] * steps
    counted = (sample < length.ceil()[:, None])[:, None] & (position >= -1) & (position <= cells)
    position = position.clamp(0, cells - 1)[..., None]
    share = (1 - (position - torch.arange(cells, device=start.device)).abs()).clamp(min=0)
    return (share * counted[..., None]).sum(dim=2) / count[:, None, None]
