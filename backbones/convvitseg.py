"""ConvViTSeg, the encoder for segmentation: biased global attention in stage 3, four maps out (paper, section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convmae.backbones.attention.biased import biased_attention
from convmae.backbones.convvit import ConvViTEncoder, Dims
from convmae.backbones.layers import Attention
from convmae.backbones.position import Grid, bias_at_grid, smaller
from convmae.backbones.weights.shapes import bias_tables


class BiasedAttention(Attention):
    """Attention with a relative position bias table of its own, zero at first, for a grid of `window` tokens."""

    def __init__(self, dim: int, num_heads: int, window: Grid) -> None:
        super().__init__(dim, num_heads)
        self.window = window
        offsets = (2 * window[0] - 1) * (2 * window[1] - 1)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(offsets, num_heads))

    def bias(self, grid: Grid) -> Tensor:
        """Returns the table for `grid`, [heads, 2 rows - 1, 2 columns - 1]; see `bias_at_grid`."""
        return bias_at_grid(self.relative_position_bias_table, self.window, grid)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, grid: Grid) -> Tensor:
        """Attends among the tokens of `grid` with the table's biases; see `biased_attention`."""
        return biased_attention(query, key, value, self.bias(grid), grid)


class SyncBatchNorm2d(nn.SyncBatchNorm):
    """Batch normalisation over all processes on GPUs; on a CPU, where PyTorch's own refuses, over this process alone."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu":
            return nn.modules.batchnorm._BatchNorm.forward(self, x)
        return super().forward(x)


class ConvViTSeg(ConvViTEncoder):
    """Returns E1, E2, E3 and E4 for UPerNet; every block of stage 3 attends globally with its own position bias.

    LayerScale starts at 1 and LayerNorms have eps 1e-5 throughout, as in the public backbone.

    Args:
        size: a name of `SIZES`, a dict of dims or a `Dims`.
        img_size: pixels of the training crop: `pos_embed` and the bias tables are kept at its grid, and fit to any other.
        drop_path_rate: of the last block.
        checkpoint_activations: recompute each block in the backward pass.
        downsample: E4 from E3 by "conv" (`fpn`: 3x3 convolution of stride 2 without padding, batch norm, GELU) or by
            "max_pool" (2x2).
        in_chans: channels of the images.
    """

    strides = (4, 8, 16, 32)
    added = ("fpn",)

    def __init__(
        self,
        size: str | Mapping[str, Any] | Dims = "base",
        img_size: int | tuple[int, int] = 512,
        drop_path_rate: float = 0.0,
        checkpoint_activations: bool = False,
        downsample: str = "conv",
        in_chans: int = 3,
    ) -> None:
        super().__init__(
            size, img_size, drop_path_rate, checkpoint_activations, eps=1e-5, layer_scale=1.0, in_chans=in_chans
        )
        if downsample not in ("conv", "max_pool"):
            raise ValueError(f"unknown downsample '{downsample}'; expected conv or max_pool")
        width = self.embed_dims[2]
        for block in self.blocks3:
            block.attn = BiasedAttention(width, self.dims.num_heads, self.grid_size)
            block.attn.apply(self.init_linear)
        self.downsample = downsample
        if downsample == "conv":
            self.fpn = nn.Sequential(
                nn.Conv2d(width, width, kernel_size=3, stride=2), SyncBatchNorm2d(width), nn.GELU()
            )
        self.out_channels = (*self.embed_dims, width)

    @classmethod
    def options_from_state_dict(cls, state: Mapping[str, Any]) -> dict[str, Any]:
        """The grid and E4's kind of a segmenter's own weights; other weights are fitted to the usual ones."""
        if not bias_tables(state, "blocks3."):
            return {}
        return super().options_from_state_dict(state) | {
            "downsample": "conv" if "fpn.0.weight" in state else "max_pool"
        }

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns E1..E4 of [B, in_chans, H, W]: [B, C, ceil(H / s), ceil(W / s)] at strides s = 4, 8, 16, and E4 at about 32.

        The strided convolution gives E4 `(n - 1) // 2` rows of E3's n, at least one; max-pooling `ceil(n / 2)`.
        """
        e1, e2, e3 = self.forward_pyramid(images)
        if self.downsample == "max_pool":
            return e1, e2, e3, F.max_pool2d(e3, kernel_size=2, ceil_mode=True)
        rows, columns = e3.shape[-2:]
        # A grid smaller than the kernel is padded to it.
        return e1, e2, e3, self.fpn(F.pad(e3, (0, 3 - smaller(3, columns), 0, 3 - smaller(3, rows))))

    def forward_blocks3(self, x: Tensor, grid: Grid) -> Tensor:
        for block in self.blocks3:
            x = self.run_block(block, x, partial(cast(BiasedAttention, block.attn).attend, grid=grid))
        return x
