"""Masked pretraining as the paper states it, computed densely: what the visible-only models are timed and checked against.

Stages 1 and 2 run at every position, in NCHW, and the depthwise convolutions see their input times the mask (arXiv
2205.03892, section 3.2), each group of FastConvMAE by itself; attention is a plain softmax, and every token is predicted.
Parameter names are the models', so weights are shared by `load_state_dict`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convmae.backbones.convvit import Dims
from convmae.benchmarks.forms.plain_layers import PATCH, PlainEncoder, TransformerBlock
from convmae.pretraining.decoder import decoder_dims


class DenseMaskedAutoencoder(PlainEncoder):
    """ConvMAE, or FastConvMAE if it is given several groups: one number for images and the patches that each group keeps.

    Args:
        size: a name of `convmae.backbones.SIZES`.
        img_size: pixels, the side of the square images; a multiple of 16.
    """

    def __init__(self, size: str, img_size: int) -> None:
        super().__init__(size, (img_size // PATCH, img_size // PATCH))
        decoder = decoder_dims(size, None, None, None)
        width1, width2, width3 = Dims.of(size).embed_dims
        patches = self.grid[0] * self.grid[1]
        self.pos_embed.requires_grad = False
        self.stage1_output_decode = nn.Conv2d(width1, width3, 4, stride=4)
        self.stage2_output_decode = nn.Conv2d(width2, width3, 2, stride=2)
        self.norm = nn.LayerNorm(width3, eps=1e-6)
        self.decoder_embed = nn.Linear(width3, decoder.dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder.dim))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, patches, decoder.dim), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(
            TransformerBlock(decoder.dim, decoder.heads, 4) for _ in range(decoder.depth)
        )
        self.decoder_norm = nn.LayerNorm(decoder.dim, eps=1e-6)
        self.decoder_pred = nn.Linear(decoder.dim, PATCH * PATCH * 3)

    def forward(self, images: Tensor, keep: Sequence[Tensor]) -> Tensor:
        """Returns the mean squared error over the removed patches of all groups, [].

        Args:
            images: [B, 3, S, S].
            keep: the kept patches of each group, [B, n].
        """
        patches = self.grid[0] * self.grid[1]
        shown = [images.new_zeros(len(images), patches).scatter(1, ids, 1.0).view(-1, 1, *self.grid) for ids in keep]
        e1, e2, tokens = self.forward_stem(
            images, [enlarged(mask, 4) for mask in shown], [enlarged(mask, 2) for mask in shown]
        )
        fused = (self.stage1_output_decode(e1) + self.stage2_output_decode(e2)).flatten(2).transpose(1, 2)
        mask = 1 - torch.cat(shown).flatten(1)
        encoded = self.forward_encoder(tokens, fused, keep)
        return self.forward_loss(images, self.forward_decoder(encoded, keep), mask)

    def forward_encoder(self, tokens: Tensor, fused: Tensor, keep: Sequence[Tensor]) -> list[Tensor]:
        """Stage 3 on each group's tokens, fused and normalised, [B, n, C]; groups of one size share a pass."""
        encoded = []
        for same in by_size(keep):
            x, added = (torch.cat([rows_at(part, ids) for ids in same]) for part in (tokens, fused))
            for block in self.blocks3:
                x = block(x)
            encoded += self.norm(x + added).chunk(len(same))
        return encoded

    def forward_decoder(self, encoded: list[Tensor], keep: Sequence[Tensor]) -> Tensor:
        """Predictions at all patches of all groups, [G * B, L, 768]."""
        views = []
        for x, ids in zip(encoded, keep, strict=True):
            x = self.decoder_embed(x)
            tokens = self.mask_token.to(x.dtype).repeat(len(x), self.decoder_pos_embed.shape[1], 1)
            views.append(tokens.scatter(1, ids[..., None].expand_as(x), x))
        x = torch.cat(views) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))

    def forward_loss(self, images: Tensor, pred: Tensor, mask: Tensor) -> Tensor:
        """Mean squared error to pixels normalised by patch, where mask [G * B, L] is 1."""
        target = images.unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH))
        target = target.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        error = (pred.to(target.dtype) - target.repeat(len(pred) // len(images), 1, 1)).square().mean(-1)
        return (error * mask).sum() / mask.sum()


def enlarged(mask: Tensor, factor: int) -> Tensor:
    """A mask [B, 1, h, w] at `factor` times its rows and columns."""
    return mask.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def rows_at(x: Tensor, ids: Tensor) -> Tensor:
    """The tokens ids [B, n] of x [B, L, C]: [B, n, C]."""
    return x.gather(1, ids[..., None].expand(-1, -1, x.shape[2]))


def by_size(keep: Sequence[Tensor]) -> list[list[Tensor]]:
    """Groups [B, n] that follow one another and are of the same n, together."""
    runs: list[list[Tensor]] = []
    for ids in keep:
        if runs and runs[-1][0].shape == ids.shape:
            runs[-1].append(ids)
        else:
            runs.append([ids])
    return runs
