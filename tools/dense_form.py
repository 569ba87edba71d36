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
from convmae.pretraining.decoder import decoder_dims

PATCH = 16


class DenseMaskedAutoencoder(nn.Module):
    """ConvMAE, or FastConvMAE if it is given several groups: one number for images and the patches that each group keeps.

    Args:
        size: a name of `convmae.backbones.SIZES`.
        img_size: pixels, the side of the square images; a multiple of 16.
    """

    def __init__(self, size: str, img_size: int) -> None:
        super().__init__()
        dims, decoder = Dims.of(size), decoder_dims(size, None, None, None)
        width1, width2, width3 = dims.embed_dims
        ratio1, ratio2, ratio3 = dims.mlp_ratios
        depth1, depth2, depth3 = dims.depths
        self.grid = img_size // PATCH
        self.patch_embed1 = PatchEmbed(3, width1, 4)
        self.patch_embed2 = PatchEmbed(width1, width2, 2)
        self.patch_embed3 = PatchEmbed(width2, width3, 2)
        self.patch_embed4 = nn.Linear(width3, width3)
        self.stage1_output_decode = nn.Conv2d(width1, width3, 4, stride=4)
        self.stage2_output_decode = nn.Conv2d(width2, width3, 2, stride=2)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid**2, width3), requires_grad=False)
        self.blocks1 = nn.ModuleList(ConvBlock(width1, ratio1) for _ in range(depth1))
        self.blocks2 = nn.ModuleList(ConvBlock(width2, ratio2) for _ in range(depth2))
        self.blocks3 = nn.ModuleList(TransformerBlock(width3, dims.num_heads, ratio3) for _ in range(depth3))
        self.norm = nn.LayerNorm(width3, eps=1e-6)
        self.decoder_embed = nn.Linear(width3, decoder.dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder.dim))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, self.grid**2, decoder.dim), requires_grad=False)
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
        shown = [
            images.new_zeros(len(images), self.grid**2).scatter(1, ids, 1.0).view(-1, 1, self.grid, self.grid)
            for ids in keep
        ]
        tokens, fused = self.forward_stem(images, shown)
        mask = 1 - torch.cat(shown).flatten(1)
        encoded = self.forward_encoder(tokens, fused, keep)
        return self.forward_loss(images, self.forward_decoder(encoded, keep), mask)

    def forward_stem(self, images: Tensor, shown: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Stages 1 and 2: stage 3's input and what is added to its output, both [B, L, C], for masks [B, 1, h, w]."""
        x = self.patch_embed1(images)
        for block in self.blocks1:
            x = block(x, [enlarged(mask, 4) for mask in shown])
        fused = self.stage1_output_decode(x)
        x = self.patch_embed2(x)
        for block in self.blocks2:
            x = block(x, [enlarged(mask, 2) for mask in shown])
        fused = fused + self.stage2_output_decode(x)
        tokens = self.patch_embed4(self.patch_embed3(x).flatten(2).transpose(1, 2)) + self.pos_embed
        return tokens, fused.flatten(2).transpose(1, 2)

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
            tokens = self.mask_token.to(x.dtype).repeat(len(x), self.grid**2, 1)
            views.append(tokens.scatter(1, ids[..., None].expand_as(x), x))
        x = torch.cat(views) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))

    def forward_loss(self, images: Tensor, pred: Tensor, mask: Tensor) -> Tensor:
        """Mean squared error to pixels normalised by patch, where mask [G * B, L] is 1."""
        target = images.unflatten(3, (self.grid, PATCH)).unflatten(2, (self.grid, PATCH))
        target = target.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        error = (pred.to(target.dtype) - target.repeat(len(pred) // len(images), 1, 1)).square().mean(-1)
        return (error * mask).sum() / mask.sum()


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of [B, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PatchEmbed(nn.Module):
    """[B, C, H, W] -> [B, dim, H / size, W / size]."""

    def __init__(self, channels: int, dim: int, size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, size, stride=size)
        self.norm = ChannelNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(self.norm(self.proj(x)))


class Mlp(nn.Module):
    """Two layers with GELU between, linear or 1x1 convolutions."""

    def __init__(self, fc1: nn.Module, fc2: nn.Module) -> None:
        super().__init__()
        self.fc1, self.fc2 = fc1, fc2

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class ConvBlock(nn.Module):
    """Block of stages 1 and 2 on [B, C, H, W] with a mask [B, 1, H, W] for each group."""

    def __init__(self, dim: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.norm1 = ChannelNorm(dim)
        self.conv1 = nn.Conv2d(dim, dim, 1)
        self.attn = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.conv2 = nn.Conv2d(dim, dim, 1)
        self.norm2 = ChannelNorm(dim)
        self.mlp = Mlp(nn.Conv2d(dim, hidden, 1), nn.Conv2d(hidden, dim, 1))

    def forward(self, x: Tensor, masks: list[Tensor]) -> Tensor:
        y = self.conv1(self.norm1(x))
        if len(masks) == 1:  # what is computed at hidden positions goes nowhere, so the output needs no mask
            y = self.attn(masks[0] * y)
        else:
            y = torch.stack([mask * self.attn(mask * y) for mask in masks]).sum(0)
        x = x + self.conv2(y)
        return x + self.mlp(self.norm2(x))


class Attention(nn.Module):
    """Multi-head self-attention on [B, L, C], its weights written out."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(2, 3) * query.shape[3] ** -0.5).softmax(dim=3)
        return self.proj((weights @ value).transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """Pre-norm block on [B, L, C]."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(nn.Linear(dim, hidden), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


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
