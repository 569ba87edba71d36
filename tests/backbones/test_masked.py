"""The visible-only path against dense convolutions written plainly, features and gradients."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convmae.backbones.convvit import ConvViTEncoder
from convmae.backbones.masked import VisiblePatches, encode_visible
from convmae.backbones.tiles import depthwise, halo_index
from convmae.pretraining.masking import complementary_masking, random_masking

DIMS = {"embed_dims": (8, 12, 16), "depths": (2, 2, 2), "num_heads": 2}
TOLERANCE = 1e-9  # in float64, relative to values of order one


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def small_encoder(height: int, width: int) -> ConvViTEncoder:
    """An encoder in float64 whose every parameter matters."""
    torch.manual_seed(0)
    model = ConvViTEncoder(DIMS, img_size=(height, width)).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def channel_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    return F.layer_norm(x.movedim(1, -1), norm.normalized_shape, norm.weight, norm.bias, norm.eps).movedim(-1, 1)


def dense_block(block: nn.Module, x: Tensor, shown: Tensor) -> Tensor:
    conv1, conv2, fc1, fc2 = block.conv1, block.conv2, block.mlp.fc1, block.mlp.fc2
    y = F.conv2d(channel_norm(x, block.norm1), conv1.weight, conv1.bias)
    y = F.conv2d(shown * y, block.attn.weight, block.attn.bias, padding=2, groups=x.shape[1])
    x = x + F.conv2d(y, conv2.weight, conv2.bias)
    y = F.gelu(F.conv2d(channel_norm(x, block.norm2), fc1.weight, fc1.bias))
    return x + F.conv2d(y, fc2.weight, fc2.bias)


def dense_embed(embed: nn.Module, x: Tensor, stride: int) -> Tensor:
    return F.gelu(channel_norm(F.conv2d(x, embed.proj.weight, embed.proj.bias, stride=stride), embed.norm))


def dense_attention(block: nn.Module, x: Tensor) -> Tensor:
    batch, length, width = x.shape
    heads = block.attn.num_heads
    y = F.layer_norm(x, (width,), block.norm1.weight, block.norm1.bias, block.norm1.eps)
    qkv = F.linear(y, block.attn.qkv.weight, block.attn.qkv.bias).reshape(batch, length, 3, heads, width // heads)
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    weights = (query @ key.transpose(-1, -2) * (width // heads) ** -0.5).softmax(-1)
    x = x + block.attn.proj((weights @ value).transpose(1, 2).reshape(batch, length, width))
    y = F.layer_norm(x, (width,), block.norm2.weight, block.norm2.bias, block.norm2.eps)
    return x + block.mlp.fc2(F.gelu(block.mlp.fc1(y)))


def dense_stages(model: ConvViTEncoder, images: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """E1, E2 as maps of everything and E3 of kept tokens ids [B, n], as the paper's text has it: one mask an image."""
    rows, columns = images.shape[2] // 16, images.shape[3] // 16
    shown = torch.zeros(len(images), rows * columns, dtype=images.dtype).scatter(1, ids, 1.0)
    shown = shown.view(-1, 1, rows, columns)
    e1 = dense_embed(model.patch_embed1, images, 4)
    for block in model.blocks1:
        e1 = dense_block(block, e1, shown.repeat_interleave(4, 2).repeat_interleave(4, 3))
    e2 = dense_embed(model.patch_embed2, e1, 2)
    for block in model.blocks2:
        e2 = dense_block(block, e2, shown.repeat_interleave(2, 2).repeat_interleave(2, 3))
    tokens = dense_embed(model.patch_embed3, e2, 2).flatten(2).transpose(1, 2)
    tokens = model.patch_embed4(tokens) + model.pos_embed
    tokens = tokens.gather(1, ids[..., None].expand(-1, -1, tokens.shape[2]))
    for block in model.blocks3:
        tokens = dense_attention(block, tokens)
    return e1, e2, tokens


