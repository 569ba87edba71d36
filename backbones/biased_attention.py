"""Attention with a relative position bias that never builds the N x N table, forward or backward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from convmae.backbones.layers import Attend
from convmae.backbones.position import Grid

# Largest number of bias values (in the backward pass, of attention weights and their gradients) alive at once: 16 MB in
# fp32. Slices of 64 MB took 1.5x the time in the backward pass at 64x64 tokens, for they no longer fit the cache.
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
        max_scores: bounds the heads and query rows in one slice; at least one row of one head is taken.

    Returns:
        [B, heads, rows * columns, D]
    """
    return _attention(query, key.flip(2), value.flip(2), _SharedBias, (table,), grid, max_scores)


def decomposed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    grid: Grid,
    max_scores: int = MAX_SCORES,
) -> Tensor:
    """Attends with scores q k / sqrt(D) + q rel_pos_h[r - r'] + q rel_pos_w[c - c'] (MViTv2, arXiv 2112.01526, section 4.1).

    The bias is the sum of one number for the key's row and one for its column. These are kept for each query; their sum
    is made for a few query rows at a time, as in `biased_attention`.

    Args:
        query, key, value: [B, heads, rows * columns, D], positions in row-major order.
        rel_pos_h: [2 rows - 1, D], shared by the heads; entry rows - 1 + d is for a query d rows below its key.
        rel_pos_w: [2 columns - 1, D], the same for columns.
        grid, max_scores: as in `biased_attention`.

    Returns:
        [B, heads, rows * columns, D]
    """
    maps = query.unflatten(2, grid)
    by_row = torch.einsum("bhrcd,rdk->bhrck", maps, _by_query(rel_pos_h, grid[0])).flatten(2, 3)
    by_column = torch.einsum("bhrcd,cdk->bhrck", maps, _by_query(rel_pos_w, grid[1])).flatten(2, 3)
    return _attention(query, key, value, _DecomposedBias, (by_row, by_column), grid, max_scores)


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


class _Bias(Protocol):
    """How the bias of some rows of queries follows from tensors that are small beside it, and the gradients back."""

    per_image: bool

    @staticmethod
    def band(tensors: Sequence[Tensor], start: int, stop: int, grid: Grid, dtype: torch.dtype) -> Tensor:
        """Biases of the queries in rows `start` to `stop`, [1 or B, heads, queries, keys]."""

    @staticmethod
    def add_gradients(grads: Sequence[Tensor], start: int, stop: int, grid: Grid, grad: Tensor) -> None:
        """Adds to the tensors' gradients what those queries' scores, [B, heads, queries, keys], give."""


class _SharedBias:
    """A table [heads, 2 rows - 1, 2 columns - 1] for all images, keys in reverse order."""

    per_image = False

    @staticmethod
    def band(tensors: Sequence[Tensor], start: int, stop: int, grid: Grid, dtype: torch.dtype) -> Tensor:
        table = tensors[0][:, start : stop + grid[0] - 1]
        # [heads, rows, columns, key rows, key columns], a view
        bias = table.unfold(1, grid[0], 1).unfold(2, grid[1], 1)
        return bias.to(dtype).reshape(1, table.shape[0], -1, grid[0] * grid[1])

    @staticmethod
    def add_gradients(grads: Sequence[Tensor], start: int, stop: int, grid: Grid, grad: Tensor) -> None:
        # Fold slides the queries' rows as a window over the table: query (r, c) and key (r', c') meet at (r + r', c + c').
        shape = (stop - start + grid[0] - 1, 2 * grid[1] - 1)
        summed = grad.sum(0) if len(grad) > 1 else grad[0]  # the sum over one image would be a copy
        grads[0][:, start : stop + grid[0] - 1] += F.fold(summed, shape, (stop - start, grid[1]))[:, 0]


class _DecomposedBias:
    """Each query's bias towards every row, [B, heads, queries, rows], and towards every column."""

    per_image = True

    @staticmethod
    def band(tensors: Sequence[Tensor], start: int, stop: int, grid: Grid, dtype: torch.dtype) -> Tensor:
        by_row, by_column = (x[:, :, start * grid[1] : stop * grid[1]].to(dtype) for x in tensors)
        return (by_row[..., None] + by_column[..., None, :]).flatten(-2)

    @staticmethod
    def add_gradients(grads: Sequence[Tensor], start: int, stop: int, grid: Grid, grad: Tensor) -> None:
        grad = grad.unflatten(-1, grid)
        for total, axis in zip(grads, (-1, -2), strict=True):
            total[:, :, start * grid[1] : stop * grid[1]] = grad.sum(axis)


