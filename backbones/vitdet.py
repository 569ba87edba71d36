"""ConvViTDet, the encoder for detection: windowed and global attention in stage 3, four maps out (paper, section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from convmae.backbones.attention.biased import biased_attention, decomposed_attention
from convmae.backbones.convvit import ConvViTEncoder, Dims, grid_of
from convmae.backbones.layers import Attend, Attention, TransformerBlock
from convmae.backbones.position import Grid, RelativePositionBias, resample_offsets
from convmae.backbones.weights.shapes import STRIDE, bias_tables, image_size, rel_pos_grids, window_size


def spread_blocks(depth: int) -> tuple[int, ...]:
    """Returns the blocks that are global by default: four, of fewer than eight half, spread evenly; (0, 3, 6, 10) of 11."""
    count = min(4, depth // 2)
    return tuple(index * (depth - 1) // (count - 1) for index in range(count)) if count > 1 else (depth - 1,)


class ConvViTDet(ConvViTEncoder):
    """Returns E1, E2, E3 and E4, at strides 4, 8, 16, 32; E4 is E3 after 2x2 max-pooling.

    All blocks of stage 3 attend in windows but the global ones. Relative positions are zero at first. They are shared, one
    bias table for the windowed blocks and another for the global ones, as in the paper's detector; or each block has its
    own, decomposed into rows and columns, as in the public ViTDet port.

    Args:
        size: a name of `SIZES`, a dict of dims or a `Dims`.
        img_size: pixels whose grid `pos_embed` and the global tables are kept at; any other image fits them to its own.
        window_size: tokens, a side or height and width. The paper's text has 7, the released weights 16.
        global_blocks: indices from 0; None spreads them evenly over the depth: see `spread_blocks`.
        drop_path_rate: of the last block.
        checkpoint_activations: recompute each block in the backward pass.
        attend_to_padding: where windows don't divide the grid, pad it with zero tokens and attend to them as to others, as
            weights of the public ViTDet port were trained; by default nothing outside the grid is attended to.
        position: "shared" or "decomposed" relative positions.
        pretrain_img_size: pixels whose grid `pos_embed` is kept at instead, 224 in the port; None for `img_size`.
        in_chans: channels of the images.
    """

    strides = (4, 8, 16, 32)

    def __init__(
        self,
        size: str | Mapping[str, Any] | Dims = "base",
        img_size: int | tuple[int, int] = 1024,
        window_size: int | tuple[int, int] = 7,
        global_blocks: Sequence[int] | None = None,
        drop_path_rate: float = 0.0,
        checkpoint_activations: bool = False,
        attend_to_padding: bool = False,
        position: str = "shared",
        pretrain_img_size: int | tuple[int, int] | None = None,
        in_chans: int = 3,
    ) -> None:
        conv_eps = 1e-6 if position == "decomposed" else 1e-5  # the port's and the paper's code
        kept_at = pretrain_img_size or img_size
        super().__init__(size, kept_at, drop_path_rate, checkpoint_activations, conv_eps=conv_eps, in_chans=in_chans)
        depth = self.dims.depths[2]
        self.global_blocks = spread_blocks(depth) if global_blocks is None else tuple(global_blocks)
        if outside := [index for index in self.global_blocks if not 0 <= index < depth]:
            raise ValueError(f"global_blocks {outside} don't exist: stage 3 has blocks 0 to {depth - 1}")
        height, width = (window_size, window_size) if isinstance(window_size, int) else window_size
        self.window_size: Grid = (height, width)
        if min(self.window_size) < 1:
            raise ValueError(f"window_size must be at least 1 token, found {window_size}")
        self.attend_to_padding = attend_to_padding
        self.position = position
        if position == "decomposed":
            for index in range(depth):
                rows, columns = grid_of(img_size) if index in self.global_blocks else self.window_size
                self._attention(index).add_rel_pos(rows, columns)
        elif position == "shared":
            self.windowed_rel_pos_bias = RelativePositionBias(self.window_size, self.dims.num_heads)
            self.global_rel_pos_bias = RelativePositionBias(grid_of(img_size), self.dims.num_heads)
        else:
            raise ValueError(f"position is {position!r}; expected 'shared' or 'decomposed'")
        self.out_channels = (*self.embed_dims, self.embed_dims[2])

    @classmethod
    def options_from_state_dict(cls, state: Mapping[str, Any]) -> dict[str, Any]:
        """The grids, windows and positions of a detector's own weights; other weights are fitted to the usual ones."""
        if grids := rel_pos_grids(state):
            window, (rows, columns) = min(grids), max(grids)
            return {
                "img_size": (rows * STRIDE, columns * STRIDE),
                "window_size": window,
                "global_blocks": [index for index, grid in enumerate(grids) if grid != window],
                "attend_to_padding": True,
                "position": "decomposed",
                "pretrain_img_size": image_size(state).get("img_size"),
            }
        tables = bias_tables(state, "windowed_rel_pos_bias")
        side = window_size(tables[0]) if tables else 0
        return super().options_from_state_dict(state) | {"window_size": side} if side else {}

    def forward(self, images: Tensor, frame: Grid | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns E1..E4 of [B, 3, H, W], each [B, C, ceil(H / s), ceil(W / s)] at strides s = 4, 8, 16, 32.

        frame: height and width of the padded images of which these are the top left, whose positions they have then.
        """
        e1, e2, e3 = self.forward_pyramid(images, frame)
        return e1, e2, e3, F.max_pool2d(e3, kernel_size=2, ceil_mode=True)

    def forward_blocks3(self, x: Tensor, grid: Grid) -> Tensor:
        grid = (int(grid[0]), int(grid[1]))  # how a grid is cut into windows is no tensor, whatever a tracer says
        for index, block in enumerate(self.blocks3):
            attend = (self._attend if index in self.global_blocks else self._in_windows)(index, grid)
            x = self.run_block(block, x, attend)
        return x

    def _attention(self, index: int) -> Attention:
        return cast(TransformerBlock, self.blocks3[index]).attn

    def _in_windows(self, index: int, grid: Grid) -> Attend:
        """A block's attention within the windows of a grid, which may have to be padded to whole ones first."""
        whole = _padded(grid, self.window_size) if self.attend_to_padding else grid
        attend = self._attend(index, whole, self.window_size)
        return attend if whole == grid else partial(_attend_padded, self._attention(index).qkv, grid, whole, attend)

    def _attend(self, index: int, grid: Grid, window: Grid | None = None) -> Attend:
        """A block's attention over a grid or in its windows, with the relative positions of either."""
        size = window or grid
        if self.position == "decomposed":
            return partial(_attend_decomposed, self._attention(index), size, grid, window)
        shared = self.global_rel_pos_bias if index in self.global_blocks else self.windowed_rel_pos_bias
        return partial(biased_attention, table=shared.bias(size), grid=grid, window=window)


def _padded(grid: Grid, window: Grid) -> Grid:
    rows, columns = (side + -side % length for side, length in zip(grid, window, strict=True))
    return rows, columns


def _attend_decomposed(
    attn: Attention, size: Grid, grid: Grid, window: Grid | None, query: Tensor, key: Tensor, value: Tensor
) -> Tensor:
    """Attends with a block's own positions, which are read when it computes: of a split model they are there then alone."""
    rows, columns = (resample_offsets(x, n) for x, n in zip((attn.rel_pos_h, attn.rel_pos_w), size, strict=True))
    return decomposed_attention(query, key, value, rel_pos_h=rows, rel_pos_w=columns, grid=grid, window=window)


def _attend_padded(
    qkv: nn.Linear, grid: Grid, padded: Grid, attend: Attend, query: Tensor, key: Tensor, value: Tensor
) -> Tensor:
    """Pads queries, keys and values as zero tokens would give them, which is the bias of `qkv`; crops what comes out."""
    biases = qkv.bias.unflatten(0, (3, query.shape[1], 1, 1, -1)).to(query.dtype)
    maps = []
    for x, bias in zip((query, key, value), biases, strict=True):
        canvas = bias.expand(*x.shape[:2], *padded, -1).clone()
        canvas[:, :, : grid[0], : grid[1]] = x.unflatten(2, grid)
        maps.append(canvas.flatten(2, 3))
    attended = attend(*maps).unflatten(2, padded)
    return attended[:, :, : grid[0], : grid[1]].flatten(2, 3)
