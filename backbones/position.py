"""Positions: the sin-cos table, position embeddings and relative bias tables at any grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Grid = tuple[int, int]  # rows, columns


def smaller(one: int, other: int) -> int:
    """Returns the smaller number. Of a traced picture's size, a tensor, `min` would take for good what is smaller now."""
    if torch.jit.is_tracing():
        numbers = (side if isinstance(side, Tensor) else torch.tensor(side) for side in (one, other))
        return cast(int, torch.minimum(*numbers))
    return min(one, other)


def _same(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether there is nothing to resample; in a traced graph there always may be."""
    return not torch.jit.is_tracing() and tuple(one) == tuple(other)


def sincos_pos_embed(dim: int, grid: Grid) -> Tensor:
    """Returns the fixed 2-D sin-cos table of MAE, [1, rows * columns, dim]: columns in its first half, rows in the second.

    Raises:
        ValueError: `dim` is no multiple of 4 (a sine and a cosine for each of two axes).
    """
    if dim % 4:
        raise ValueError(f"a sin-cos table needs a width that is a multiple of 4, got {dim}")
    omega = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    rows, columns = (torch.arange(side, dtype=torch.float64)[:, None] * omega for side in grid)
    row_table, column_table = (torch.cat([angle.sin(), angle.cos()], dim=1) for angle in (rows, columns))
    table = torch.cat(
        [
            column_table[None].expand(grid[0], -1, -1),
            row_table[:, None].expand(-1, grid[1], -1),
        ],
        dim=2,
    )
    return table.flatten(0, 1)[None].float()


def resample_pos_embed(pos_embed: Tensor, old: Grid, new: Grid) -> Tensor:
    """Resamples positions [1, rows * columns, C] from grid `old` to grid `new`: bicubic, in fp32, not antialiased."""
    if _same(old, new):
        return pos_embed
    table = pos_embed.float().unflatten(1, old).permute(0, 3, 1, 2)
    table = F.interpolate(table, size=new, mode="bicubic", align_corners=False, antialias=False)
    return table.permute(0, 2, 3, 1).flatten(1, 2).to(pos_embed.dtype)


def resample_bias_table(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """Fits a relative position bias table, [(2 h - 1) * (2 w - 1), heads], from window `old` to window `new`.

    Along a side that shrinks the central offsets are kept as they are (they mean the same); along one that grows
    the table is resampled, bicubic and in fp32.
    """
    if _same(old, new):
        return table
    offsets = table.unflatten(0, (2 * old[0] - 1, 2 * old[1] - 1))
    for axis in (0, 1):
        kept = smaller(new[axis], old[axis])
        offsets = offsets.narrow(axis, old[axis] - kept, 2 * kept - 1)
    size = (2 * new[0] - 1, 2 * new[1] - 1)
    if not _same(offsets.shape[:2], size):
        grown = offsets.float().permute(2, 0, 1)[None]
        grown = F.interpolate(grown, size=size, mode="bicubic", align_corners=False, antialias=False)
        offsets = grown[0].permute(1, 2, 0).to(table.dtype)
    return offsets.flatten(0, 1)


def resample_offsets(table: Tensor, length: int) -> Tensor:
    """Fits offsets along a side, [2 old - 1, D], to `length` tokens: the central ones, or resampled linearly in fp32."""
    size = 2 * length - 1
    if size <= table.shape[0]:
        return table.narrow(0, (table.shape[0] - size) // 2, size)
    grown = F.interpolate(table.float().t()[None], size=size, mode="linear", align_corners=False)
    return grown[0].t().to(table.dtype)


def bias_at_grid(table: Tensor, window: Grid, grid: Grid) -> Tensor:
    """Returns the table of `window`, [(2 h - 1) * (2 w - 1), heads], for `grid`: [heads, 2 rows - 1, 2 columns - 1].

    Entry [:, grid[0] - 1 + dr, grid[1] - 1 + dc] is the bias of a query `dr` rows below and `dc` columns right of its key.
    """
    size = (2 * grid[0] - 1, 2 * grid[1] - 1)
    return resample_bias_table(table, window, grid).reshape(*size, table.shape[1]).permute(2, 0, 1)


class RelativePositionBias(nn.Module):
    """Holds one relative position bias table, zero at first, for windows or grids of `window` rows and columns."""

    def __init__(self, window: Grid, num_heads: int) -> None:
        super().__init__()
        self.window = window
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * window[0] - 1) * (2 * window[1] - 1), num_heads)
        )

    def bias(self, grid: Grid) -> Tensor:
        """Returns the table for `grid`, [heads, 2 rows - 1, 2 columns - 1]; see `bias_at_grid`."""
        return bias_at_grid(self.relative_position_bias_table, self.window, grid)
