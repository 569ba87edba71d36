"""ConvViTDet: the published detector's maps, its windows on any grid, and its shared bias tables."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from reference import difference, image, reference, seeded_state
from torch import Tensor

from convmae.backbones import ConvViTDet, load_checkpoint
from convmae.backbones.vitdet import spread_blocks

DIMS = {"embed_dims": (8, 12, 16), "depths": (1, 1, 2), "num_heads": 2}


def small(**options: object) -> ConvViTDet:
    torch.manual_seed(0)
    model = ConvViTDet(DIMS, **{"img_size": 96, "window_size": 4, "global_blocks": (1,), **options}).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_published_maps() -> None:
    keys, outputs = reference("detection")
    model = ConvViTDet("base", img_size=1024, window_size=16, global_blocks=(0, 3, 6, 10)).eval()
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    assert shapes == {name: shape for name, shape in keys.items() if not name.endswith("relative_position_index")}
    model.load_state_dict(seeded_state(keys, int(outputs["weight_seed"])))
    with torch.inference_mode():
        maps = model(image(outputs["image_seed"], 1, 1024))
    for number, stage in enumerate(maps, start=1):
        step = stage.shape[-1] // 16
        found, allowed = difference(stage[:, ::16, ::step, ::step], outputs[f"E{number}"])
        assert found <= allowed, f"E{number}"


@pytest.mark.parametrize(("height", "width"), [(64, 64), (97, 50), (1, 1), (16, 200), (65, 66)])
@pytest.mark.parametrize("attend_to_padding", [False, True])
def test_any_image_size(height: int, width: int, attend_to_padding: bool) -> None:
    model = small(attend_to_padding=attend_to_padding)
    with torch.inference_mode():
        maps = model(torch.randn(2, 3, height, width))
    for stage, stride, channels in zip(maps, model.strides, model.out_channels, strict=True):
        assert stage.shape == (2, channels, -(-height // stride), -(-width // stride))
        assert stage.isfinite().all()


def block_in_padded_windows(model: ConvViTDet, x: Tensor, grid: tuple[int, int], masked: bool) -> Tensor:
    """A windowed block as usually written: zero tokens fill the grid to whole windows before the projection."""
    block, side, heads = model.blocks3[0], 4, 2
    height, width = (-(-length // side) * side for length in grid)
    tokens = F.pad(block.norm1(x).unflatten(1, grid), (0, 0, 0, width - grid[1], 0, height - grid[0]))
    inside = F.pad(torch.ones(grid), (0, width - grid[1], 0, height - grid[0]))
    coordinates = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    offsets = coordinates[:, None] - coordinates[None] + side - 1  # [queries, keys, 2]
    attended = torch.zeros_like(tokens)
    for top in range(0, height, side):
        for left in range(0, width, side):
            rows, columns = slice(top, top + side), slice(left, left + side)
            part = tokens[:, rows, columns].flatten(1, 2)
            query, key, value = block.attn.qkv(part).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
            if model.position == "shared":
                table = model.windowed_rel_pos_bias.relative_position_bias_table
                bias = table[offsets[..., 0] * (2 * side - 1) + offsets[..., 1]].permute(2, 0, 1)
            else:
                both = block.attn.rel_pos_h[offsets[..., 0]] + block.attn.rel_pos_w[offsets[..., 1]]
                bias = torch.einsum("bhqd,qkd->bhqk", query, both)
            scores = query @ key.transpose(-1, -2) / key.shape[-1] ** 0.5 + bias
            if masked:
                scores = scores.masked_fill(inside[rows, columns].flatten() == 0, -1e9)
            part = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
            attended[:, rows, columns] = block.attn.proj(part).unflatten(1, (side, side))
    x = x + attended[:, : grid[0], : grid[1]].flatten(1, 2)
    return x + block.mlp(block.norm2(x))


@pytest.mark.parametrize("position", ["shared", "decomposed"])
@pytest.mark.parametrize("attend_to_padding", [False, True])
@pytest.mark.parametrize("grid", [(6, 6), (8, 4), (5, 3), (3, 9)])
def test_windows_that_do_not_divide_the_grid(grid: tuple[int, int], attend_to_padding: bool, position: str) -> None:
    model = small(attend_to_padding=attend_to_padding, global_blocks=(), position=position).double()
    model.blocks3 = model.blocks3[:1]
    torch.manual_seed(1)
    x = torch.randn(2, grid[0] * grid[1], 16, dtype=torch.double)
    expected = block_in_padded_windows(model, x, grid, masked=not attend_to_padding)
    torch.testing.assert_close(model.forward_blocks3(x, grid), expected)


def test_windows_see_nothing_outside_and_global_blocks_everything() -> None:
    windowed, everywhere = small(global_blocks=()), small(global_blocks=(0, 1))
    x = torch.randn(1, 64, 16)
    changed = x.clone()
    changed[:, -1] += torch.randn(16)  # the last window's last token
    for model, expected in ((windowed, 16), (everywhere, 64)):
        with torch.inference_mode():
            moved = model.forward_blocks3(changed, (8, 8)) - model.forward_blocks3(x, (8, 8))
        assert (moved.abs().amax(-1) > 0).sum() == expected


def test_attend_to_padding_differs_only_where_there_is_padding() -> None:
    masked, attending = small(), small(attend_to_padding=True)
    x = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        assert not torch.allclose(masked(x)[2], attending(x)[2])
        torch.testing.assert_close(masked(x[..., :64, :64])[2], attending(x[..., :64, :64])[2])


def test_e4_is_the_maximum_of_two_by_two_with_odd_grids_kept() -> None:
    with torch.inference_mode():
        _, _, e3, e4 = small()(torch.randn(1, 3, 48, 80))
    assert e4.shape[-2:] == (2, 3)
    torch.testing.assert_close(e4[0, :, 1, 2], e3[0, :, 2, 4])
    torch.testing.assert_close(e4[0, :, 0, 0], e3[0, :, :2, :2].amax((1, 2)))


def test_global_blocks() -> None:
    assert spread_blocks(11) == (0, 3, 6, 10)
    assert ConvViTDet("tiny", img_size=64).global_blocks == (0, 2, 5)
    assert [spread_blocks(depth) for depth in (1, 2, 4, 23)] == [(0,), (1,), (0, 3), (0, 7, 14, 22)]
    with pytest.raises(ValueError, match=r"\[2\] don't exist: stage 3 has blocks 0 to 1"):
        small(global_blocks=(0, 2))


def test_window_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 token"):
        small(window_size=0)


def port(**options: object) -> ConvViTDet:
    settings = {"window_size": 14, "global_blocks": (1, 4, 7, 10), "attend_to_padding": True, "pretrain_img_size": 224}
    return ConvViTDet("base", position="decomposed", **{**settings, **options})


def test_the_port_has_its_names_and_shapes() -> None:
    with torch.device("meta"):
        shared, model = ConvViTDet("base", window_size=14), port()
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    names = {name for name in shared.state_dict() if not name.endswith("relative_position_bias_table")}
    tables = {f"blocks3.{index}.attn.rel_pos_{axis}" for index in range(11) for axis in "hw"}
    assert shapes.keys() == names | tables
    assert shapes["pos_embed"] == (1, 14 * 14, 768)
    for index in range(11):
        length = 64 if index in (1, 4, 7, 10) else 14
        assert (
            shapes[f"blocks3.{index}.attn.rel_pos_h"]
            == shapes[f"blocks3.{index}.attn.rel_pos_w"]
            == (2 * length - 1, 64)
        )
    for module, eps in (
        (model.blocks1[0].norm1, 1e-6),
        (model.blocks3[0].norm2, 1e-6),
        (shared.blocks2[0].norm1, 1e-5),
    ):
        assert module.eps == eps


def test_weights_of_the_port_tell_its_form(tmp_path: Path) -> None:
    options = {"img_size": (64, 96), "window_size": 2, "position": "decomposed", "pretrain_img_size": 48}
    model = small(**options, attend_to_padding=True)
    torch.save({"model": {f"backbone.net.{name}": x for name, x in model.state_dict().items()}}, tmp_path / "det.pth")
    found = ConvViTDet.from_checkpoint(tmp_path / "det.pth", strict=True).eval()
    images = torch.randn(1, 3, 70, 90)
    with torch.inference_mode():
        for ours, expected in zip(found(images), model(images), strict=True):
            assert torch.equal(ours, expected)


def test_decomposed_tables_are_fitted_to_another_grid_on_loading() -> None:
    model, larger = (small(position="decomposed", img_size=size) for size in (64, 128))
    report = load_checkpoint(larger, model.state_dict())
    assert {"blocks3.1.attn.rel_pos_h", "blocks3.1.attn.rel_pos_w", "pos_embed"} == set(report.resized)
    x = torch.randn(1, 64, 16)  # an 8 x 8 grid, which the smaller one is fitted to when it runs
    torch.testing.assert_close(larger.forward_blocks3(x, (8, 8)), model.forward_blocks3(x, (8, 8)))


def test_gradients_of_decomposed_tables_are_those_without_recomputation() -> None:
    images = torch.randn(2, 3, 60, 50)
    grads = []
    for checkpointed in (False, True):
        model = small(position="decomposed", checkpoint_activations=checkpointed).train()
        model(images)[3].square().sum().backward()
        grads.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, expected in grads[0].items():
        assert expected.abs().sum() > 0, name
        torch.testing.assert_close(grads[1][name], expected)


def test_unknown_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 'shared' or 'decomposed'"):
        small(position="absolute")


def test_a_frame_gives_an_image_the_positions_of_its_top_left() -> None:
    model = ConvViTDet("tiny", img_size=128).eval()
    torch.nn.init.normal_(model.pos_embed)
    whole = model.positions((8, 8)).unflatten(1, (8, 8))
    assert torch.equal(model.positions((5, 7), (8, 8)), whole[:, :5, :7].flatten(1, 2))
    images = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        assert all(map(torch.equal, model(images), model(images, (128, 128))))
        assert not torch.equal(model(images[..., :64])[2], model(images[..., :64], (128, 128))[2])
