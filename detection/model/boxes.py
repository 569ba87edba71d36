"""What boxes need between network and pictures: coding as deltas, matching with objects, suppression.

Written so that a GPU's results are needed on the host as rarely as can be: shapes follow from the arguments' shapes wherever
the result allows it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou, nms

_LARGEST = math.log(1000 / 16)  # of the logarithms by which sides grow
_AT_ONCE = 2**15  # boxes that CUDA's kernel compares at once: each with each, 128 MiB of bits


class Candidates(NamedTuple):
    """A picture's boxes [n, 4] before suppression, their scores [n], and the groups [n] in which they suppress each other."""

    boxes: Tensor
    scores: Tensor
    groups: Tensor


class BoxCoder(NamedTuple):
    """Boxes as deltas from others: the centre's shift in sides, and the logarithms of the sides' ratios, each weighted.

    weights: of the centre's x and y and of width and height; the first two are equal, and the last two.
    """

    weights: tuple[float, float, float, float]

    def encode(self, boxes: Tensor, others: Tensor) -> Tensor:
        """Returns the deltas [..., 4] that lead from ``others`` [..., 4] to ``boxes``."""
        sides, other_sides = boxes[..., 2:] - boxes[..., :2], others[..., 2:] - others[..., :2]
        centres, other_centres = boxes[..., :2] + 0.5 * sides, others[..., :2] + 0.5 * other_sides
        shift = self.weights[0] * (centres - other_centres) / other_sides
        return torch.cat([shift, self.weights[2] * torch.log(sides / other_sides)], dim=-1)

    def decode(self, deltas: Tensor, others: Tensor) -> Tensor:
        """Returns the boxes [..., 4] that deltas lead to from ``others`` [..., 4]."""
        sides = others[..., 2:] - others[..., :2]
        growth = (deltas[..., 2:] / self.weights[2]).clamp(max=_LARGEST)
        centres = deltas[..., :2] / self.weights[0] * sides + (others[..., :2] + 0.5 * sides)
        half = 0.5 * (torch.exp(growth) * sides)
        return torch.cat([centres - half, centres + half], dim=-1)


class Matcher(NamedTuple):
    """Which object each box learns from, by overlap (IoU)."""

    low: float  # below: none, the box is background
    high: float  # from here on: the object; between the two the box learns nothing
    keep_best: bool = False  # whether the boxes that overlap an object most are its, however little that is

    def __call__(self, objects: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Returns for each of N boxes whether it is positive: 1, background: 0, or neither: -1, and its object's index.

        objects: [M, 4]; boxes: [N, 4]. The index is of the object that overlaps it most, 0 without any object.
        """
        if not len(objects):
            return boxes.new_zeros(len(boxes), dtype=torch.int64), boxes.new_zeros(len(boxes), dtype=torch.int64)
        overlap = box_iou(objects, boxes)
        best, index = overlap.max(dim=0)
        positive = best >= self.high
        if self.keep_best:
            positive |= (overlap == overlap.amax(dim=1, keepdim=True)).any(dim=0)
        return torch.where(positive, 1, torch.where(best < self.low, 0, -1)), index


def clip(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Returns boxes [..., 4] without what lies outside a picture of ``size`` (height, width)."""
    return torch.stack([boxes[..., side].clamp(min=0, max=size[1 - side % 2]) for side in range(4)], dim=-1)


def suppress(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Returns the indices, best first, of the boxes [N, 4] that overlap no better one of their group more than ``threshold``.

    On CUDA all groups are compared in one call, of which the host waits for the result: moved apart, in fp64 so that no
    coordinate is rounded.
    """
    if not boxes.is_cuda or not 0 < len(boxes) <= _AT_ONCE:
        return batched_nms(boxes, scores, groups, threshold)
    apart = groups * (boxes.amax().double() + 1)
    return nms(boxes.double() + apart[:, None], scores.double(), threshold)
