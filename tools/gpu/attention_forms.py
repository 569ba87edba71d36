"""Ways to compute attention with relative positions, for comparison: (query, key, value, *tables, grid) to the output."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention

from convmae.backbones.biased_attention import biased_attention, decomposed_attention, windowed_attention
from convmae.backbones.position import Grid
from convmae.tools.plain_det import from_windows, hidden_keys, windows_of
from convmae.tools.plain_layers import offset_index

Form = Callable[..., Tensor]  # all of them take the grid last


def all_biases(table: Tensor, grid: Grid) -> Tensor:
    """The biases of all pairs of tokens, [heads, queries, keys], from a table [heads, 2 rows - 1, 2 columns - 1]."""
    return table.flatten(1)[:, offset_index(grid).to(table.device)]


def plain(query: Tensor, key: Tensor, value: Tensor, table: Tensor, grid: Grid) -> Tensor:
    """The textbook's: scores, biases and weights of all pairs in memory."""
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5 + all_biases(table, grid).to(query.dtype)
    return scores.softmax(-1) @ value


def masked(backend: SDPBackend | None, query: Tensor, key: Tensor, value: Tensor, table: Tensor, grid: Grid) -> Tensor:
    """PyTorch's attention, by one of its kernels or the one it chooses, with all biases as its mask."""
    bias = all_biases(table, grid).to(query.dtype).expand(len(query), -1, -1, -1)
    if backend is None:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)


def without(query: Tensor, key: Tensor, value: Tensor, *tables_and_grid: Any) -> Tensor:
    """PyTorch's attention without positions: what no form with them can beat by much."""
    return F.scaled_dot_product_attention(query, key, value)


def flexible(compiled: bool, query: Tensor, key: Tensor, value: Tensor, table: Tensor, grid: Grid) -> Tensor:
    """FlexAttention, whose score function reads the table."""
    return (_compiled_flex() if compiled else _flex)(query, key, value, table, *grid)


def _flex(query: Tensor, key: Tensor, value: Tensor, table: Tensor, rows: int, columns: int) -> Tensor:
    def biased(score: Tensor, batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        down, right = i // columns - j // columns, i % columns - j % columns
        return score + table[head, down + rows - 1, right + columns - 1]

    found: Any = flex_attention(query, key, value, score_mod=biased)
    return found


def _compiled_flex() -> Form:
    global _kept
    if _kept is None:
        _kept = torch.compile(_flex, dynamic=False)
    return _kept


_kept: Form | None = None


def plain_decomposed(
    query: Tensor, key: Tensor, value: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor, grid: Grid
) -> Tensor:
    """Decomposed positions with the biases of all pairs in memory."""
    by_row, by_column = _by_offset(query, rel_pos_h, rel_pos_w, grid)
    bias = (by_row[..., :, None] + by_column[..., None, :]).flatten(-2)
    return (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5 + bias.to(query.dtype)).softmax(-1) @ value


def extra_channels(
    query: Tensor, key: Tensor, value: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor, grid: Grid
) -> Tensor:
    """Decomposed positions as channels of the heads: keys say by ones in which row and column they are."""
    tokens = torch.arange(grid[0] * grid[1], device=query.device)
    ones = [F.one_hot(place, n) for place, n in zip((tokens // grid[1], tokens % grid[1]), grid, strict=True)]
    place = torch.cat(ones, 1).to(key.dtype).expand(*key.shape[:2], -1, -1)
    biases = [x.to(query.dtype) for x in _by_offset(query, rel_pos_h, rel_pos_w, grid)]
    query = torch.cat([query * query.shape[-1] ** -0.5, *biases], -1)
    return F.scaled_dot_product_attention(query, torch.cat([key, place], -1), value, scale=1.0)


def _by_offset(query: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor, grid: Grid) -> list[Tensor]:
    """Each query's bias towards every row and towards every column, [B, heads, queries, rows] and [..., columns]."""
    found = []
    place = torch.arange(grid[0] * grid[1], device=query.device)
    for table, at, length in ((rel_pos_h, place // grid[1], grid[0]), (rel_pos_w, place % grid[1], grid[1])):
        offset = at[:, None] - torch.arange(length, device=query.device) + length - 1
        found.append(torch.einsum("bhqd,qkd->bhqk", query, table[offset].to(query.dtype)))
    return found


def windowed(window: Grid, query: Tensor, key: Tensor, value: Tensor, table: Tensor, grid: Grid) -> Tensor:
    """The shipped attention in windows of a grid, with one table [heads, 2 height - 1, 2 width - 1] for all."""
    attend = {}
    for height in {window[0], grid[0] % window[0]} - {0}:
        for width in {window[1], grid[1] % window[1]} - {0}:
            part = table[:, window[0] - height : window[0] + height - 1, window[1] - width : window[1] + width - 1]
            attend[height, width] = partial(biased_attention, table=part, grid=(height, width))
    return windowed_attention(query, key, value, grid, window, attend)


def plain_windowed(window: Grid, query: Tensor, key: Tensor, value: Tensor, table: Tensor, grid: Grid) -> Tensor:
    """Windows as usually made: the grid padded to whole ones, keys outside it hidden, all biases in memory."""
    batch, heads = query.shape[:2]

    def cut(x: Tensor) -> Tensor:
        cells = windows_of(x.permute(0, 2, 1, 3).flatten(2).unflatten(1, grid), window).flatten(1, 2)
        return cells.unflatten(2, (heads, -1)).transpose(1, 2)  # [B * windows, heads, tokens, D]

    hidden = hidden_keys(grid, window).to(query)[:, None, None].repeat(batch, 1, 1, 1)
    bias = all_biases(table, window).to(query.dtype) + hidden
    attended = F.scaled_dot_product_attention(cut(query), cut(key), cut(value), attn_mask=bias)
    cells = attended.transpose(1, 2).flatten(2).unflatten(1, window)
    return from_windows(cells, batch, grid).unflatten(2, (heads, -1)).transpose(1, 2)


def shared_forms(group: str, tiny: bool) -> dict[str, Form]:
    """Attention with one table for all images, in three groups; `shipped`, what the models call, is in each."""
    shipped: dict[str, Form] = {"shipped": biased_attention}
    if group == "fused":
        return shipped | fused_forms()
    if group == "FlexAttention":
        return shipped | {"FlexAttention": partial(flexible, not tiny)}
    return {
        **shipped,
        **{f"slices of 2**{n}": partial(_sliced, 2**n) for n in ((8, 12) if tiny else (22, 24, 26, 28))},
        "plain": plain,
        "SDPA, mask": partial(masked, None),
        "SDPA, mask, efficient": partial(masked, SDPBackend.EFFICIENT_ATTENTION),
        "SDPA, mask, cuDNN": partial(masked, SDPBackend.CUDNN_ATTENTION),
        "SDPA, mask, math": partial(masked, SDPBackend.MATH),
        "SDPA, no positions": without,
    }


def fused_forms() -> dict[str, Form]:
    """The fused kernel with each of its configurations."""
    return {}


def decomposed_forms() -> dict[str, Form]:
    """Attention with a table for rows and one for columns."""
    return {"shipped": decomposed_attention, "extra channels": extra_channels, "plain": plain_decomposed}


def _sliced(scores: int, query: Tensor, key: Tensor, value: Tensor, table: Tensor, grid: Grid) -> Tensor:
    return biased_attention(query, key, value, table, grid, max_scores=scores)
