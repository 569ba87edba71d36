"""Attention with a relative position bias that never builds the N x N table, forward or backward."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from convmae.backbones.layers import Attend
from convmae.backbones.position import Grid

# Largest number of bias values (and, in the backward pass, of attention weights) alive at once: 16 MB in fp32. Slices of
# 64 MB took 1.5x the time in the backward pass at 64x64 tokens, for they no longer fit the cache.
MAX_SCORES = 2**22


def biased_attention(
    query: Tensor, key: Tensor, value: Tensor, table: Tensor, grid: Grid, max_scores: int = MAX_SCORES
) -> Tensor:
    """Attends with scores q k / sqrt(D) + bias, where the bias depends on the offset from key to query alone.

    With keys in reverse order the bias of query (r, c) and key (r', c') is `table[r + r', c + c']`: a strided view of the
    table. It goes to scaled dot-product attention a few query rows at a time; only those rows' slice is materialised. With
    gradients each slice is made again in the backward pass.

    Args:
        query, key, value: [B, heads, rows * columns, D], positions in row-major order.
        table: [heads, 2 rows - 1, 2 columns - 1], see `bias_at_grid`.
        grid: rows and columns.
        max_scores: bounds the number of query rows in one slice; at least one is taken.

    Returns:
        [B, heads, rows * columns, D]
    """
    key, value = key.flip(2), value.flip(2)
    if torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value, table)):
        return _BiasedAttention.apply(query, key, value, table, grid, max_scores)
    return _attend(query, key, value, table, grid, _row_step(query, grid, max_scores, batched=False))


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
    maps = [x.unflatten(2, grid) for x in (query, key, value)]
    bands = []
    top = 0
    for height, count in _spans(grid[0], window[0]):
        left = 0
        blocks = []
        for width, across in _spans(grid[1], window[1]):
            parts = (x[:, :, top : top + height * count, left : left + width * across] for x in maps)
            windows = (_to_windows(part, height, width) for part in parts)
            attended = attend[height, width](*windows)
            blocks.append(_from_windows(attended, query.shape[0], (count, across), (height, width)))
            left += width * across
        bands.append(torch.cat(blocks, dim=3))
        top += height * count
    return torch.cat(bands, dim=2).flatten(2, 3)


def window_sizes(grid: Grid, window: Grid) -> list[Grid]:
    """Returns the sizes of window that occur on a grid: whole ones and what remains at the right and the bottom."""
    return [(height, width) for height, _ in _spans(grid[0], window[0]) for width, _ in _spans(grid[1], window[1])]


def _spans(length: int, window: int) -> list[tuple[int, int]]:
    """Sizes and counts of the windows along a side: whole ones, then the one that remains."""
    whole, rest = divmod(length, window)
    return [(size, count) for size, count in ((window, whole), (rest, 1)) if size and count]


class _BiasedAttention(torch.autograd.Function):
    """Keeps queries, keys, values, the table and the output only; backward makes the weights of some rows at a time."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, table: Tensor, grid: Grid, max_scores: int
    ) -> Tensor:
        output = _attend(query, key, value, table, grid, _row_step(query, grid, max_scores, batched=False))
        ctx.save_for_backward(query, key, value, table, output)
        ctx.grid, ctx.max_scores = grid, max_scores
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, table, output = ctx.saved_tensors
        rows, columns = ctx.grid
        scale = query.shape[-1] ** -0.5
        grad = grad.to(query.dtype)
        grad_query = torch.empty_like(query)
        # Sums over the slices, so in fp32 at least.
        wide = torch.promote_types(query.dtype, torch.float32)
        grad_key = torch.zeros_like(key, dtype=wide)
        grad_value = torch.zeros_like(value, dtype=wide)
        grad_table = torch.zeros_like(table, dtype=wide)
        step = _row_step(query, ctx.grid, ctx.max_scores, batched=True)
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            part = slice(start * columns, stop * columns)
            band = slice(start, stop + rows - 1)
            scores = (query[:, :, part] * scale @ key.transpose(-1, -2)).to(wide)
            weights = scores.add_(_bias(table[:, band], ctx.grid, wide)).softmax(-1)
            grad_part = grad[:, :, part]
            grad_value += weights.to(grad.dtype).transpose(-1, -2) @ grad_part
            mean = (grad_part * output[:, :, part]).sum(-1, keepdim=True, dtype=wide)
            grad_scores = (grad_part @ value.transpose(-1, -2)).to(wide).sub_(mean).mul_(weights)
            grad_table[:, band] += _fold(grad_scores.sum(0), ctx.grid)
            grad_scores = grad_scores.to(query.dtype)
            grad_query[:, :, part] = (grad_scores @ key) * scale
            grad_key += grad_scores.transpose(-1, -2) @ (query[:, :, part] * scale)
        grads = (grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), grad_table.to(table.dtype))
        return *grads, None, None


