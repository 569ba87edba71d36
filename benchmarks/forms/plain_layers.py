"""The encoder's layers as textbooks write them: convolution stages in NCHW, softmax attention with its weights written out.

What the shipped models are timed and checked against is made of them. Parameter names are the models', so weights are
shared by `load_state_dict`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convmae.backbones.convvit import Dims
from convmae.backbones.position import Grid

PATCH = 16


class PlainEncoder(nn.Module):
    """The parameters of the three stages.

    Args:
        size: a name of `convmae.backbones.SIZES`.
        grid: rows and columns of stage 3's tokens.
    """

    def __init__(self, size: str, grid: Grid) -> None:
        super().__init__()
        dims = Dims.of(size)
        width1, width2, width3 = dims.embed_dims
        ratio1, ratio2, ratio3 = dims.mlp_ratios
        depth1, depth2, depth3 = dims.depths
        self.grid = grid
        self.patch_embed1 = PatchEmbed(3, width1, 4)
        self.patch_embed2 = PatchEmbed(width1, width2, 2)
        self.patch_embed3 = PatchEmbed(width2, width3, 2)
        self.patch_embed4 = nn.Linear(width3, width3)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid[0] * grid[1], width3))
        self.blocks1 = nn.ModuleList(ConvBlock(width1, ratio1) for _ in range(depth1))
        self.blocks2 = nn.ModuleList(ConvBlock(width2, ratio2) for _ in range(depth2))
        self.blocks3 = nn.ModuleList(TransformerBlock(width3, dims.num_heads, ratio3) for _ in range(depth3))

    def forward_stem(
        self, images: Tensor, masks1: Sequence[Tensor] = (), masks2: Sequence[Tensor] = ()
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns E1 and E2, [B, C, H, W], and stage 3's input, [B, L, C]; `masks1` and `masks2` are the stages' masks."""
        e1 = self.patch_embed1(images)
        for block in self.blocks1:
            e1 = block(e1, masks1)
        e2 = self.patch_embed2(e1)
        for block in self.blocks2:
            e2 = block(e2, masks2)
        return e1, e2, self.patch_embed4(self.patch_embed3(e2).flatten(2).transpose(1, 2)) + self.pos_embed


def offset_index(window: Grid) -> Tensor:
    """Returns where the offset of each query from each key of a window stands in its table, [queries, keys]."""
    rows, columns = window
    tokens = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    down, right = (tokens[:, None] - tokens[None]).unbind(2)
    return (down + rows - 1) * (2 * columns - 1) + right + columns - 1


def gather_bias(table: Tensor, index: Tensor) -> Tensor:
    """Returns the biases of all pairs of tokens, [heads, queries, keys], from a table [offsets, heads]."""
    return table[index].permute(2, 0, 1).contiguous()


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
    """Block of stages 1 and 2 on [B, C, H, W], with a mask [B, 1, H, W] for each group or with none."""

    def __init__(self, dim: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.norm1 = ChannelNorm(dim)
        self.conv1 = nn.Conv2d(dim, dim, 1)
        self.attn = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.conv2 = nn.Conv2d(dim, dim, 1)
        self.norm2 = ChannelNorm(dim)
        self.mlp = Mlp(nn.Conv2d(dim, hidden, 1), nn.Conv2d(hidden, dim, 1))

    def forward(self, x: Tensor, masks: Sequence[Tensor]) -> Tensor:
        y = self.conv1(self.norm1(x))
        if len(masks) <= 1:  # what is computed at hidden positions goes nowhere, so the output needs no mask
            y = self.attn(masks[0] * y if masks else y)
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

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """`bias` is added to the scores, [B, heads, queries, keys]."""
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(2, 3) * query.shape[3] ** -0.5
        weights = (scores if bias is None else scores + bias).softmax(dim=3)
        return self.proj((weights @ value).transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """Pre-norm block on [B, L, C]."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, eps: float = 1e-6) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(nn.Linear(dim, hidden), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))