def _by_query(table: Tensor, length: int) -> Tensor:
    """[2 length - 1, D] -> a view [queries, D, keys] along a side, whose entry is that of query - key."""
    return table.flip(0).unfold(0, length, 1).flip(0)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: type[_Bias],
    tensors: tuple[Tensor, ...],
    grid: Grid,
    max_scores: int,
) -> Tensor:
    if torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value, *tensors)):
        return _BiasedAttention.apply(query, key, value, bias, grid, max_scores, *tensors)
    return _attend(query, key, value, bias, tensors, grid, max_scores)


class _BiasedAttention(torch.autograd.Function):
    """Keeps queries, keys, values, the bias's tensors and the output; backward makes the weights of some rows at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: type[_Bias],
        grid: Grid,
        max_scores: int,
        *tensors: Tensor,
    ) -> Tensor:
        output = _attend(query, key, value, bias, tensors, grid, max_scores)
        ctx.save_for_backward(query, key, value, output, *tensors)
        ctx.bias, ctx.grid, ctx.max_scores = bias, grid, max_scores
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, *tensors = ctx.saved_tensors
        columns = ctx.grid[1]
        scale = query.shape[-1] ** -0.5
        grad = grad.to(query.dtype)
        grad_query = torch.empty_like(query)
        # Sums over the slices, so in fp32 at least.
        wide = torch.promote_types(query.dtype, torch.float32)
        grad_key, grad_value, *grads = (torch.zeros_like(x, dtype=wide) for x in (key, value, *tensors))
        mean = (grad * output).sum(-1, keepdim=True, dtype=wide)
        for heads, start, stop in _slices(query, ctx.grid, ctx.max_scores // 2, per_image=True):
            part = slice(start * columns, stop * columns)
            query_part, grad_part = query[:, heads, part] * scale, grad[:, heads, part]
            scores = (query_part @ key[:, heads].transpose(-1, -2)).to(wide)
            weights = scores.add_(ctx.bias.band(_of(heads, tensors), start, stop, ctx.grid, wide)).softmax(-1)
            grad_value[:, heads] += weights.to(grad.dtype).transpose(-1, -2) @ grad_part
            grad_scores = (grad_part @ value[:, heads].transpose(-1, -2)).to(wide)
            grad_scores.sub_(mean[:, heads, part]).mul_(weights)
            ctx.bias.add_gradients(_of(heads, grads), start, stop, ctx.grid, grad_scores)
            grad_scores = grad_scores.to(query.dtype)
            grad_query[:, heads, part] = (grad_scores @ key[:, heads]) * scale
            grad_key[:, heads] += grad_scores.transpose(-1, -2) @ query_part
        narrow = [x.to(like.dtype) for x, like in zip(grads, tensors, strict=True)]
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), None, None, None, *narrow


def _slices(query: Tensor, grid: Grid, max_scores: int, per_image: bool) -> Iterator[tuple[slice, int, int]]:
    """Heads and rows of queries whose scores fit in one slice, which is made once or for each image: few heads, many rows."""
    row = grid[1] * grid[0] * grid[1] * (query.shape[0] if per_image else 1)
    heads = min(query.shape[1], max(1, max_scores // (row * grid[0])))
    rows = min(grid[0], max(1, max_scores // (row * heads)))
    for first in range(0, query.shape[1], heads):
        for start in range(0, grid[0], rows):
            yield slice(first, first + heads), start, min(start + rows, grid[0])


def _of(heads: slice, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The heads' part of tensors [..., heads, a, b]."""
    return [x[..., heads, :, :] for x in tensors]


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: type[_Bias],
    tensors: Sequence[Tensor],
    grid: Grid,
    max_scores: int,
) -> Tensor:
    """Attention, a few rows of queries at a time."""
    output = torch.empty_like(query)
    for heads, start, stop in _slices(query, grid, max_scores, bias.per_image):
        part = slice(start * grid[1], stop * grid[1])
        band = bias.band(_of(heads, tensors), start, stop, grid, query.dtype)
        output[:, heads, part] = F.scaled_dot_product_attention(
            query[:, heads, part], key[:, heads], value[:, heads], attn_mask=band
        )
    return output


def _to_windows(x: Tensor, height: int, width: int) -> Tensor:
    """[B, heads, H, W, D] -> [B * windows, heads, height * width, D]."""
    x = x.unflatten(3, (-1, width)).unflatten(2, (-1, height))
    return x.permute(0, 2, 4, 1, 3, 5, 6).flatten(4, 5).flatten(0, 2)


def _from_windows(x: Tensor, batch: int, counts: Grid, window: Grid) -> Tensor:
    """[B * windows, heads, height * width, D] -> [B, heads, H, W, D]."""
    x = x.unflatten(2, window).unflatten(0, (batch, *counts))
    return x.permute(0, 3, 1, 4, 2, 5, 6).flatten(4, 5).flatten(2, 3)
