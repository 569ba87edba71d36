"""What PyTorch's tracer doesn't translate into standard ONNX operators by itself, each with that translation."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import nms

Module = TypeVar("Module", bound=nn.Module)


class _Suppress(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, boxes: Tensor, scores: Tensor, overlap: float, least: float, most: int) -> Tensor:
        found = []
        for group, (places, confidence) in enumerate(zip(boxes, scores, strict=True)):
            sure = torch.where(confidence > least)[0]
            kept = sure[nms(places[sure], confidence[sure], overlap)]
            found.append(F.pad(kept[:, None], (1, 0), value=group))
        pairs = torch.cat(found)
        best = scores[pairs[:, 0], pairs[:, 1]].sort(descending=True, stable=True).indices
        return pairs[best[:most]]

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, overlap: float, least: float, most: int) -> Any:
        def constant(value: Any, dtype: torch.dtype = torch.int64) -> Any:
            return g.op("Constant", value_t=torch.tensor(value, dtype=dtype))

        limits = constant([most]), constant([overlap], torch.float32), constant([least], torch.float32)
        kept = g.op("NonMaxSuppression", boxes, g.op("Unsqueeze", scores, constant([1])), *limits)
        pairs = g.op("Gather", kept, constant([0, 2]), axis_i=1)
        confidence = g.op("GatherND", scores, pairs)
        count = g.op("Min", g.op("Shape", confidence), constant([most]))
        _, best = g.op("TopK", confidence, count, axis_i=0, outputs=2)
        return g.op("Gather", pairs, best, axis_i=0)


def suppress_groups(boxes: Tensor, scores: Tensor, overlap: float, least: float, most: int) -> Tensor:
    """Returns the groups and places [n, 2] of the at most ``most`` best boxes that overlap no better one of their group.

    boxes: [groups, N, 4]; scores: [groups, N], of which those above ``least`` count; overlap: IoU above which a box is dropped.
    In a graph it is NonMaxSuppression, with the groups as its batch.
    """
    found: Tensor = _Suppress.apply(boxes.contiguous(), scores.contiguous(), overlap, least, most)
    return found


class _Resize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pixels: Tensor, size: Tensor) -> Tensor:
        height, width = size.tolist()
        return F.interpolate(pixels, size=(height, width), mode="bilinear", antialias=True)

    @staticmethod
    def symbolic(g: Any, pixels: Any, size: Any) -> Any:
        start, middle = (g.op("Constant", value_t=torch.tensor([place])) for place in (0, 2))
        sizes = g.op("Concat", g.op("Slice", g.op("Shape", pixels), start, middle), size, axis_i=0)
        none = g.op("Constant", value_t=torch.zeros(0))
        # Exclude what is outside: at the border Pillow's weights are those of pixels that are there.
        options = {"mode_s": "linear", "antialias_i": 1, "exclude_outside_i": 1}
        options["coordinate_transformation_mode_s"] = "half_pixel"
        return g.op("Resize", pixels, none, none, sizes, **options)


def resize_bytes(pixels: Tensor, size: Tensor) -> Tensor:
    """Returns bytes [1, C, H, W] at ``size`` (height and width, int64 [2]) as Pillow resizes them, bilinear and smoothed."""
    found: Tensor = _Resize.apply(pixels, size)
    return found


class AnyAveragePool(nn.Module):
    """``nn.AdaptiveAvgPool2d`` to a square as two matrix products, for maps of any size: ONNX has no such operator."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (self._weights(x, axis) for axis in (2, 3))
        return rows @ x @ columns.t()

    def _weights(self, x: Tensor, axis: int) -> Tensor:
        """The share [size, n] that each of n rows (or columns) has in each cell."""
        length = x.shape[axis]
        cell, place = torch.arange(self.size)[:, None], torch.arange(length)
        first, end = cell * length // self.size, ((cell + 1) * length + self.size - 1) // self.size
        inside = ((place >= first) & (place < end)).to(x.dtype)
        return inside / inside.sum(1, keepdim=True)


def for_any_size(module: Module) -> Module:
    """Puts what can be traced for maps of any size in the place of the module's adaptive pooling, and returns it."""
    for name, child in module.named_children():
        if isinstance(child, nn.AdaptiveAvgPool2d):
            setattr(module, name, AnyAveragePool(cast(int, child.output_size)))
        else:
            for_any_size(child)
    return module
