"""Masks of boxes to masks of pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pycocotools import mask as mask_api
from torch import Tensor

_AT_ONCE = 50_000_000  # pixels of masks pasted at a time: 200 MB in fp32


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
    step = max(1, _AT_ONCE // (height * width))
    for part, corners in zip(masks.split(step), boxes.split(step), strict=True):
        if not len(part):
            continue
        pasted = paste_masks(part.float(), corners.float(), height, width) >= threshold
        encoded += mask_api.encode(np.asfortranarray(pasted.permute(1, 2, 0).cpu().numpy().astype(np.uint8)))
    return [{"size": [height, width], "counts": found["counts"].decode()} for found in encoded]


def _interpolation(start: Tensor, end: Tensor, pixels: int, side: int) -> Tensor:
    """Returns the weights [N, pixels, side] of a mask's rows (or columns) at the centre of each pixel."""
    centres = torch.arange(pixels, dtype=start.dtype, device=start.device) + 0.5
    length = (end - start).clamp(min=1e-6)
    position = (centres - start[:, None]) / length[:, None] * side - 0.5
    return (1 - (position[..., None] - torch.arange(side, device=start.device)).abs()).clamp(min=0)
