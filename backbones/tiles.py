"""Depthwise convolution on square tiles that stand alone or side by side, without a canvas around them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

HALO = 2  # pixels beyond a tile's edge that a 5x5 kernel reaches


def halo_index(neighbours: Tensor, side: int) -> Tensor:
    """Where the pixels of each tile and of its halo stand among all tiles' pixels.

    Args:
        neighbours: [R, 3, 3], the numbers of the tiles around and at each of R tiles; R where there is none.
        side: t, a tile's side in pixels, at least 2.

    Returns:
        [R * (t + 4)**2] rows of a [R * t**2 + 1, C] table whose last row is the zero outside.
    """
    tiles = neighbours.shape[0]
    offset = torch.arange(-HALO, side + HALO, device=neighbours.device)
    tile, inside = offset.div(side, rounding_mode="floor") + 1, offset % side
    index = neighbours[:, tile[:, None], tile[None, :]] * side**2 + inside[:, None] * side + inside[None, :]
    return index.clamp_(max=tiles * side**2).flatten()


def depthwise(tiles: Tensor, conv: nn.Conv2d, halo: Tensor) -> Tensor:
    """A 5x5 depthwise convolution of tiles [R, t, t, C] with zeros outside them, [R, t, t, C].

    Equal to the same convolution on a zero canvas with the tiles in place, read at the tiles' pixels.

    Args:
        tiles: any float type; it decides the result's.
        conv: its weight is [C, 1, 5, 5].
        halo: of `halo_index`.
    """
    bias = None if conv.bias is None else conv.bias.to(tiles.dtype)
    return _TileDepthwise.apply(tiles, conv.weight.to(tiles.dtype), bias, halo)


class _TileDepthwise(torch.autograd.Function):
    """Autograd would scatter-add gradients through the halo; but the adjoint is the same gather, the kernel turned."""

    @staticmethod
    def forward(ctx: Any, tiles: Tensor, weight: Tensor, bias: Tensor | None, halo: Tensor) -> Tensor:
        ctx.save_for_backward(tiles, weight, halo)
        return F.conv2d(_with_halo(tiles, halo), weight, bias, groups=tiles.shape[3]).permute(0, 2, 3, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        tiles, weight, halo = ctx.saved_tensors
        channels = grad.shape[3]
        grad_tiles = grad_weight = grad_bias = None
        around = _with_halo(grad, halo)
        if ctx.needs_input_grad[0]:
            grad_tiles = F.conv2d(around, weight.flip(2, 3), groups=channels).permute(0, 2, 3, 1)
        if ctx.needs_input_grad[1]:
            # Tiles against the gradient's halo, turned, is the gradient against the tiles' halo, without gathering that
            # again. In fp32, as a sum over all positions loses in bf16, and CPUs have no fast kernel for it there.
            turned = conv2d_weight(
                _widened(around), list(weight.shape), _widened(tiles).permute(0, 3, 1, 2), groups=channels
            )
            grad_weight = turned.flip(2, 3).to(weight.dtype)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum((0, 1, 2))
        return grad_tiles, grad_weight, grad_bias, None


def _with_halo(tiles: Tensor, halo: Tensor) -> Tensor:
    """[R, C, t + 4, t + 4] of [R, t, t, C], channels last in memory."""
    channels, width = tiles.shape[3], tiles.shape[1] + 2 * HALO
    table = torch.cat([tiles.reshape(-1, channels), tiles.new_zeros(1, channels)])
    return table.index_select(0, halo).view(-1, width, width, channels).permute(0, 3, 1, 2)


def _widened(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