def at_kept(feature_map: Tensor, ids: Tensor, side: int) -> Tensor:
    """The tiles of side pixels at kept patches ids [B, n] of maps [B, C, H, W]: [B * n, side, side, C]."""
    columns = feature_map.shape[3] // side
    tiles = []
    for image, kept in zip(feature_map, ids.tolist(), strict=True):
        for patch in kept:
            top, left = patch // columns * side, patch % columns * side
            tiles.append(image[:, top : top + side, left : left + side].permute(1, 2, 0))
    return torch.stack(tiles)


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("height", "width", "groups"),
    [(64, 64, 1), (64, 64, 2), (48, 80, 3), (80, 48, 4), (64, 96, 5), (32, 16, 2)],
)
def test_visible_stages_equal_dense_ones(height: int, width: int, groups: int) -> None:
    model = small_encoder(height, width)
    images = torch.randn(2, 3, height, width, dtype=torch.float64)
    noise = torch.rand(2, height * width // 256)
    keep = random_masking(noise, 0.7) if groups == 1 else complementary_masking(noise, groups)
    visible = VisiblePatches(keep, 2, (height // 16, width // 16))

    e1, e2, e3 = encode_visible(model, images, visible)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(e.shape, generator=generator, dtype=e.dtype) for e in (e1, e2, e3)]
    parameters = list(model.parameters())
    grads = torch.autograd.grad(
        sum((e * w).sum() for e, w in zip((e1, e2, e3), weights, strict=True)), parameters, retain_graph=False
    )

    total = torch.zeros(())
    start = 0
    for ids in (part for entry in keep for part in entry.split(2)):  # one group of two images after the other
        rows = slice(start, start := start + ids.numel())
        d1, d2, d3 = dense_stages(model, images, ids)
        d1, d2, d3 = at_kept(d1, ids, 4), at_kept(d2, ids, 2), d3.flatten(0, 1)
        assert close(e1[rows], d1)
        assert close(e2[rows], d2)
        assert close(e3[rows], d3)
        total = total + sum((d * w[rows]).sum() for d, w in zip((d1, d2, d3), weights, strict=True))
    assert start == len(e3)
    names = [name for name, _ in model.named_parameters()]
    for name, grad, expected in zip(names, grads, torch.autograd.grad(total, parameters), strict=True):
        scale = expected.abs().max().clamp(min=1.0)
        assert (grad - expected).abs().max() / scale < TOLERANCE, name


def test_depthwise_on_tiles_passes_gradcheck() -> None:
    visible = VisiblePatches([torch.tensor([[0, 1, 4, 8], [3, 4, 5, 7]])], 2, (3, 3))
    tiles, weight, bias = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((8, 2, 2, 2), (2, 1, 5, 5), (2,))
    )
    # gradcheck wants the parameters as arguments, so a plain holder stands for the module
    run = lambda x, w, b: depthwise(x, SimpleNamespace(weight=w, bias=b), visible.halos[2])  # noqa: E731
    assert torch.autograd.gradcheck(run, (tiles, weight, bias))


def test_halo_index_names_neighbours_pixels() -> None:
    # Two tiles of 2x2 side by side: tile 1 is right of tile 0, nothing else is there.
    none = 2
    neighbours = torch.full((2, 3, 3), none)
    neighbours[0, 1, 1], neighbours[0, 1, 2] = 0, 1
    neighbours[1, 1, 1], neighbours[1, 1, 0] = 1, 0
    index = halo_index(neighbours, 2).view(2, 6, 6)
    zero = 8
    assert index[0, 2].tolist() == [zero, zero, 0, 1, 4, 5]
    assert index[0, 3].tolist() == [zero, zero, 2, 3, 6, 7]
    assert index[1, 2].tolist() == [0, 1, 4, 5, zero, zero]
    assert (index[:, [0, 1, 4, 5]] == zero).all()


def test_masked_patches_do_not_reach_visible_ones() -> None:
    model = small_encoder(64, 64)
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    ids = torch.tensor([[0, 5, 10]])
    visible = VisiblePatches([ids], 1, (4, 4))
    changed = images.clone()
    hidden = torch.ones(16, dtype=torch.bool).index_fill(0, ids[0], False).view(4, 4)
    changed += hidden.repeat_interleave(16, 0).repeat_interleave(16, 1) * 100.0
    for before, after in zip(
        encode_visible(model, images, visible), encode_visible(model, changed, visible), strict=True
    ):
        assert torch.equal(before, after)


def test_positions_follow_the_grid_of_the_image() -> None:
    model = small_encoder(64, 64)
    ids = torch.arange(6)[None]
    images = torch.randn(1, 3, 32, 48, dtype=torch.float64)
    e3 = encode_visible(model, images, VisiblePatches([ids], 1, (2, 3)))[2]
    table = F.interpolate(model.pos_embed.view(1, 4, 4, -1).permute(0, 3, 1, 2).float(), (2, 3), mode="bicubic")
    resampled = table.permute(0, 2, 3, 1).reshape(1, 6, -1).double()
    model_at_size = small_encoder(32, 48)
    state = model.state_dict() | {"pos_embed": resampled}
    model_at_size.load_state_dict(state)
    expected = dense_stages(model_at_size, images, ids)[2]
    assert torch.allclose(e3, expected[0], atol=1e-5)
