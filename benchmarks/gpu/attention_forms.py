"""Ways to compute attention with relative positions, for comparison: (query, key, value, *tables, grid) to the output."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention

from convmae.backbones.attention.biased import biased_attention, channel_attention, decomposed_attention
from convmae.backbones.attention.sliced import sliced_attention
from convmae.backbones.position import Grid
from convmae.benchmarks.forms.plain_det import from_windows, hidden_keys, windows_of
from convmae.benchmarks.forms.plain_layers import offset_index

Form = Callable[..., Tensor]  # all of them take the grid last


def all_biases(table: Tensor, grid: Grid) -> Tensor:
    """The biases of all pairs of tokens, [heads, queries, keys], from a table [heads, 2 rows - 1, 2 columns - 1]."""
    return table.flatten(1)[:, offset_index(grid).to(table.device)]


def plain(query: Tensor, key: Tensor, value: Tensor, table: Tensor, grid: Grid, hidden: Tensor | float = 0.0) -> Tensor:
    """The textbook's: scores, biases and weights of all pairs in memory. ``hidden`` is minus infinity where no key is."""
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5 + all_biases(table, grid).to(query.dtype)
    return (scores + hidden).softmax(-1) @ value


def plain_decomposed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    grid: Grid,
    hidden: Tensor | float = 0.0,
) -> Tensor:
    """The same with a bias that is the query times an entry for its rows below the key plus one for its columns beside it."""
    place = torch.arange(grid[0] * grid[1], device=query.device)
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    for table, at, length in ((rel_pos_h, place // grid[1], grid[0]), (rel_pos_w, place % grid[1], grid[1])):
        by_offset = query @ table.to(query.dtype).T  # [B, heads, queries, offsets]
        offset = at[:, None] - at[None] + length - 1
        scores = scores + by_offset.gather(-1, offset.expand(*query.shape[:2], -1, -1))
    return (scores + hidden).softmax(-1) @ value


def in_plain_windows(
    window: Grid, form: Form, query: Tensor, key: Tensor, value: Tensor, *tables_and_grid: Any
) -> Tensor:
    """A form in windows as usually made: the grid padded to whole ones, keys outside it hidden."""
    *tables, grid = tables_and_grid
    batch, heads = query.shape[:2]

    def cut(x: Tensor) -> Tensor:
        cells = windows_of(x.permute(0, 2, 1, 3).flatten(2).unflatten(1, grid), window).flatten(1, 2)
        return cells.unflatten(2, (heads, -1)).transpose(1, 2)  # [B * windows, heads, tokens, D]

    hidden = hidden_keys(grid, window).to(query)[:, None, None].repeat(batch, 1, 1, 1)
    attended = form(cut(query), cut(key), cut(value), *tables, window, hidden)
    cells = attended.transpose(1, 2).flatten(2).unflatten(1, window)
    return from_windows(cells, batch, grid).unflatten(2, (heads, -1)).transpose(1, 2)


def masked(
    backend: SDPBackend | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table: Tensor,
    grid: Grid,
    hidden: Tensor | float = 0.0,
) -> Tensor:
    """PyTorch's attention, by one of its kernels or the one it chooses, with all biases as its mask."""
    bias = (all_biases(table, grid).to(query.dtype) + hidden).expand(len(query), -1, -1, -1)
    with sdpa_kernel(backend) if backend is not None else nullcontext():
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


def shared_forms(tiny: bool) -> dict[str, Form]:
    """Attention with one table for all images; `shipped` is what the models call."""
    return {
        "shipped": biased_attention,
        **{f"slices of 2**{n}": partial(_sliced, 2**n) for n in ((8, 12) if tiny else (22, 24, 26, 28))},
        "plain": plain,
        "SDPA, mask": partial(masked, None),
        "SDPA, mask, efficient": partial(masked, SDPBackend.EFFICIENT_ATTENTION),
        "SDPA, mask, cuDNN": partial(masked, SDPBackend.CUDNN_ATTENTION),
        "SDPA, mask, math": partial(masked, SDPBackend.MATH),
        "SDPA, no positions": without,
    }


def flex_forms(tiny: bool) -> dict[str, Form]:
    """FlexAttention beside what is shipped."""
    return {"shipped": biased_attention, "FlexAttention": partial(flexible, not tiny)}


def decomposed_forms(window: Grid | None = None) -> dict[str, Form]:
    """Attention with a table for rows and one for columns, over the grid or in windows of it."""
    whole = partial(in_plain_windows, window, plain_decomposed) if window else plain_decomposed
    shipped, channels = (partial(form, window=window) for form in (decomposed_attention, channel_attention))
    return {"shipped": shipped, "channels": channels, "plain": whole}


def windowed_forms(window: Grid) -> dict[str, Form]:
    """Attention in windows of a grid, with one table."""
    return {
        "shipped": partial(biased_attention, window=window),
        "plain": partial(in_plain_windows, window, plain),
        "SDPA, mask": partial(in_plain_windows, window, partial(masked, None)),
    }


def _sliced(scores: int, query: Tensor, key: Tensor, value: Tensor, table: Tensor, grid: Grid) -> Tensor:
    return sliced_attention(query, key.flip(2), value.flip(2), "shared", (table,), grid, scores)
