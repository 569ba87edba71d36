"""The masked autoencoder: mask, encode what is visible, decode, compare (MAE, arXiv 2111.06377; ConvMAE, arXiv 2205.03892).

`MaskedAutoencoder` is all of it but the encoder; ConvMAE and MAE add theirs, FastConvMAE its masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from convmae.backbones.convvit import Dims
from convmae.backbones.encoder import Encoder
from convmae.backbones.layers import TransformerBlock
from convmae.backbones.masked import VisiblePatches
from convmae.backbones.position import resample_pos_embed, sincos_pos_embed
from convmae.backbones.vit import ViTDims
from convmae.backbones.weights.shapes import block_count
from convmae.pretraining.decoder import DecoderDims, decoder_dims, decoder_heads, insert_mask_tokens
from convmae.pretraining.masking import random_masking
from convmae.pretraining.patches import PATCH, pad_to_patches, patch_statistics, patchify


class Reconstruction(NamedTuple):
    """What a pass gives; N views of B images, view g * B + b shows image b (one view an image but for FastConvMAE)."""

    loss: Tensor  # [], mean squared error over the removed patches of all views
    pred: Tensor  # [N, L, 16 * 16 * in_chans], channel last within a patch
    mask: Tensor  # [N, L], 0 is kept, 1 is removed


class MaskedAutoencoder(Encoder):
    """Encodes the visible patches of images and decodes the removed ones' pixels.

    A method has this and its encoder as bases, in this order.

    Args:
        size: the encoder's, and by it the decoder's: a name of the encoder's sizes, a dict of dims or its dims.
        img_size: pixels (a side, or height and width) whose grid the fixed positions are kept at.
        norm_pix_loss: the target is each patch's pixels less their mean over their deviation.
        decoder_dim, decoder_depth, decoder_heads: None for the size's own.
        checkpoint_activations: recompute each block in the backward pass instead of keeping its activations.
        in_chans: channels of the images; 3 are RGB.
    """

    pos_embed: nn.Parameter
    width: int  # of the encoder's output
    decoder_dims: DecoderDims

    def __init__(
        self,
        size: str | Mapping[str, Any] | Dims | ViTDims = "base",
        img_size: int | tuple[int, int] = 224,
        norm_pix_loss: bool = True,
        decoder_dim: int | None = None,
        decoder_depth: int | None = None,
        decoder_heads: int | None = None,
        checkpoint_activations: bool = False,
        in_chans: int = 3,
    ) -> None:
        encoder = {"checkpoint_activations": checkpoint_activations, "in_chans": in_chans}
        super().__init__(size, img_size, **encoder)
        self.norm_pix_loss = norm_pix_loss
        self.pos_embed.requires_grad_(False)  # sin-cos, fixed while pretraining
        self.add_decoder(self.add_output(), decoder_dims(size, decoder_dim, decoder_depth, decoder_heads))

    def add_output(self) -> int:
        """Makes what lies between the encoder's stages and the decoder; returns the width of the encoder's output."""
        raise NotImplementedError

    def add_decoder(self, width: int, dims: DecoderDims) -> None:
        """Makes the decoder for an encoder's output of `width` channels."""
        self.width, self.decoder_dims = width, dims
        self.decoder_embed = nn.Linear(width, dims.dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, dims.dim))
        self.decoder_pos_embed = nn.Parameter(sincos_pos_embed(dims.dim, self.grid_size), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(TransformerBlock(dims.dim, dims.heads) for _ in range(dims.depth))
        self.decoder_norm = nn.LayerNorm(dims.dim, eps=1e-6)
        self.decoder_pred = nn.Linear(dims.dim, PATCH * PATCH * self.in_chans)
        nn.init.normal_(self.mask_token, std=0.02)
        for part in (self.decoder_embed, self.decoder_blocks, self.decoder_pred):
            part.apply(self.init_linear)

    def remove_pixel_branch(self, shared: int) -> None:
        """Gives up norm and head and all but the first `shared` blocks of the decoder: other targets have their own."""
        self.decoder_blocks = self.decoder_blocks[:shared]
        del self.decoder_norm, self.decoder_pred

    def remove_decoder(self) -> None:
        """Gives up the decoder: the encoder is left."""
        for name in ("embed", "pos_embed", "blocks", "norm", "pred"):
            delattr(self, f"decoder_{name}")
        del self.mask_token

    @classmethod
    def options_from_state_dict(cls, state: Mapping[str, Any]) -> dict[str, Any]:
        options = super().options_from_state_dict(state)
        if "decoder_embed.weight" in state:
            dim, depth = state["decoder_embed.weight"].shape[0], block_count(state, "decoder_blocks")
            options |= {"decoder_dim": dim, "decoder_depth": depth, "decoder_heads": decoder_heads(dim)}
        return options

    def forward(
        self,
        images: Tensor,
        mask_ratio: float = 0.75,
        noise: Tensor | None = None,
        predict: Literal["all", "removed"] = "all",
    ) -> Reconstruction:
        """Masks, encodes, decodes and compares.

        Args:
            images: [B, in_chans, H, W], normalised; sides that are no multiples of 16 are padded with zeros.
            mask_ratio: part of the patches that is removed.
            noise: [B, L], whose order by size gives the masks; None draws it.
            predict: "removed" leaves the rows of `pred` that are not in the loss zero, and saves their computation.

        Raises:
            ValueError: a ratio that keeps or removes nothing, noise of another shape, another word for `predict`.
        """
        if predict not in ("all", "removed"):
            raise ValueError(f"predict is {predict!r}; expected 'all' or 'removed'")
        images = pad_to_patches(images)
        visible = self.visible_patches(images, mask_ratio, noise)
        mask = visible.mask
        encoded = self.forward_encoder(images, visible)
        decoded = self.forward_decoder(encoded, visible)
        rows = torch.arange(mask.numel(), device=mask.device) if predict == "all" else visible.removed
        pred = self.decoder_pred(self.decoder_norm(select_patches(decoded, visible, rows)))
        loss = self.forward_loss(images, pred, mask, rows)
        if predict == "removed":
            pred = pred.new_zeros(mask.numel(), pred.shape[1]).index_copy(0, rows, pred)
        return Reconstruction(loss, pred.view(*mask.shape, -1), mask)

    def masks(self, noise: Tensor, mask_ratio: float) -> list[Tensor]:
        """The kept patches of each view, by noise [B, L]; see `convmae.pretraining.masking`."""
        return random_masking(noise, mask_ratio)

    def visible_patches(self, images: Tensor, mask_ratio: float, noise: Tensor | None = None) -> VisiblePatches:
        """What is shown of images [B, in_chans, H, W], sides multiples of 16, by noise [B, L] (None draws it)."""
        batch, _, height, width = images.shape
        grid = (height // PATCH, width // PATCH)
        tokens = grid[0] * grid[1]
        noise = torch.rand(batch, tokens, device=images.device) if noise is None else noise
        if noise.shape != (batch, tokens):
            raise ValueError(f"noise has shape {list(noise.shape)}; expected [{batch}, {tokens}], one a patch")
        return VisiblePatches(self.masks(noise, mask_ratio), batch, grid)

    def forward_encoder(self, images: Tensor, visible: VisiblePatches) -> Tensor:
        """Encodes and normalises the R visible patches: [R, C]; what a method has beside them follows, [R + n, C]."""
        raise NotImplementedError

    def encode_whole(self, images: Tensor) -> Tensor:
        """The encoder's output for images [B, in_chans, H, W], sides multiples of 16, with every patch visible: [B, L, C]."""
        raise NotImplementedError

    def forward_decoder(self, encoded: Tensor, visible: VisiblePatches, depth: int | None = None) -> Tensor:
        """Decodes each view, its visible tokens among mask tokens: [N, n + L, decoder_dim], the L patches last.

        `depth`: by so many of the first blocks only.
        """
        x = self.decoder_input(self.decoder_embed(encoded), visible)
        for block in self.decoder_blocks[:depth]:
            x = self.run_block(block, x)
        return x

    def decoder_input(self, embedded: Tensor, visible: VisiblePatches) -> Tensor:
        """Puts the encoder's embedded output among mask tokens and adds positions: [N, n + L, decoder_dim]."""
        x = insert_mask_tokens(embedded, self.mask_token, visible)
        return x + resample_pos_embed(self.decoder_pos_embed, self.grid_size, visible.grid)

    def forward_loss(self, images: Tensor, pred: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
        """Mean squared error over removed patches, of predictions [n, p*p*C] for `rows` [n] of all views' patches."""
        target = patchify(images)
        if self.norm_pix_loss:
            mean, deviation = patch_statistics(target)
            target = (target - mean) / deviation
        target = target.flatten(0, 1).index_select(0, rows % (images.shape[0] * mask.shape[1]))
        precision = torch.promote_types(pred.dtype, torch.float32)  # a half's square overflows
        error = (pred.to(precision) - target.to(precision)).square().mean(dim=1)
        weight = mask.flatten().index_select(0, rows)
        return (error * weight).sum() / weight.sum()


def select_patches(decoded: Tensor, visible: VisiblePatches, rows: Tensor) -> Tensor:
    """`rows` [n] of all views' patches, out of what a decoder's block gives [N, n + L, D]: [n, D]."""
    return decoded[:, -visible.tokens :].flatten(0, 1).index_select(0, rows)
