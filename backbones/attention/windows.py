"""Attention within the windows of a grid, cut from its top left corner."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from convmae.backbones.layers import Attend
from convmae.backbones.position import Grid


def windowed_attention(
    query: Tensor, key: Tensor, value: Tensor, grid: Grid, window: Grid, attend: dict[Grid, Attend]
) -> Tensor:
    """Attends within the windows of a grid, cut from its top left corner.

    Where the grid does not divide, the last windows of a row or column are the smaller rectangles that remain. This
    equals padding the grid and masking the padded tokens out, without computing them.

    Args:
        query, key, value: [B, heads, rows * columns, D].
        grid: rows and columns.
        window: rows and columns of a whole window.
        attend: attention for each size of window that occurs, see `window_sizes`.
    """
    tall, wide = _spans(grid[0], window[0]), _spans(grid[1], window[1])
    # Split: the gradients of slices would each be padded to the whole, then added.
    maps = (x.unflatten(2, grid).split([height * count for height, count in tall], dim=2) for x in (query, key, value))
    bands = []
    for (height, count), *rows in zip(tall, *maps, strict=True):
        parts = (x.split([width * across for width, across in wide], dim=3) for x in rows)
        blocks = []
        for (width, across), *cut in zip(wide, *parts, strict=True):
            attended = attend[height, width](*(_to_windows(x, height, width) for x in cut))
            blocks.append(_from_windows(attended, query.shape[0], (count, across), (height, width)))
        bands.append(torch.cat(blocks, dim=3))
    return torch.cat(bands, dim=2).flatten(2, 3)


def window_sizes(grid: Grid, window: Grid) -> list[Grid]:
    """Returns the sizes of window that occur on a grid: whole ones and what remains at the right and the bottom."""
    return [(height, width) for height, _ in _spans(grid[0], window[0]) for width, _ in _spans(grid[1], window[1])]


def pad_to_windows(x: Tensor, grid: Grid, window: Grid) -> Tensor:
    """Cuts tokens [B, heads, rows * columns, D] into whole windows, filled up with zeros: [B * windows, heads, tokens, D]."""
    return _to_windows(F.pad(x.unflatten(2, grid), _missing(grid, window)), *window)


def crop_from_windows(x: Tensor, grid: Grid, window: Grid) -> Tensor:
    """Puts windows of `pad_to_windows` back together: [B, heads, rows * columns, D]."""
    rows, columns = (-(-side // length) for side, length in zip(grid, window, strict=True))
    maps = _from_windows(x, x.shape[0] // (rows * columns), (rows, columns), window)
    return maps[:, :, : grid[0], : grid[1]].flatten(2, 3)


def padded_tokens(grid: Grid, window: Grid, device: torch.device) -> Tensor:
    """Which tokens of whole windows over a grid are none of its own: bool [windows, tokens]."""
    inside = torch.zeros(grid, dtype=torch.bool, device=device)
    outside = F.pad(inside, _missing(grid, window)[2:], value=True)
    return _to_windows(outside[None, None, :, :, None], *window)[:, 0, :, 0]


def _missing(grid: Grid, window: Grid) -> list[int]:
    """What `F.pad` takes to fill maps [..., rows, columns, D] up to whole windows."""
    return [0, 0, 0, -grid[1] % window[1], 0, -grid[0] % window[0]]


def _spans(length: int, window: int) -> list[tuple[int, int]]:
    """Sizes and counts of the windows along a side: whole ones, then the one that remains."""
    whole, rest = divmod(length, window)
    return [(size, count) for size, count in ((window, whole), (rest, 1)) if size and count]


def _to_windows(x: Tensor, height: int, width: int) -> Tensor:
    """[B, heads, H, W, D] -> [B * windows, heads, height * width, D]."""
    x = x.unflatten(3, (-1, width)).unflatten(2, (-1, height))
    return x.permute(0, 2, 4, 1, 3, 5, 6).flatten(4, 5).flatten(0, 2)


def _from_windows(x: Tensor, batch: int, counts: Grid, window: Grid) -> Tensor:
    """[B * windows, heads, height * width, D] -> [B, heads, H, W, D]."""
    x = x.unflatten(2, window).unflatten(0, (batch, *counts))
    return x.permute(0, 3, 1, 4, 2, 5, 6).flatten(4, 5).flatten(2, 3)
