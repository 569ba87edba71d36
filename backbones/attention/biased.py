"""Attention with relative positions, over a grid or in its windows, that never builds the biases of all pairs of tokens.

How depends on the device. Shared tables: one fused kernel on a GPU, a slice at a time elsewhere. Decomposed positions: as
channels of queries and keys on a GPU, where PyTorch's own attention is fused and takes them, a slice at a time elsewhere.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from convmae.backbones.attention.fused import fused_attention, is_fused
from convmae.backbones.attention.sliced import sliced_attention
from convmae.backbones.attention.windows import (
    crop_from_windows,
    pad_to_windows,
    padded_tokens,
    window_sizes,
    windowed_attention,
)
from convmae.backbones.layers import Attend
from convmae.backbones.position import Grid, resample_offsets

__all__ = ["biased_attention", "decomposed_attention", "window_sizes", "windowed_attention"]

WIDEST_HEAD = 256  # channels that flash attention takes
HIDDEN = -3e4  # of a channel that hides a key: large beside any score, and a number in fp16


def biased_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table: Tensor,
    grid: Grid,
    max_scores: int | None = None,
    window: Grid | None = None,
) -> Tensor:
    """Attends with scores q k / sqrt(D) + bias, where the bias depends on the offset from key to query alone.

    Args:
        query, key, value: [B, heads, rows * columns, D], positions in row-major order.
        table: [heads, 2 rows - 1, 2 columns - 1] of the grid, or of the window if there is one; see `bias_at_grid`.
        grid: rows and columns.
        max_scores: bounds the scores in one slice where it is done by slices; None suits the device.
        window: rows and columns of the windows to attend in, cut as by `windowed_attention`; None for the whole grid.

    Returns:
        [B, heads, rows * columns, D]
    """
    if is_fused(query, window or grid):
        return fused_attention(query, key, value, table, grid, window or grid)
    if window:

        def sized(size: Grid) -> Attend:
            top, left = window[0] - size[0], window[1] - size[1]
            central = table[:, top : top + 2 * size[0] - 1, left : left + 2 * size[1] - 1]
            return partial(biased_attention, table=central, grid=size, max_scores=max_scores)

        sizes = {size: sized(size) for size in window_sizes(grid, window)}
        return windowed_attention(query, key, value, grid, window, sizes)
    # With keys in reverse order the bias of query (r, c) and key (r', c') is table[r + r', c + c']: a view of the table.
    return sliced_attention(query, key.flip(2), value.flip(2), "shared", (table,), grid, max_scores)


def decomposed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    grid: Grid,
    max_scores: int | None = None,
    window: Grid | None = None,
) -> Tensor:
    """Attends with scores q k / sqrt(D) + q rel_pos_h[r - r'] + q rel_pos_w[c - c'] (MViTv2, arXiv 2112.01526, section 4.1).

    The bias is the sum of one number for the key's row and one for its column; these are kept for each query.

    Args:
        query, key, value: [B, heads, rows * columns, D], positions in row-major order.
        rel_pos_h: [2 rows - 1, D] of the grid, or of the window if there is one, shared by the heads; entry rows - 1 + d is
            for a query d rows below its key.
        rel_pos_w: [2 columns - 1, D], the same for columns.
        grid, max_scores, window: as in `biased_attention`.

    Returns:
        [B, heads, rows * columns, D]
    """
    if query.is_cuda and query.dtype != torch.float64 and _width(query.shape[-1], window or grid) <= WIDEST_HEAD:
        return channel_attention(query, key, value, rel_pos_h, rel_pos_w, grid, window)
    if window:

        def sized(size: Grid) -> Attend:
            rows, columns = (resample_offsets(x, n) for x, n in zip((rel_pos_h, rel_pos_w), size, strict=True))
            return partial(decomposed_attention, rel_pos_h=rows, rel_pos_w=columns, grid=size, max_scores=max_scores)

        sizes = {size: sized(size) for size in window_sizes(grid, window)}
        return windowed_attention(query, key, value, grid, window, sizes)
    biases = _towards_lines(query, rel_pos_h, rel_pos_w, grid)
    return sliced_attention(query, key, value, "decomposed", biases, grid, max_scores)


def channel_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    grid: Grid,
    window: Grid | None = None,
) -> Tensor:
    """Does what `decomposed_attention` does by scaled dot-product attention without a mask, of wider heads.

    To each query are added its biases towards every row and column, to each key a one at its row and at its column: their
    product is the bias. In half precision a second set of channels, if there is room, has what rounding leaves of the biases.
    One more channel hides the keys that fill windows up.
    """
    batch, _, _, width = query.shape
    size = window or grid
    scale = width**-0.5
    if window:
        query, key, value = (pad_to_windows(x, grid, window) for x in (query, key, value))
    # The scale applies to the biases, too.
    biases = _towards_lines(query, rel_pos_h / scale, rel_pos_w / scale, size)
    number = torch.arange(size[0] * size[1], device=key.device)
    ones = [
        lines[:, None] == torch.arange(side, device=key.device)
        for lines, side in zip((number // size[1], number % size[1]), size, strict=True)
    ]
    of_keys = torch.cat(ones, 1).to(key.dtype).expand(*key.shape[:2], -1, -1)
    wide = torch.cat(biases, -1)
    of_queries = wide.to(query.dtype)
    if query.element_size() == 2 and _width(width, size, 2) <= WIDEST_HEAD:
        of_keys = torch.cat([of_keys, of_keys], -1)
        of_queries = torch.cat([of_queries, (wide - of_queries).detach().to(query.dtype)], -1)
    if window and (grid[0] % window[0] or grid[1] % window[1]):
        hidden = padded_tokens(grid, window, key.device).to(key.dtype) * HIDDEN
        hidden = hidden.expand(batch, -1, -1).flatten(0, 1)[:, None, :, None].expand(-1, key.shape[1], -1, -1)
        of_keys = torch.cat([of_keys, hidden], -1)
        of_queries = F.pad(of_queries, (0, 1), value=1.0)
    # Flash attention takes values as wide as the keys, and multiples of eight.
    rest = -(width + of_keys.shape[-1]) % 8 + of_keys.shape[-1]
    query, key = (
        F.pad(torch.cat([x, more], -1), (0, rest - more.shape[-1])) for x, more in ((query, of_queries), (key, of_keys))
    )
    attended = F.scaled_dot_product_attention(query, key, F.pad(value, (0, rest)), scale=scale)[..., :width]
    return crop_from_windows(attended, grid, window) if window else attended


def _width(channels: int, grid: Grid, sets: int = 1) -> int:
    """Channels at most of a head that holds sets of a grid's positions, too, and one to hide keys with."""
    return channels + sets * sum(grid) + 8


def _towards_lines(query: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Each query's bias towards every row, [B, heads, queries, rows], and towards every column: in fp32, as scores are."""
    wide = torch.promote_types(query.dtype, torch.float32)
    with torch.autocast(query.device.type, enabled=False):
        maps = query.to(wide).unflatten(2, grid)
        by_row = torch.einsum("bhrcd,rdk->bhrck", maps, _by_query(rel_pos_h.to(wide), grid[0]))
        by_column = torch.einsum("bhrcd,cdk->bhrck", maps, _by_query(rel_pos_w.to(wide), grid[1]))
    return by_row.flatten(2, 3), by_column.flatten(2, 3)


def _by_query(table: Tensor, length: int) -> Tensor:
    """[2 length - 1, D] -> a view [queries, D, keys] along a side, whose entry is that of query - key."""
    return table.flip(0).unfold(0, length, 1).flip(0)
