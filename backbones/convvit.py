"""ConvViT, the encoder of ConvMAE: two convolution stages, one transformer stage (paper: arXiv 2205.03892)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from convmae.backbones.encoder import Classifier, Encoder, checked_channels
from convmae.backbones.layers import ConvBlock, PatchEmbed, TransformerBlock
from convmae.backbones.position import Grid, resample_pos_embed, sincos_pos_embed
from convmae.backbones.weights.checkpoint import load_checkpoint
from convmae.backbones.weights.shapes import STRIDE
from convmae.backbones.weights.weight_files import CheckpointError


@dataclass(frozen=True)
class Dims:
    """An encoder's dimensions; triples are for stages 1, 2 and 3."""

    embed_dims: tuple[int, int, int]
    depths: tuple[int, int, int]
    num_heads: int  # of stage 3
    mlp_ratios: tuple[float, float, float] = (4, 4, 4)

    @classmethod
    def of(cls, size: str | Mapping[str, Any] | Dims) -> Dims:
        """Returns the dims of a size's name, or of a dict with this class's fields (heads and ratios may be left out).

        Raises:
            ValueError: an unknown size, an unknown or missing key, or triples that are none.
        """
        if isinstance(size, Dims):
            return size
        if isinstance(size, str):
            if size not in SIZES:
                raise ValueError(f"unknown size '{size}'; expected one of {', '.join(SIZES)}, or a dict of dims")
            return SIZES[size]
        names = [field.name for field in fields(cls)]
        given = dict(size)
        if unknown := [key for key in given if key not in names]:
            raise ValueError(f"unknown dims {', '.join(map(str, unknown))}; expected {', '.join(names)}")
        if missing := [key for key in ("embed_dims", "depths") if key not in given]:
            raise ValueError(f"dims lack {' and '.join(missing)}; found {', '.join(given) or 'nothing'}")
        for key in ("embed_dims", "depths", "mlp_ratios"):
            if key in given:
                given[key] = tuple(given[key])
                if len(given[key]) != 3:
                    raise ValueError(f"dims need three values in {key}, one a stage; found {given[key]}")
        given.setdefault("num_heads", default_heads(given["embed_dims"][2]))
        return cls(**given)


