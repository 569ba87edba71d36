"""ConvMAE: masked autoencoding with a multi-stage convolution-transformer encoder (arXiv 2205.03892, section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from convmae.backbones.convvit import ConvViTEncoder, Dims
from convmae.backbones.layers import PatchConv, TransformerBlock
from convmae.backbones.masked import VisiblePatches, encode_visible
from convmae.backbones.position import resample_pos_embed, sincos_pos_embed
from convmae.backbones.shapes import block_count
from convmae.pretraining.decoder import decoder_dims, decoder_heads, insert_mask_tokens
from convmae.pretraining.masking import random_masking
from convmae.pretraining.patches import PATCH, pad_to_patches, patch_statistics, patchify


class Reconstruction(NamedTuple):
    """What a pass gives; N views of B images, view g * B + b shows image b (ConvMAE has one view an image)."""

    loss: Tensor  # [], mean squared error over the removed patches of all views
    pred: Tensor  # [N, L, 16 * 16 * 3], channel last within a patch
    mask: Tensor  # [N, L], 0 is kept, 1 is removed


class ConvMAE(ConvViTEncoder):
    """A masked autoencoder: encodes the visible patches, decodes the removed ones' pixels.

    Args:
        size: the encoder's, and by it the decoder's: a name of `SIZES`, a dict of dims or a `Dims`.
        img_size: pixels (a side, or height and width) whose grid the fixed positions are kept at.
        norm_pix_loss: the target is each patch's pixels less their mean over their deviation.
        decoder_dim, decoder_depth, decoder_heads: None for the size's own.
        checkpoint_activations: recompute each block in the backward pass instead of keeping its activations.
    """

    def __init__(
        self,
        size: str | Mapping[str, Any] | Dims = "base",
        img_size: int | tuple[int, int] = 224,
        norm_pix_loss: bool = True,
        decoder_dim: int | None = None,
        decoder_depth: int | None = None,
        decoder_heads: int | None = None,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__(size, img_size, checkpoint_activations=checkpoint_activations)
        self.norm_pix_loss = norm_pix_loss
        width1, width2, width3 = self.embed_dims
        self.pos_embed.requires_grad_(False)  # sin-cos, fixed while pretraining
        self.stage1_output_decode = PatchConv(width1, width3, 4)
        self.stage2_output_decode = PatchConv(width2, width3, 2)
        self.norm = nn.LayerNorm(width3, eps=1e-6)

        dim, depth, heads = decoder_dims(size, decoder_dim, decoder_depth, decoder_heads)
        self.decoder_embed = nn.Linear(width3, dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim))
        self.decoder_pos_embed = nn.Parameter(sincos_pos_embed(dim, self.grid_size), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(TransformerBlock(dim, heads) for _ in range(depth))
        self.decoder_norm = nn.LayerNorm(dim, eps=1e-6)
        self.decoder_pred = nn.Linear(dim, PATCH * PATCH * 3)
        self._init_decoder()

    @classmethod
    def options_from_state_dict(cls, state: Mapping[str, Any]) -> dict[str, Any]:
        options = super().options_from_state_dict(state)
        if "decoder_embed.weight" in state:
            dim, depth = state["decoder_embed.weight"].shape[0], block_count(state, "decoder_blocks")
            options |= {"decoder_dim": dim, "decoder_depth": depth, "decoder_heads": decoder_heads(dim)}
        return options

    def _init_decoder(self) -> None:
        nn.init.normal_(self.mask_token, std=0.02)
        for part in (self.decoder_embed, self.decoder_blocks, self.decoder_pred):
            for layer in part.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.xavier_uniform_(layer.weight)
                    nn.init.zeros_(layer.bias)

    def forward(
        self,
        images: Tensor,
        mask_ratio: float = 0.75,
        noise: Tensor | None = None,
        predict: Literal["all", "removed"] = "all",
    ) -> Reconstruction:
        """Masks, encodes, decodes and compares.

        Args:
            images: [B, 3, H, W], normalised; sides that are no multiples of 16 are padded with zeros.
            mask_ratio: part of the patches that is removed.
            noise: [B, L], whose order by size gives the masks; None draws it.
            predict: "removed" leaves the rows of `pred` that are not in the loss zero, and saves their computation.

        Raises:
            ValueError: a ratio that keeps or removes nothing, noise of another shape, another word for `predict`.
        """
        if predict not in ("all", "removed"):
            raise ValueError(f"predict is {predict!r}; expected 'all' or 'removed'")
        images = pad_to_patches(images)
        batch, _, height, width = images.shape
        grid = (height // PATCH, width // PATCH)
        tokens = grid[0] * grid[1]
        noise = torch.rand(batch, tokens, device=images.device) if noise is None else noise
        if noise.shape != (batch, tokens):
            raise ValueError(f"noise has shape {list(noise.shape)}; expected [{batch}, {tokens}], one a patch")

        visible = VisiblePatches(self.masks(noise, mask_ratio), batch, grid)
        mask = visible.mask
        encoded = self.forward_encoder(images, visible)
        decoded = self.forward_decoder(encoded, visible)
        rows = torch.arange(mask.numel(), device=mask.device) if predict == "all" else visible.removed
        pred = self.decoder_pred(self.decoder_norm(decoded.flatten(0, 1).index_select(0, rows)))
        loss = self.forward_loss(images, pred, mask, rows)
        if predict == "removed":
            pred = pred.new_zeros(mask.numel(), pred.shape[1]).index_copy(0, rows, pred)
        return Reconstruction(loss, pred.view(*mask.shape, -1), mask)

    def masks(self, noise: Tensor, mask_ratio: float) -> list[Tensor]:
        """The kept patches of each view, by noise [B, L]; see `convmae.pretraining.masking`."""
        return random_masking(noise, mask_ratio)

    def forward_encoder(self, images: Tensor, visible: VisiblePatches) -> Tensor:
        """Encodes the R visible patches, all stages fused (section 3.3), and normalises: [R, C]."""
        e1, e2, e3 = encode_visible(self, images, visible)
        e1, e2 = self.stage1_output_decode(e1).flatten(0, 2), self.stage2_output_decode(e2).flatten(0, 2)
        return self.norm(e1 + e2 + e3)

    def forward_decoder(self, encoded: Tensor, visible: VisiblePatches) -> Tensor:
        """Decodes each view, its visible tokens among mask tokens: [N, L, decoder_dim]."""
        x = insert_mask_tokens(self.decoder_embed(encoded), self.mask_token, visible)
        x = x + resample_pos_embed(self.decoder_pos_embed, self.grid_size, visible.grid)
        for block in self.decoder_blocks:
            x = self.run_block(block, x)
        return x

    def forward_loss(self, images: Tensor, pred: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
        """Mean squared error over removed patches, of predictions [n, 768] for `rows` [n] of all views' patches."""
        target = patchify(images)
        if self.norm_pix_loss:
            mean, deviation = patch_statistics(target)
            target = (target - mean) / deviation
        target = target.flatten(0, 1).index_select(0, rows % (images.shape[0] * mask.shape[1]))
        precision = torch.promote_types(pred.dtype, torch.float32)  # a half's square overflows
        error = (pred.to(precision) - target.to(precision)).square().mean(dim=1)
        weight = mask.flatten().index_select(0, rows)
        return (error * weight).sum() / weight.sum()
