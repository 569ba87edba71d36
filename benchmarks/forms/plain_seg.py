"""The segmentation encoder as the paper states it, computed plainly: what ConvViTSeg is timed and checked against.

Convolution stages run in NCHW; each block of stage 3 builds the bias of all pairs of tokens from its table by an index table
(arXiv 2205.03892, section 3.3). Parameter names are ConvViTSeg's, so weights are shared by `load_state_dict`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from convmae.backbones.convvit import Dims
from convmae.benchmarks.forms.plain_layers import (
    PATCH,
    Attention,
    PlainEncoder,
    TransformerBlock,
    gather_bias,
    offset_index,
)


class PlainSegEncoder(PlainEncoder):
    """Returns E1 to E4, [B, C, H, W] at strides 4, 8, 16 and about 32, of images of one size.

    Args:
        size: a name of `convmae.backbones.SIZES`.
        img_size: height and width in pixels, multiples of 16.
    """

    def __init__(self, size: str, img_size: tuple[int, int]) -> None:
        rows, columns = img_size[0] // PATCH, img_size[1] // PATCH
        super().__init__(size, (rows, columns))
        dims = Dims.of(size)
        width, offsets = dims.embed_dims[2], (2 * rows - 1) * (2 * columns - 1)
        self.blocks3 = nn.ModuleList(
            ScaledBlock(width, dims.num_heads, dims.mlp_ratios[2], offsets) for _ in range(dims.depths[2])
        )
        self.fpn = nn.Sequential(nn.Conv2d(width, width, kernel_size=3, stride=2), nn.BatchNorm2d(width), nn.GELU())
        self.index: Tensor  # one for all blocks, of which public code holds a copy each
        self.register_buffer("index", offset_index(self.grid), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Takes [B, 3, height, width]."""
        e1, e2, x = self.forward_stem(images)
        for block in cast(Iterable[ScaledBlock], self.blocks3):
            x = block(x, self.index)
        e3 = x.transpose(1, 2).unflatten(2, self.grid)
        return e1, e2, e3, self.fpn(e3)


class BiasedAttention(Attention):
    """Multi-head self-attention on [B, L, C] with a position bias table of its own."""

    def __init__(self, dim: int, heads: int, offsets: int) -> None:
        super().__init__(dim, heads)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(offsets, heads))

    def forward(self, x: Tensor, index: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, gather_bias(self.relative_position_bias_table, index))


class ScaledBlock(TransformerBlock):
    """Pre-norm block on [B, L, C] with LayerScale and biased attention."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, offsets: int) -> None:
        super().__init__(dim, heads, mlp_ratio, eps=1e-5)
        self.attn = BiasedAttention(dim, heads, offsets)
        self.gamma_1, self.gamma_2 = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor, index: Tensor) -> Tensor:  # type: ignore[override]
        x = x + self.gamma_1 * self.attn(self.norm1(x), index)
        return x + self.gamma_2 * self.mlp(self.norm2(x))
