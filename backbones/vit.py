"""ViT, the plain vision transformer of MAE: the baseline that ConvViT is compared with (arXiv 2010.11929, 2111.06377).

Parameter names are those of the public MAE and of timm's ViTs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convmae.backbones.convvit import cells, default_heads
from convmae.backbones.encoder import Classifier, Encoder, checked_channels
from convmae.backbones.layers import PatchConv, TransformerBlock
from convmae.backbones.position import Grid, resample_pos_embed, sincos_pos_embed
from convmae.backbones.weights.shapes import STRIDE, block_count
from convmae.backbones.weights.weight_files import CheckpointError


class ViTDims(NamedTuple):
    """Width, number of blocks, heads, and the MLP's width over the blocks'."""

    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float = 4

    @classmethod
    def of(cls, size: str | Mapping[str, Any] | ViTDims) -> ViTDims:
        """Returns the dims of a size's name, or of a dict with this class's fields. Raises ValueError for any other."""
        if isinstance(size, ViTDims):
            return size
        if isinstance(size, str):
            if size not in VIT_SIZES:
                raise ValueError(f"unknown size '{size}' of a plain ViT; expected one of {', '.join(VIT_SIZES)}")
            return VIT_SIZES[size]
        if unknown := set(size) - set(cls._fields) or {"embed_dim", "depth", "num_heads"} - set(size):
            raise ValueError(
                f"dims of a plain ViT with or without {sorted(unknown)}; expected {', '.join(cls._fields)}"
            )
        return cls(**size)


VIT_SIZES = {
    "tiny": ViTDims(256, 7, 4),  # ours: about as many parameters as ConvViT's tiny
    "small": ViTDims(384, 12, 6),
    "base": ViTDims(768, 12, 12),
    "large": ViTDims(1024, 24, 16),
}


class ViTEncoder(Encoder):
    """Patches of 16x16 pixels and a class token through transformer blocks.

    Args:
        size: a name of `VIT_SIZES`, a dict of dims (see `ViTDims`) or a `ViTDims`.
        img_size: pixels (a side, or height and width) whose grid `pos_embed` is kept at; any other image resamples it.
        drop_path_rate: of the last block; it grows linearly from 0.
        checkpoint_activations: recompute each block in the backward pass instead of keeping its activations.
        in_chans: channels of the images; 3 are RGB.
    """

    first_weight = "patch_embed.proj.weight"

    def __init__(
        self,
        size: str | Mapping[str, Any] | ViTDims = "base",
        img_size: int | tuple[int, int] = 224,
        drop_path_rate: float = 0.0,
        checkpoint_activations: bool = False,
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        self.in_chans = checked_channels(in_chans)
        self.dims = dims = ViTDims.of(size)
        self.checkpoint_activations = checkpoint_activations
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.grid_size: Grid = (-(-height // STRIDE), -(-width // STRIDE))
        proj = PatchConv(in_chans, dims.embed_dim, STRIDE)
        self.patch_embed = nn.ModuleDict({"proj": proj})
        self.cls_token = nn.Parameter(torch.empty(1, 1, dims.embed_dim))
        table = sincos_pos_embed(dims.embed_dim, self.grid_size)
        self.pos_embed = nn.Parameter(F.pad(table, (0, 0, 1, 0)))  # the class token's row is zero at first
        rates = torch.linspace(0, drop_path_rate, dims.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(
            TransformerBlock(dims.embed_dim, dims.num_heads, dims.mlp_ratio, rate) for rate in rates
        )
        self.apply(self.init_linear)
        nn.init.xavier_uniform_(proj.weight.data.flatten(1))
        nn.init.constant_(proj.get_parameter("bias"), 0)
        nn.init.normal_(self.cls_token, std=0.02)

    @classmethod
    def dims_from_state_dict(cls, state: Mapping[str, Any]) -> dict[str, Any]:
        try:
            width, hidden = state[cls.first_weight].shape[0], state["blocks.0.mlp.fc1.weight"].shape[0]
        except KeyError as error:
            raise CheckpointError(f"the weights hold no {error}; expected a plain ViT's blocks") from None
        depth = block_count(state, "blocks")
        return {
            "embed_dim": width,
            "depth": depth,
            "num_heads": default_heads(width),
            "mlp_ratio": hidden / width,
        }

    def positions(self, grid: Grid) -> tuple[Tensor, Tensor]:
        """Returns the positions of the class token, [1, 1, C], and of `grid`, [1, rows * columns, C]."""
        return self.pos_embed[:, :1], resample_pos_embed(self.pos_embed[:, 1:], self.grid_size, grid)

    def forward_blocks(self, patches: Tensor, grid: Grid) -> Tensor:
        """Runs the blocks on patches with their positions [B, n, C], the class token first: [B, 1 + n, C]."""
        first = self.cls_token + self.positions(grid)[0]
        x = torch.cat([first.to(patches.dtype).expand(patches.shape[0], -1, -1), patches], dim=1)
        for block in self.blocks:
            x = self.run_block(block, x)
        return x

    def forward_tokens(self, images: Tensor) -> Tensor:
        """Returns the last block's tokens, [B, 1 + L, C], the class token first, of images [B, in_chans, H, W], any."""
        height, width = images.shape[-2:]
        images = F.pad(images, (0, cells(width, STRIDE) * STRIDE - width, 0, cells(height, STRIDE) * STRIDE - height))
        x = self.patch_embed["proj"](images.permute(0, 2, 3, 1))
        grid = (x.shape[1], x.shape[2])
        return self.forward_blocks(x.flatten(1, 2) + self.positions(grid)[1], grid)

    def forward_features(self, images: Tensor) -> Tensor:
        """Returns the last block's patch tokens, [B, L, C], L in row-major order."""
        return self.forward_tokens(images)[:, 1:]

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers for layer-wise decay, in timm's form: embedding and positions are 0, `blocks.i` is i + 1, the rest is last."""
        return {
            "stem": r"^(?:cls_token|pos_embed|patch_embed)",
            "blocks": r"^blocks" if coarse else r"^blocks\.(\d+)\.",
        }

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that stand for positions and the class token."""
        return {"pos_embed", "cls_token"}


class ViT(Classifier, ViTEncoder):
    """The classifier on the mean of the patch tokens, as MAE fine-tunes it by default (`global_pool`)."""

    def __init__(
        self,
        size: str | Mapping[str, Any] | ViTDims = "base",
        num_classes: int = 1000,
        img_size: int | tuple[int, int] = 224,
        drop_path_rate: float = 0.0,
        checkpoint_activations: bool = False,
        in_chans: int = 3,
    ) -> None:
        ViTEncoder.__init__(self, size, img_size, drop_path_rate, checkpoint_activations, in_chans)
        self.add_head(self.dims.embed_dim, num_classes)
