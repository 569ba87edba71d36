"""Attention with a shared table of relative positions as one fused kernel on a GPU, forward and backward (Triton).

Nothing of the size of all pairs of tokens is kept or written. Windows are read where they lie in the grid, whatever its
size. The gradient of the table is summed in registers over pairs, windows and images, then folded in a fixed order: no
atomic additions, so it repeats bit for bit. PyTorch's FlexAttention could do the same, but only compiled, anew for each grid,
with windows cut and padded before, and with an atomic addition for each score in the table's gradient.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

HAS_TRITON = importlib.util.find_spec("triton") is not None
WIDEST_HEAD = {2: 128, 4: 64}  # channels, by bytes a number
# Columns of the widest window, by the shared memory in bytes that a GPU gives a block: a row of the window is one band of the
# table's gradient, which takes tiles of 128 x 128 beyond 64 columns.
WIDEST_WINDOWS = {160 * 1024: 128, 99 * 1024: 64}


class Tiles(NamedTuple):
    """How a kernel works: tokens of its blocks, warps of a program, loads under way at once."""

    queries: int
    keys: int
    warps: int
    stages: int


# By kernel; `table_gradients` has square tiles. Compiled for compute capability 8.0 to 12.0 these need less than 99 KB of
# shared memory, which every such GPU has, and on 9.0 spill no register.
TILES = {
    "attend": Tiles(128, 64, 8, 2),
    "query_gradients": Tiles(64, 64, 4, 2),
    "key_gradients": Tiles(64, 64, 8, 2),
    "table_gradients": Tiles(64, 64, 4, 2),
}
TILES_WIDE = {  # heads of more than 64 channels
    "attend": Tiles(64, 32, 4, 1),
    "query_gradients": Tiles(64, 32, 4, 1),
    "key_gradients": Tiles(32, 32, 4, 1),
    "table_gradients": Tiles(64, 64, 8, 1),
}
TILES_FP32 = {  # products number by number
    "attend": Tiles(64, 32, 8, 1),
    "query_gradients": Tiles(64, 32, 8, 1),
    "key_gradients": Tiles(32, 32, 4, 1),
    "table_gradients": Tiles(32, 32, 4, 1),
}
PROGRAMS = 1024  # that the table's gradient is split into at least: several for each multiprocessor


@torch.compiler.assume_constant_result
def _widest_window(device: int | None) -> int:
    """How many columns a window may have on a GPU; tensors that only pretend to be on one (fake tensors) are on a large one."""
    if not torch.cuda.is_available():
        return max(WIDEST_WINDOWS.values())
    # Those before Ampere, without tensor cores for bf16, have less; AMD's don't say.
    memory = getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0)
    return max((columns for needed, columns in WIDEST_WINDOWS.items() if memory >= needed), default=0)


def is_fused(query: Tensor, window: Sequence[int]) -> bool:
    """Whether queries [B, heads, L, D] in windows of so many rows and columns are attended by the fused kernel."""
    fits = query.shape[-1] <= WIDEST_HEAD.get(query.element_size(), 0)
    return HAS_TRITON and query.is_cuda and fits and window[1] <= _widest_window(query.device.index)


def fused_attention(
    query: Tensor, key: Tensor, value: Tensor, table: Tensor, grid: Sequence[int], window: Sequence[int]
) -> Tensor:
    """Attends as `biased_attention` does, within each window of a grid.

    Args:
        query, key, value: [B, heads, rows * columns, D], fp32, bf16 or fp16.
        table: [heads, 2 high - 1, 2 wide - 1].
        grid: rows and columns.
        window: high and wide; windows are cut from the top left corner, and smaller at the right and the bottom.

    Returns:
        [B, heads, rows * columns, D]
    """
    return _fused_attention(query, key, value, table, list(grid), list(window))[0]


@torch.library.custom_op("convmae::fused_attention", mutates_args=())
def _fused_attention(
    query: Tensor, key: Tensor, value: Tensor, table: Tensor, grid: Sequence[int], window: Sequence[int]
) -> tuple[Tensor, Tensor]:
    with torch.cuda.device_of(query):  # Triton launches on the current device
        return forward(query, key, value, table, grid, window)


@torch.library.custom_op("convmae::fused_attention_backward", mutates_args=())
def _fused_attention_backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table: Tensor,
    output: Tensor,
    lse: Tensor,
    grad: Tensor,
    grid: Sequence[int],
    window: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with torch.cuda.device_of(query):
        return backward(query, key, value, table, output, lse, grad, grid, window)


@_fused_attention.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, table: Tensor, grid: Sequence[int], window: Sequence[int]
) -> tuple[Tensor, Tensor]:
    return _empty(query), query.new_empty(query.shape[:3], dtype=torch.float32)


@_fused_attention_backward.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table: Tensor,
    output: Tensor,
    lse: Tensor,
    grad: Tensor,
    grid: Sequence[int],
    window: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _empty(query), _empty(key), _empty(value), table.new_empty(table.shape)


def _save(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    query, key, value, table, ctx.grid, ctx.window = inputs
    ctx.save_for_backward(query, key, value, table, *output)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # of what has no gradient


def _differentiate(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    query, key, value, table, output, lse = ctx.saved_tensors
    grads = _fused_attention_backward(query, key, value, table, output, lse, grad.to(query.dtype), ctx.grid, ctx.window)
    return *grads, None, None


_fused_attention.register_autograd(_differentiate, setup_context=_save)


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table: Tensor,
    grid: Sequence[int],
    window: Sequence[int],
    tiles: Mapping[str, Tiles] | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns the output, [B, heads, L, D], and the logarithms to base 2 of each query's sum of exponentials, [B, heads, L]."""
    from convmae.backbones.attention import fused_kernels

    query, key, value = (_dense(x) for x in (query, key, value))
    output, lse = _empty(query), query.new_empty(query.shape[:3], dtype=torch.float32)
    tile = _tile("attend", tiles, query, window)
    fused_kernels.attend[_programs(query, grid, window, tile.queries),](
        query,
        key,
        value,
        _in_base_two(table),
        output,
        lse,
        *(stride for x in (query, key, value, output) for stride in x.stride()[:3]),
        *_sizes(query, grid, window),
        _scale(query) * math.log2(math.e),
        **_constants(query),
        BLOCK_M=tile.queries,
        BLOCK_N=tile.keys,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return output, lse


def backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table: Tensor,
    output: Tensor,
    lse: Tensor,
    grad: Tensor,
    grid: Sequence[int],
    window: Sequence[int],
    tiles: Mapping[str, Tiles] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns the gradients of queries, keys, values and table, given that of the output."""
    from convmae.backbones.attention import fused_kernels

    query, key, value, grad = (_dense(x) for x in (query, key, value, grad))
    grad_query, grad_key, grad_value = (_empty(query) for _ in range(3))
    if output.stride() != grad_query.stride():
        output = _empty(query).copy_(output)
    means = torch.empty_like(lse)
    based = _in_base_two(table)
    sizes, scale = _sizes(query, grid, window), _scale(query) * math.log2(math.e)
    strides = [stride for x in (query, key, value, output, grad) for stride in x.stride()[:3]]
    tile = _tile("query_gradients", tiles, query, window)
    fused_kernels.query_gradients[_programs(query, grid, window, tile.queries),](
        *(query, key, value, based, output, lse, grad, means, grad_query, *strides, *sizes, scale),
        **_constants(query),
        BLOCK_M=tile.queries,
        BLOCK_N=tile.keys,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    tile = _tile("key_gradients", tiles, query, window)
    fused_kernels.key_gradients[_programs(query, grid, window, tile.keys),](
        *(query, key, value, based, lse, grad, means, grad_key, grad_value, *strides, *sizes, scale),
        **_constants(query),
        BLOCK_M=tile.queries,
        BLOCK_N=tile.keys,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    high, wide = window
    # A band of the table's gradient: whole rows of a window, as many as a tile holds.
    block = max(_tile("table_gradients", tiles, query, window).queries, _power_of_two(wide))
    band = min(high, block // wide)
    apart = 2 * -(-high // band) - 1
    items = query.shape[0] * _windows(grid, window)
    splits = max(1, min(items, -(-PROGRAMS // (query.shape[1] * apart))))
    sums = query.new_empty(query.shape[1], apart, splits, block, block, dtype=torch.float32)
    tile = _tile("table_gradients", tiles, query, window)
    fused_kernels.table_gradients[query.shape[1] * apart * splits,](
        *(
            query,
            key,
            value,
            based,
            lse,
            grad,
            means,
            sums,
            *strides[:9],
            *strides[12:],
            items,
            *sizes,
            band,
            splits,
            scale,
        ),
        **_constants(query),
        BLOCK=block,
        num_warps=tile.warps if block <= 64 else 2 * tile.warps,
        num_stages=tile.stages if block <= 64 else 1,
    )
    sums = sums.sum(2) if splits > 1 else sums
    grad_table = table.new_empty(table.shape)
    fused_kernels.fold_bands[grad_table.shape[0] * grad_table.shape[1],](
        *(sums, grad_table, high, wide, band), BLOCK=block, COLUMNS=_power_of_two(grad_table.shape[2])
    )
    return grad_query, grad_key, grad_value, grad_table


def _empty(like: Tensor) -> Tensor:
    """[B, heads, L, D] whose heads lie side by side in memory, as the layer after attention reads them."""
    batch, heads, tokens, width = like.shape
    return like.new_empty(batch, tokens, heads, width).transpose(1, 2)


def _dense(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _in_base_two(table: Tensor) -> Tensor:
    based = table.new_empty(table.shape, dtype=torch.float32)
    return torch.mul(table.detach(), math.log2(math.e), out=based)


def _scale(query: Tensor) -> float:
    return float(query.shape[-1] ** -0.5)


def _sizes(query: Tensor, grid: Sequence[int], window: Sequence[int]) -> tuple[int, ...]:
    return query.shape[1], *grid, *window


def _windows(grid: Sequence[int], window: Sequence[int]) -> int:
    return math.prod(-(-side // length) for side, length in zip(grid, window, strict=True))


def _programs(query: Tensor, grid: Sequence[int], window: Sequence[int], block: int) -> int:
    return query.shape[0] * query.shape[1] * _windows(grid, window) * -(-math.prod(window) // block)


def _constants(query: Tensor) -> dict[str, Any]:
    width = query.shape[-1]
    exact = query.dtype == torch.float32 and not torch.backends.cuda.matmul.allow_tf32
    return {"D": width, "BLOCK_D": max(16, _power_of_two(width)), "PRECISION": "ieee" if exact else "tf32"}


def _tile(name: str, tiles: Mapping[str, Tiles] | None, query: Tensor, window: Sequence[int]) -> Tiles:
    """A kernel's tiles, no larger than the window needs."""
    usual = TILES_FP32 if query.dtype == torch.float32 else TILES if query.shape[-1] <= 64 else TILES_WIDE
    tile = (tiles or usual)[name]
    most = max(16, _power_of_two(math.prod(window)))
    return tile._replace(queries=min(tile.queries, most), keys=min(tile.keys, most))


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
