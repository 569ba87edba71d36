"""Attention with a bias that is made for a few heads and rows of queries at a time: on a CPU, and where no fused kernel is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from convmae.backbones.position import Grid

# Largest number of bias values (in the backward pass, of attention weights and their gradients) alive at once. On a CPU 16 MB
# in fp32: slices of 64 MB took 1.5x the time in the backward pass at 64x64 tokens, for they no longer fit the cache. On a GPU
# 1 GB: each slice is some 25 kernels, which have to be large.
MAX_SCORES = {"cpu": 2**22, "cuda": 2**28}


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


_BIASES: dict[str, type[_Bias]] = {"shared": _SharedBias, "decomposed": _DecomposedBias}


def sliced_attention(
    query: Tensor, key: Tensor, value: Tensor, kind: str, tensors: Sequence[Tensor], grid: Grid, max_scores: int | None
) -> Tensor:
    """Attends with scores q k / sqrt(D) + bias; only a slice of the biases, and of the scores in the backward pass, is made.

    Args:
        query, key, value: [B, heads, rows * columns, D].
        kind: "shared" for a table [heads, 2 rows - 1, 2 columns - 1], keys and values in reverse order; "decomposed" for each
            query's bias towards every row, [B, heads, queries, rows], and towards every column.
        tensors: what the bias is made of.
        grid: rows and columns.
        max_scores: bounds the heads and query rows in one slice; at least one row of one head is taken. None suits the device.

    Returns:
        [B, heads, rows * columns, D]
    """
    if torch.jit.is_tracing():
        return _attend_by_head(query, key, value, kind, tensors, grid)
    most = max_scores or MAX_SCORES.get(query.device.type, MAX_SCORES["cpu"])
    if torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value, *tensors)):
        return _sliced_attention(query, key, value, list(tensors), kind, list(grid), most)
    return _attend(query, key, value, _BIASES[kind], tensors, grid, most)


def _attend_by_head(
    query: Tensor, key: Tensor, value: Tensor, kind: str, tensors: Sequence[Tensor], grid: Grid
) -> Tensor:
    """Attention a head at a time: how a traced graph has it, where each slice of rows would be written down by itself."""
    rows, columns = grid
    down, across = (torch.arange(side)[:, None] + torch.arange(side) for side in grid)  # keys are in reverse order
    if kind == "shared":
        # Rows of keys are gathered whole: single numbers take a runtime three times as long.
        lines = tensors[0][:, :, across]  # [heads, 2 rows - 1, columns, columns of keys]
    attended = []
    for head in range(query.shape[1]):
        scores = (query[:, head] * query.shape[-1] ** -0.5) @ key[:, head].transpose(1, 2)
        if kind == "shared":
            scores = scores + lines[head, down].transpose(1, 2).reshape(rows * columns, -1)
        else:
            by_row, by_column = (x[:, head] for x in tensors)
            scores = scores + (by_row[..., None] + by_column[..., None, :]).flatten(2)
        attended.append(scores.softmax(-1) @ value[:, head])
    return torch.stack(attended, 1)


# One operator, so that a compiled graph holds one node, not a node for each operation of each slice.
@torch.library.custom_op("convmae::sliced_attention", mutates_args=())
def _sliced_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tensors: Sequence[Tensor],
    kind: str,
    grid: Sequence[int],
    max_scores: int,
) -> Tensor:
    return _attend(query, key, value, _BIASES[kind], tensors, (grid[0], grid[1]), max_scores)


@torch.library.custom_op("convmae::sliced_attention_backward", mutates_args=())
def _sliced_attention_backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tensors: Sequence[Tensor],
    grad: Tensor,
    kind: str,
    grid: Sequence[int],
    max_scores: int,
) -> list[Tensor]:
    with torch.autocast(query.device.type, enabled=False):  # a backward pass may run inside it, where products are bf16
        return _gradients(query, key, value, _BIASES[kind], tensors, grad, (grid[0], grid[1]), max_scores)


@_sliced_attention.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tensors: Sequence[Tensor],
    kind: str,
    grid: Sequence[int],
    max_scores: int,
) -> Tensor:
    return torch.empty_like(query)


@_sliced_attention_backward.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tensors: Sequence[Tensor],
    grad: Tensor,
    kind: str,
    grid: Sequence[int],
    max_scores: int,
) -> list[Tensor]:
    return [torch.empty_like(x) for x in (query, key, value, *tensors)]


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    query, key, value, tensors, ctx.kind, ctx.grid, ctx.max_scores = inputs
    ctx.save_for_backward(query, key, value, *tensors)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    query, key, value, *tensors = ctx.saved_tensors
    first, second, third, *rest = _sliced_attention_backward(
        query, key, value, tensors, grad.to(query.dtype), ctx.kind, ctx.grid, ctx.max_scores
    )
    return first, second, third, rest, None, None, None


_sliced_attention.register_autograd(_differentiate, setup_context=_save)


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
    # A CPU's kernel takes biases in fp32 beside anything, as quickly; a GPU's want the queries' precision.
    precision = query.dtype if query.is_cuda else torch.promote_types(query.dtype, torch.float32)
    for heads, start, stop in _slices(query, grid, max_scores, bias.per_image):
        part = slice(start * grid[1], stop * grid[1])
        band = bias.band(_of(heads, tensors), start, stop, grid, precision)
        output[:, heads, part] = F.scaled_dot_product_attention(
            query[:, heads, part], key[:, heads], value[:, heads], attn_mask=band
        )
    return output


def _gradients(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: type[_Bias],
    tensors: Sequence[Tensor],
    grad: Tensor,
    grid: Grid,
    max_scores: int,
) -> list[Tensor]:
    """The gradients of queries, keys, values and the bias's tensors: makes the weights again, a slice at a time.

    Scores are products kept in fp32 whatever the tensors' precision: a rounded score is a wrong weight, the more so the larger
    it is. Products with weights and their gradients are in the tensors' precision, as in PyTorch's own attention.
    """
    columns = grid[1]
    scale = query.shape[-1] ** -0.5
    grad_query = torch.empty_like(query)
    wide = torch.promote_types(query.dtype, torch.float32)
    # Sums over the slices, so in fp32 at least.
    grad_key, grad_value, *grads = (torch.zeros_like(x, dtype=wide) for x in (key, value, *tensors))
    for heads, start, stop in _slices(query, grid, max_scores // 2, per_image=True):
        part = slice(start * columns, stop * columns)
        query_part, grad_part = query[:, heads, part] * scale, grad[:, heads, part]
        scores = _wide_product(query_part, key[:, heads].transpose(-1, -2), wide)
        weights = scores.add_(bias.band(_of(heads, tensors), start, stop, grid, wide)).softmax(-1)
        grad_value[:, heads] += weights.to(grad.dtype).transpose(-1, -2) @ grad_part
        grad_scores = (grad_part @ value[:, heads].transpose(-1, -2)).to(wide).mul_(weights)
        # From the weights themselves, as the output that was kept is rounded.
        grad_scores.sub_(weights.mul_(grad_scores.sum(-1, keepdim=True)))
        bias.add_gradients(_of(heads, grads), start, stop, grid, grad_scores)
        grad_scores = grad_scores.to(query.dtype)
        grad_query[:, heads, part] = (grad_scores @ key[:, heads]) * scale
        grad_key[:, heads] += grad_scores.transpose(-1, -2) @ query_part
    of_tensors = [x.to(like.dtype) for x, like in zip(grads, tensors, strict=True)]
    return [grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), *of_tensors]


def _wide_product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """The product of [B, heads, n, D] and [B, heads, D, m] with sums that are not rounded to the factors' precision."""
    if a.is_cuda and a.dtype != dtype:  # tensor cores add up in fp32, and may keep it
        return torch.bmm(a.flatten(0, 1), b.flatten(0, 1), out_dtype=dtype).unflatten(0, a.shape[:2])
    return a.to(dtype) @ b.to(dtype)


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
