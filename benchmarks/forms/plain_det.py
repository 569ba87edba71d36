"""The detection encoder as the paper states it, computed plainly: what ConvViTDet is timed and checked against.

Convolution stages run in NCHW; the bias of all pairs of tokens is built from an index table for each block (arXiv 2205.03892,
section 3.3); windows are copies of the tokens, of a grid padded to whole ones where they don't divide it. Parameter names
are ConvViTDet's, so weights are shared by `load_state_dict`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convmae.backbones.convvit import Dims
from convmae.backbones.position import Grid
from convmae.backbones.vitdet import spread_blocks
from convmae.benchmarks.forms.plain_layers import PATCH, PlainEncoder, TransformerBlock, gather_bias, offset_index


class PlainDetEncoder(PlainEncoder):
    """Returns E1 to E4, [B, C, H, W] at strides 4, 8, 16, 32, of images of one size.

    Args:
        size: a name of `convmae.backbones.SIZES`.
        img_size: height and width in pixels, multiples of 16.
        window: rows and columns of a window, in tokens.
    """

    def __init__(self, size: str, img_size: tuple[int, int], window: Grid) -> None:
        super().__init__(size, (img_size[0] // PATCH, img_size[1] // PATCH))
        heads = Dims.of(size).num_heads
        self.window, self.global_blocks = window, spread_blocks(len(self.blocks3))
        self.windowed_rel_pos_bias = IndexedBias(window, heads)
        self.global_rel_pos_bias = IndexedBias(self.grid, heads)
        divides = self.grid[0] % window[0] == self.grid[1] % window[1] == 0
        self.hidden: Tensor | None
        self.register_buffer("hidden", None if divides else hidden_keys(self.grid, window), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Takes [B, 3, height, width]."""
        e1, e2, x = self.forward_stem(images)
        for index, block in enumerate(cast(Iterable[TransformerBlock], self.blocks3)):
            if index in self.global_blocks:
                x = in_windows(block, x, self.grid, self.grid, self.global_rel_pos_bias())
            else:
                bias = self.windowed_rel_pos_bias()
                if self.hidden is not None:
                    bias = (bias + self.hidden[:, None, None]).repeat(len(x), 1, 1, 1)
                x = in_windows(block, x, self.grid, self.window, bias)
        e3 = x.transpose(1, 2).unflatten(2, self.grid)
        return e1, e2, e3, F.max_pool2d(e3, kernel_size=2, ceil_mode=True)


class IndexedBias(nn.Module):
    """Biases of all pairs of a window's tokens, [heads, queries, keys], from a table of offsets by an index table."""

    def __init__(self, window: Grid, heads: int) -> None:
        super().__init__()
        rows, columns = window
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * rows - 1) * (2 * columns - 1), heads))
        self.index: Tensor
        self.register_buffer("index", offset_index(window), persistent=False)

    def forward(self) -> Tensor:
        return gather_bias(self.relative_position_bias_table, self.index)


def in_windows(block: TransformerBlock, x: Tensor, grid: Grid, window: Grid, bias: Tensor) -> Tensor:
    """Runs a block on the tokens of a grid, [B, L, C], its attention in windows; the window may be the grid."""
    y = windows_of(block.norm1(x).unflatten(1, grid), window)
    y = block.attn(y.flatten(1, 2), bias).unflatten(1, window)
    x = x + from_windows(y, len(x), grid)
    return x + block.mlp(block.norm2(x))


def windows_of(x: Tensor, window: Grid) -> Tensor:
    """Cuts [B, rows, columns, C] into [B * windows, height, width, C], padded with zeros to whole windows."""
    x = F.pad(x, (0, 0, 0, -x.shape[2] % window[1], 0, -x.shape[1] % window[0]))
    x = x.unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0]))
    return x.transpose(2, 3).flatten(0, 2)


def from_windows(x: Tensor, batch: int, grid: Grid) -> Tensor:
    """Puts [B * windows, height, width, C] back and crops the padding off, to tokens [B, rows * columns, C]."""
    down, across = (-(-side // length) for side, length in zip(grid, x.shape[1:3], strict=True))
    x = x.unflatten(0, (batch, down, across)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return x[:, : grid[0], : grid[1]].flatten(1, 2)


def hidden_keys(grid: Grid, window: Grid) -> Tensor:
    """Returns minus infinity for the tokens of each window that lie outside the grid, else 0: [windows, height * width]."""
    return torch.where(windows_of(torch.ones(1, *grid, 1), window).flatten(1) > 0, 0.0, -torch.inf)
