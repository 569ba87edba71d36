"""Images as rows of 16x16 patches and back, and the patches' own statistics."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

PATCH = 16


def pad_to_patches(images: Tensor) -> Tensor:
    """Pads images [B, C, H, W] with zeros, right and below, to multiples of 16 pixels."""
    height, width = images.shape[-2:]
    if height % PATCH == 0 and width % PATCH == 0:
        return images
    return F.pad(images, (0, -width % PATCH, 0, -height % PATCH))


def patchify(images: Tensor) -> Tensor:
    """Images [B, C, H, W], sides multiples of 16, as patches [B, L, 16 * 16 * C], channel last within a patch."""
    batch, channels, height, width = images.shape
    x = images.reshape(batch, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, PATCH * PATCH * channels)


def unpatchify(patches: Tensor, height: int, width: int) -> Tensor:
    """Patches [B, L, 16 * 16 * C] as images [B, C, height, width]; what padding had added is cropped."""
    rows, columns = -(-height // PATCH), -(-width // PATCH)
    if patches.shape[1] != rows * columns:
        raise ValueError(f"{patches.shape[1]} patches; an image of {height}x{width} pixels has {rows}x{columns}")
    x = patches.reshape(patches.shape[0], rows, columns, PATCH, PATCH, -1)
    images = x.permute(0, 5, 1, 3, 2, 4).reshape(patches.shape[0], -1, rows * PATCH, columns * PATCH)
    return images[..., :height, :width]


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation [..., 1] of each patch's pixels; per-patch normalisation is (patches - mean) / deviation."""
    mean = patches.mean(dim=-1, keepdim=True)
    deviation = (patches.var(dim=-1, keepdim=True) + 1e-6).sqrt()  # unbiased, as the public targets are
    return mean, deviation