def default_heads(width: int) -> int:
    """Returns the usual number of heads for stage 3's width, which no weight file tells: a known size's, or width / 64."""
    known = {dims.embed_dims[2]: dims.num_heads for dims in SIZES.values()}
    if width in known:
        return known[width]
    heads = max(1, width // 64)
    while width % heads:
        heads -= 1
    return heads


SIZES: dict[str, Dims] = {
    "tiny": Dims((64, 128, 256), (2, 2, 6), 4),
    "small": Dims((128, 256, 384), (2, 2, 11), 6),
    "base": Dims((256, 384, 768), (2, 2, 11), 12),
    # The released large weights disagree with the paper; ratios of these two are unverified.
    "large": Dims((384, 768, 1024), (2, 2, 23), 16, (8, 8, 4)),
    "huge": Dims((768, 1024, 1280), (2, 2, 31), 16, (8, 8, 4)),
}


def cells(pixels: int, stride: int) -> int:
    """Returns how many cells of a stride cover a side. It divides no negative number: ONNX rounds those towards zero."""
    return (pixels + stride - 1) // stride


def grid_of(img_size: int | tuple[int, int]) -> Grid:
    """Returns stage 3's rows and columns for an image of so many pixels, a side or height and width."""
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    return cells(height, STRIDE), cells(width, STRIDE)


class ConvViTEncoder(Encoder):
    """The three stages that every use shares: E1, E2, E3 are their raw outputs at strides 4, 8 and 16.

    Args:
        size: a name of `SIZES`, a dict of dims (see `Dims`) or a `Dims`.
        img_size: pixels (a side, or height and width) whose grid `pos_embed` is kept at; any other image resamples it.
        drop_path_rate: of the last block; it grows linearly from 0 over the blocks of all three stages.
        checkpoint_activations: recompute each block in the backward pass instead of keeping its activations.
        eps: of stage 3's LayerNorms; the patch embeddings have 1e-5.
        layer_scale: initial value of stage 3's LayerScale; None for none.
        conv_eps: of the convolution blocks' LayerNorms.
        in_chans: channels of the images; 3 are RGB.
    """

    def __init__(
        self,
        size: str | Mapping[str, Any] | Dims = "base",
        img_size: int | tuple[int, int] = 224,
        drop_path_rate: float = 0.0,
        checkpoint_activations: bool = False,
        eps: float = 1e-6,
        layer_scale: float | None = None,
        conv_eps: float = 1e-5,
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        self.in_chans = checked_channels(in_chans)
        self.dims = dims = Dims.of(size)
        self.embed_dims = dims.embed_dims
        self.checkpoint_activations = checkpoint_activations
        self.grid_size: Grid = grid_of(img_size)
        width1, width2, width3 = dims.embed_dims
        self.patch_embed1 = PatchEmbed(in_chans, width1, 4)
        self.patch_embed2 = PatchEmbed(width1, width2, 2)
        self.patch_embed3 = PatchEmbed(width2, width3, 2)
        self.patch_embed4 = nn.Linear(width3, width3)
        self.pos_embed = nn.Parameter(sincos_pos_embed(width3, self.grid_size))

        depth1, depth2, depth3 = dims.depths
        last = max(1, sum(dims.depths) - 1)
        rates = (drop_path_rate * index / last for index in range(sum(dims.depths)))
        ratio1, ratio2, ratio3 = dims.mlp_ratios
        self.blocks1 = nn.ModuleList(ConvBlock(width1, ratio1, next(rates), conv_eps) for _ in range(depth1))
        self.blocks2 = nn.ModuleList(ConvBlock(width2, ratio2, next(rates), conv_eps) for _ in range(depth2))
        self.blocks3 = nn.ModuleList(
            TransformerBlock(width3, dims.num_heads, ratio3, next(rates), eps, layer_scale) for _ in range(depth3)
        )
        self.apply(self.init_linear)
        # As a matrix, like a ViT's patch embedding; the other convolutions keep PyTorch's own initialisation.
        proj = self.patch_embed3.proj
        nn.init.xavier_uniform_(proj.weight.data.flatten(1))
        if proj.bias is not None:
            nn.init.zeros_(proj.bias)

    def positions(self, grid: Grid, frame: Grid | None = None) -> Tensor:
        """Returns `pos_embed` at `grid`, [1, rows * columns, C], or at the top left of a larger one, `frame`."""
        if frame is None or frame == grid:
            return resample_pos_embed(self.pos_embed, self.grid_size, grid)
        whole = resample_pos_embed(self.pos_embed, self.grid_size, frame).unflatten(1, frame)
        return whole[:, : grid[0], : grid[1]].flatten(1, 2)

    def forward_stages(self, images: Tensor, frame: Grid | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Runs the stages on [B, C, H, W], any H and W. Returns E1, E2, E3 channels last, [B, ceil(H / stride), ..., C].

        frame: height and width of the padded images of which these are the top left; None where they are whole.
        """
        height, width = images.shape[-2:]
        rows, columns = cells(height, STRIDE), cells(width, STRIDE)
        images = F.pad(images, (0, columns * STRIDE - width, 0, rows * STRIDE - height))
        x = self.patch_embed1(images.permute(0, 2, 3, 1))
        for block in self.blocks1:
            x = self.run_block(block, x)
        e1 = x
        x = self.patch_embed2(x)
        for block in self.blocks2:
            x = self.run_block(block, x)
        e2 = x
        x = self.patch_embed4(self.patch_embed3(x))
        grid = (x.shape[1], x.shape[2])
        x = x.flatten(1, 2) + self.positions(grid, grid_of(frame) if frame else None)
        # No `unflatten`: a graph that is traced would take the sizes of the traced picture for good.
        e3 = self.forward_blocks3(x, grid).reshape(x.shape[0], *grid, x.shape[2])
        return (
            e1[:, : cells(height, 4), : cells(width, 4)],
            e2[:, : cells(height, 8), : cells(width, 8)],
            e3,  # every cell of it holds some pixel of the image
        )

    def forward_blocks3(self, x: Tensor, grid: Grid) -> Tensor:
        """Runs stage 3 on the tokens of a whole grid, [B, rows * columns, C] -> the same."""
        for block in self.blocks3:
            x = self.run_block(block, x)
        return x

    def forward_pyramid(self, images: Tensor, frame: Grid | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Returns E1, E2, E3 of [B, in_chans, H, W], each [B, C, ceil(H / s), ceil(W / s)] at strides s = 4, 8, 16.

        frame: as of `forward_stages`.
        """
        e1, e2, e3 = (stage.permute(0, 3, 1, 2) for stage in self.forward_stages(images, frame))
        return e1, e2, e3

    def forward_features(self, images: Tensor) -> Tensor:
        """Returns E3's tokens, [B, L, C], L in row-major order."""
        return self.forward_stages(images)[2].flatten(1, 2)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers for layer-wise decay, in timm's form: stem and positions are 0, `blocks3.i` is i + 1, the rest is last."""
        stem = r"^(?:pos_embed|patch_embed|blocks1\.|blocks2\.)"
        return {"stem": stem, "blocks": r"^blocks3" if coarse else r"^blocks3\.(\d+)\."}

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that stand for positions; vectors (norms, biases, scales) are left out by timm itself.

        Decomposed relative positions are multiplied by queries and decayed like weights, as in the port that has them.
        """
        tables = {name for name, _ in self.named_parameters() if name.endswith("relative_position_bias_table")}
        return {"pos_embed"} | tables


class ConvViT(Classifier, ConvViTEncoder):
    """The classifier on E3's tokens; the encoder starts from xavier-uniform linears as in pretraining.

    It has what timm asks of its models: see `timm_models`.
    """

    def __init__(
        self,
        size: str | Mapping[str, Any] | Dims = "base",
        num_classes: int = 1000,
        img_size: int | tuple[int, int] = 224,
        drop_path_rate: float = 0.0,
        checkpoint_activations: bool = False,
        global_pool: str = "avg",
        in_chans: int = 3,
    ) -> None:
        ConvViTEncoder.__init__(self, size, img_size, drop_path_rate, checkpoint_activations, in_chans=in_chans)
        self.add_head(self.embed_dims[2], num_classes, global_pool)
        self.feature_info = [
            {"num_chs": width, "reduction": 2 ** (stage + 1), "module": f"blocks{stage}.{depth - 1}"}
            for stage, width, depth in zip((1, 2, 3), self.embed_dims, self.dims.depths, strict=True)
        ]

    def forward_intermediates(
        self,
        images: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Returns E3's tokens, [B, L, C], and those of E1, E2, E3 that `indices` name, or the latter alone.

        Args:
            images: [B, in_chans, H, W].
            indices: 0 for E1 to 2 for E3, the last so many, or None for all.
            norm: must be False: E1, E2 and E3 are raw outputs.
            output_fmt: NCHW or NHWC.
            intermediates_only: leave the tokens out.

        Raises:
            ValueError: `norm`, or another format.
        """
        if norm or output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"E1, E2, E3 are raw maps, NCHW or NHWC; asked for norm={norm}, {output_fmt}")
        stages = self.forward_stages(images)
        taken, _ = feature_take_indices(3, indices)
        maps = [stages[i].permute(0, 3, 1, 2) if output_fmt == "NCHW" else stages[i] for i in taken]
        return maps if intermediates_only else (stages[2].flatten(1, 2), maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drops the blocks that the features at `indices` don't need, `fc_norm` and `head`; returns the indices from 0."""
        taken, last = feature_take_indices(3, indices)
        for blocks in (self.blocks1, self.blocks2, self.blocks3)[last + 1 :]:
            del blocks[:]
        if prune_norm:
            self.fc_norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0)
        return taken

    def load_pretrained(self, path: str | Path) -> None:
        """Loads an encoder's weights, and the head if it fits, from a file of any known layout; `load_report` tells how.

        Raises:
            CheckpointError: a file that can't be read safely, or that does not fill the encoder.
        """
        self.load_report = report = load_checkpoint(self, path)
        if missing := [name for name in report.missing if not name.startswith(("fc_norm.", "head."))]:
            raise CheckpointError(
                f"{report.source} leaves {len(missing)} of the encoder's tensors unfilled ({', '.join(missing[:3])}, ...); "
                f"expected widths {self.dims.embed_dims} and depths {self.dims.depths}"
            )
