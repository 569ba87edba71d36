"""Masks of boxes to masks of pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convmae.detection.data import rle

# Pixels of masks pasted at a time: 200 MB in fp32; on a CPU what its cache holds.
_AT_ONCE = {"cuda": 50_000_000, "cpu": 1_000_000}


def paste_masks(masks: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """Returns masks [N, height, width], each spread over its box by bilinear interpolation without rounding the box.

    masks: [N, side, side] probabilities; boxes: [N, 4] in pixels. Outside its box a mask is zero. Bilinear interpolation
    is separable, so this is two small matrix products instead of a lookup at every pixel.
    """
    rows = _interpolation(boxes[:, 1], boxes[:, 3], height, masks.shape[-2])
    columns = _interpolation(boxes[:, 0], boxes[:, 2], width, masks.shape[-1])
    return rows @ masks @ columns.transpose(1, 2)


def encode_masks(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5) -> list[dict[str, Any]]:
    """Returns pasted masks as COCO's compressed RLE, with ``counts`` as text."""
    encoded: list[dict[str, Any]] = []
    step = max(1, _AT_ONCE[masks.device.type] // (height * width))
    for part, corners in zip(masks.split(step), boxes.split(step), strict=True):
        encoded += rle.encode(paste_masks(part.float(), corners.float(), height, width) >= threshold)
    return encoded


def _interpolation(start: Tensor, end: Tensor, pixels: int, side: int) -> Tensor:
    """Returns the weights [N, pixels, side] of a mask's rows (or columns) at the centre of each pixel."""
    centres = torch.arange(pixels, dtype=start.dtype, device=start.device) + 0.5
    length = (end - start).clamp(min=1e-6)
    position = (centres - start[:, None]) / length[:, None] * side - 0.5
    return (1 - (position[..., None] - torch.arange(side, device=start.device)).abs()).clamp(min=0)
