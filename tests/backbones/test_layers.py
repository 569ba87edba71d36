"""The channels-last layers against PyTorch's own convolutions, and tiles against whole maps."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from convmae.backbones import layers
from convmae.backbones.layers import Attention, ConvBlock, DropPath, Mlp, PatchConv, PatchEmbed, TransformerBlock


@pytest.mark.parametrize("size", [1, 2, 4])
def test_patch_conv_is_a_strided_convolution(size: int) -> None:
    torch.manual_seed(0)
    conv = PatchConv(3, 5, size).double()
    x = torch.randn(2, 3, 8, 12, dtype=torch.double)
    expected = F.conv2d(x, conv.weight, conv.bias, stride=size)
    output = conv(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(output, expected)


def test_patch_embed_of_tiles_is_that_of_the_map() -> None:
    torch.manual_seed(0)
    embed = PatchEmbed(4, 6, 2).double()
    x = torch.randn(1, 8, 8, 4, dtype=torch.double)
    tiles = x.unflatten(2, (2, 4)).unflatten(1, (2, 4)).transpose(2, 3).reshape(4, 4, 4, 4)
    whole = embed(x).unflatten(2, (2, 2)).unflatten(1, (2, 2)).transpose(2, 3).reshape(4, 2, 2, 6)
    torch.testing.assert_close(embed(tiles), whole)


def test_conv_block_is_its_formula() -> None:
    torch.manual_seed(0)
    block = ConvBlock(6, mlp_ratio=2).double()
    x = torch.randn(2, 6, 9, 7, dtype=torch.double)

    def norm(layer: torch.nn.LayerNorm, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x.permute(0, 2, 3, 1), (6,), layer.weight, layer.bias, 1e-5).permute(0, 3, 1, 2)

    def conv(layer: torch.nn.Conv2d, x: torch.Tensor, **kwargs: int) -> torch.Tensor:
        return F.conv2d(x, layer.weight, layer.bias, **kwargs)

    y = conv(block.conv1, norm(block.norm1, x))
    y = x + conv(block.conv2, conv(block.attn, y, padding=2, groups=6))
    expected = y + conv(block.mlp.fc2, F.gelu(conv(block.mlp.fc1, norm(block.norm2, y))))
    torch.testing.assert_close(block(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), expected)


def test_conv_block_takes_another_depthwise_step() -> None:
    torch.manual_seed(0)
    block = ConvBlock(4).double()
    x = torch.randn(2, 5, 5, 4, dtype=torch.double)
    rows = x.flatten(0, 2)

    def scattered(rows: torch.Tensor) -> torch.Tensor:
        return block.depthwise(rows.view(x.shape)).flatten(0, 2)

    torch.testing.assert_close(block(rows, scattered), block(x).flatten(0, 2))


def test_no_permute_copies_in_the_convolution_stages() -> None:
    block = ConvBlock(8)
    x = torch.randn(2, 6, 6, 8)
    assert block.depthwise(x).is_contiguous()


def test_layer_scale_scales_both_branches() -> None:
    torch.manual_seed(0)
    block = TransformerBlock(8, 2, layer_scale=0.0)
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(block(x), x)


def test_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="10 can't be split into 3 heads"):
        Attention(10, 3)


def test_drop_path_of_many_processes_is_that_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    drop = DropPath(0.5).train()
    x = torch.randn(8, 3, 2)

    def of_process(rank: int, world: int) -> torch.Tensor:
        monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
        monkeypatch.setattr("torch.distributed.get_rank", lambda: rank)
        monkeypatch.setattr("torch.distributed.get_world_size", lambda: world)
        torch.manual_seed(0)
        return drop(x.chunk(world)[rank])

    whole = of_process(0, 1)
    assert torch.equal(torch.cat([of_process(0, 2), of_process(1, 2)]), whole)
    kept = whole.flatten(1).abs().sum(1) > 0
    assert 0 < kept.sum() < 8
    torch.testing.assert_close(whole[kept], 2 * x[kept])
    assert drop.eval()(x) is x


@pytest.mark.parametrize("pointwise", [False, True])
def test_the_mlp_is_its_formula_and_so_are_its_gradients(pointwise: bool) -> None:
    """Its backward pass recomputes the GELU; autograd's of the plain formula keeps it."""
    torch.manual_seed(0)
    mlp = Mlp(6, 24, pointwise).double()
    inputs = [torch.randn(3, 5, 6, dtype=torch.float64, requires_grad=True), *mlp.parameters()]

    def plain(x: Tensor) -> Tensor:
        hidden = F.gelu(F.linear(x, mlp.fc1.weight.flatten(1), mlp.fc1.bias))
        return F.linear(hidden, mlp.fc2.weight.flatten(1), mlp.fc2.bias)

    found, expected = mlp(inputs[0]), plain(inputs[0])
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(expected)
    for grad, wanted in zip(*(torch.autograd.grad((y * weight).sum(), inputs) for y in (found, expected)), strict=True):
        torch.testing.assert_close(grad, wanted)
    assert torch.autograd.gradcheck(mlp, (inputs[0],))
    with torch.no_grad():
        torch.testing.assert_close(mlp(inputs[0]), expected)