def _row_step(query: Tensor, grid: Grid, max_scores: int, batched: bool) -> int:
    """How many of the grid's rows of queries fit in one slice; `batched`, the slice is made for each image."""
    row = query.shape[1] * grid[1] * grid[0] * grid[1] * (query.shape[0] if batched else 1)
    return min(grid[0], max(1, max_scores // row))


def _attend(query: Tensor, key: Tensor, value: Tensor, table: Tensor, grid: Grid, step: int) -> Tensor:
    """Attention, `step` rows of queries at a time; `key` and `value` are in reverse order."""
    rows, columns = grid
    output = torch.empty_like(query)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        part = slice(start * columns, stop * columns)
        bias = _bias(table[:, start : stop + rows - 1], grid, query.dtype)
        output[:, :, part] = F.scaled_dot_product_attention(query[:, :, part], key, value, attn_mask=bias)
    return output


def _bias(table: Tensor, grid: Grid, dtype: torch.dtype) -> Tensor:
    """Biases of some rows of queries, [1, heads, queries, keys], keys in reverse order; `table` begins at their first row."""
    # [heads, rows, columns, key rows, key columns], a view
    bias = table.unfold(1, grid[0], 1).unfold(2, grid[1], 1)
    return bias.to(dtype).reshape(1, table.shape[0], -1, grid[0] * grid[1])


def _fold(grad: Tensor, grid: Grid) -> Tensor:
    """The transpose of `_bias`: sums [heads, queries, keys] over equal offsets, to [heads, rows + grid rows - 1, ...]."""
    rows, columns = grid
    # [heads, rows, key rows, columns, key columns], padded so that the same memory with rows one shorter is skewed:
    # entry (c, c') comes to stand in column c + c'.
    skewed = grad.unflatten(2, grid).unflatten(1, (-1, columns)).transpose(2, 3)
    skewed = F.pad(skewed, (0, columns)).flatten(3)[..., : columns * (2 * columns - 1)]
    bands = skewed.unflatten(3, (columns, 2 * columns - 1)).sum(3)
    total = bands.new_zeros(bands.shape[0], bands.shape[1] + rows - 1, 2 * columns - 1)
    for row in range(bands.shape[1]):
        total[:, row : row + rows] += bands[:, row]
    return total


def _to_windows(x: Tensor, height: int, width: int) -> Tensor:
    """[B, heads, H, W, D] -> [B * windows, heads, height * width, D]."""
    x = x.unflatten(3, (-1, width)).unflatten(2, (-1, height))
    return x.permute(0, 2, 4, 1, 3, 5, 6).flatten(4, 5).flatten(0, 2)


def _from_windows(x: Tensor, batch: int, counts: Grid, window: Grid) -> Tensor:
    """[B * windows, heads, height * width, D] -> [B, heads, H, W, D]."""
    x = x.unflatten(2, window).unflatten(0, (batch, *counts))
    return x.permute(0, 3, 1, 4, 2, 5, 6).flatten(4, 5).flatten(2, 3)
