"""The encoder's layers. Stages 1 and 2 run channels last: everything but the depthwise convolution is matrix work there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

# Numbers between an MLP's layers that a CPU's core computes at a time, where no gradient is wanted: as many as its cache
# holds. Of a whole map they go to memory and back, whose pages the system has to clear: a quarter more time in stage 1.
_IN_CACHE = 2**20

# (query, key, value), each [B, heads, L, D], to the attended values [B, heads, L, D].
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def split_tiles(x: Tensor, size: int) -> Tensor:
    """Cuts [..., H, W, C] into tiles, each one row: [..., H / size, W / size, size * size * C]."""
    *lead, height, width, channels = x.shape
    x = x.reshape(*lead, height // size, size, width // size, size, channels)
    return x.transpose(-4, -3).flatten(-3)


def rand_samples(samples: int, *shape: int, device: torch.device | None = None) -> Tensor:
    """Returns uniform draws [samples, *shape] for this process's part of the batch.

    Each process draws for the global batch and takes its share, so that processes that draw from the same seed do together
    what one would do alone.
    """
    many = dist.is_available() and dist.is_initialized()
    rank, world = (dist.get_rank(), dist.get_world_size()) if many else (0, 1)
    return torch.rand(world, samples, *shape, device=device)[rank]


class DropPath(nn.Module):
    """Drops a residual branch of whole samples (stochastic depth), and scales the others by 1 / (1 - rate)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        kept = (rand_samples(x.shape[0], device=x.device) >= self.rate).to(x.dtype) / (1 - self.rate)
        return x * kept.view(-1, *[1] * (x.ndim - 1))

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


class PatchConv(nn.Conv2d):
    """A convolution whose kernel equals its stride, channels last: [..., H, W, C] -> [..., H / k, W / k, out].

    It is a matrix product on tiles, so the leading shape is free: whole maps [B, H, W, C] or single tiles [R, k, k, C].
    """

    def __init__(self, in_channels: int, out_channels: int, size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=size, stride=size)

    def forward(self, x: Tensor) -> Tensor:
        size = self.kernel_size[0]
        matrix = self.weight.permute(0, 2, 3, 1).flatten(1) if size > 1 else self.weight.flatten(1)
        return F.linear(split_tiles(x, size) if size > 1 else x, matrix, self.bias)


class PatchEmbed(nn.Module):
    """Patch embedding: convolution with kernel = stride, LayerNorm, GELU. [..., H, W, C] -> [..., H / size, W / size, dim]."""

    def __init__(self, in_channels: int, dim: int, size: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.proj = PatchConv(in_channels, dim, size)
        self.norm = nn.LayerNorm(dim, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.norm(self.proj(x)))


class Mlp(nn.Module):
    """Two layers with GELU between, over the last dimension; `pointwise` stores them as 1x1 convolutions."""

    def __init__(self, dim: int, hidden: int, pointwise: bool = False) -> None:
        super().__init__()
        self.fc1 = PatchConv(dim, hidden, 1) if pointwise else nn.Linear(dim, hidden)
        self.fc2 = PatchConv(hidden, dim, 1) if pointwise else nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled() and x.device.type == "cpu" and not _is_traced():
            rows = x.flatten(0, -2)
            at_once = max(1, _IN_CACHE * torch.get_num_threads() // len(self.fc1.weight))
            return torch.cat([self.fc2(F.gelu(self.fc1(part))) for part in rows.split(at_once)]).unflatten(
                0, x.shape[:-1]
            )
        hidden = self.fc1(x)
        # What stands in for the layer (an adapter, say) has a forward of its own, which is not to be passed over.
        if not torch.is_grad_enabled() or type(self.fc2) not in (nn.Linear, PatchConv):
            return self.fc2(F.gelu(hidden))
        bias = None if self.fc2.bias is None else self.fc2.bias.to(hidden.dtype)
        return _GeluLinear.apply(hidden, self.fc2.weight.flatten(1).to(hidden.dtype), bias)


def _is_traced() -> bool:
    """Whether a graph is being made, which would hold each part of a loop."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


class _GeluLinear(torch.autograd.Function):
    """A linear layer of GELU(x). Autograd would keep x and GELU(x), an MLP's two largest activations; this keeps x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(F.gelu(x), weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[1]:
            grad_weight = rows.t() @ F.gelu(x).flatten(0, -2)
        if ctx.needs_input_grad[2]:
            grad_bias = rows.sum(0)
        if ctx.needs_input_grad[0]:
            grad_x = torch.ops.aten.gelu_backward(grad @ weight, x)
        return grad_x, grad_weight, grad_bias


class ConvBlock(nn.Module):
    """Block of stages 1 and 2 (paper, section 3.1), channels last, any leading shape but for the depthwise convolution.

    x + conv2(depthwise(conv1(norm1(x)))), then x + mlp(norm2(x)).
    """

    def __init__(self, dim: int, mlp_ratio: float = 4.0, drop_path: float = 0.0, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.conv1 = PatchConv(dim, dim, 1)
        self.attn = nn.Conv2d(dim, dim, kernel_size=5, padding=2, groups=dim)
        self.conv2 = PatchConv(dim, dim, 1)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), pointwise=True)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def depthwise(self, x: Tensor) -> Tensor:
        """The depthwise 5x5 convolution, [B, H, W, C] -> [B, H, W, C]: the only step that mixes positions."""
        return self.attn(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def forward(self, x: Tensor, depthwise: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Runs the block.

        Args:
            x: [B, H, W, C], or rows of any leading shape if `depthwise` is given.
            depthwise: stands in for the depthwise step, same shape in and out. The visible-only path scatters its rows to a
                canvas, calls `self.depthwise` and gathers them back.
        """
        mix = self.depthwise if depthwise is None else depthwise
        mixed = mix(self.conv1(self.norm1(x)))
        x = x + self.drop_path(self.conv2(mixed))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Attention(nn.Module):
    """Multi-head self-attention on [B, L, C]."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"a width of {dim} can't be split into {num_heads} heads; it must be a multiple")
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)

    def add_rel_pos(self, rows: int, columns: int) -> None:
        """Makes decomposed relative positions of its own for a grid, zero at first: `decomposed_attention` reads them."""
        width = self.proj.in_features // self.num_heads
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * rows - 1, width))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * columns - 1, width))

    def forward(self, x: Tensor, attend: Attend | None = None) -> Tensor:
        """`attend` replaces scaled dot-product attention: with a position bias, or in windows."""
        # Transposed one by one, so that their gradients lie in memory as that of the layer's output does.
        query, key, value = (y.transpose(1, 2) for y in self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(2))
        attend = F.scaled_dot_product_attention if attend is None else attend  # `or` would split a compiled graph
        x = attend(query, key, value)
        return self.proj(x.transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """Pre-norm transformer block on [B, L, C]; with `layer_scale`, gamma_1 and gamma_2 scale its branches from that value."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        eps: float = 1e-6,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.layer_scale = layer_scale is not None
        if layer_scale is not None:
            self.gamma_1 = nn.Parameter(torch.full((dim,), layer_scale))
            self.gamma_2 = nn.Parameter(torch.full((dim,), layer_scale))

    def forward(self, x: Tensor, attend: Attend | None = None) -> Tensor:
        attended = self.attn(self.norm1(x), attend)
        x = x + self.drop_path(attended * self.gamma_1 if self.layer_scale else attended)
        transformed = self.mlp(self.norm2(x))
        return x + self.drop_path(transformed * self.gamma_2 if self.layer_scale else transformed)