@pytest.mark.parametrize("pointwise", [False, True])
def test_without_gradients_the_mlp_computes_some_rows_at_a_time(
    pointwise: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(layers, "_IN_CACHE", 24 * 4 // torch.get_num_threads())
    mlp, rows = Mlp(6, 24, pointwise), list[int]()
    mlp.fc2.register_forward_hook(lambda module, inputs, output: rows.append(inputs[0].shape[0]))
    for shape in ((3, 3, 6), (2, 1, 6), (0, 5, 6)):
        x = torch.randn(shape)
        expected = mlp(x)
        rows.clear()
        with torch.inference_mode():
            torch.testing.assert_close(mlp(x), expected)
            assert max(rows) <= 4
            assert sum(rows) == shape[0] * shape[1]
    with torch.no_grad():
        traced = torch.jit.trace(mlp, torch.randn(3, 3, 6))
        x = torch.randn(7, 9, 6)  # a graph with a part for each four rows would hold for one shape alone
        torch.testing.assert_close(traced(x), mlp(x))


def test_the_mlp_keeps_its_hidden_values_once() -> None:
    mlp = Mlp(8, 32)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: kept.append(saved) or saved, lambda saved: saved):
        mlp(torch.randn(10, 8, requires_grad=True))
    assert sum(tuple(saved.shape) == (10, 32) for saved in kept) == 1


def test_the_mlp_under_autocast_and_frozen() -> None:
    torch.manual_seed(0)
    mlp, x = Mlp(8, 32), torch.randn(10, 8)
    with torch.autocast("cpu", torch.bfloat16):
        out = mlp(x)
    out.float().square().sum().backward()
    low = {name: parameter.grad for name, parameter in mlp.named_parameters()}
    mlp.zero_grad()
    mlp(x).square().sum().backward()
    assert out.dtype == torch.bfloat16
    for name, parameter in mlp.named_parameters():
        assert low[name].dtype == torch.float32
        torch.testing.assert_close(low[name], parameter.grad, rtol=0.05, atol=0.05 * parameter.grad.abs().max().item())
    mlp.fc2.requires_grad_(False).zero_grad()
    mlp(x).sum().backward()
    assert mlp.fc1.weight.grad is not None
    assert mlp.fc2.weight.grad is None


def test_the_mlp_asks_what_stands_in_for_its_second_layer() -> None:
    class Adapter(torch.nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    mlp, x = Mlp(8, 32), torch.randn(10, 8)
    before = mlp(x)
    adapter = Adapter(32, 8)
    adapter.load_state_dict(mlp.fc2.state_dict())
    mlp.fc2 = adapter
    torch.testing.assert_close(mlp(x), before + 1)
