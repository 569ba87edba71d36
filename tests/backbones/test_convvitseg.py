"""ConvViTSeg: the published segmenter's maps, any picture size, and its batch norm in each setting."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from reference import difference, image, reference, seeded_state

from convmae.backbones import ConvViTSeg, load_checkpoint

DIMS = {"embed_dims": (8, 12, 16), "depths": (1, 1, 2), "num_heads": 2}


def small(**options: object) -> ConvViTSeg:
    """A small encoder in double precision whose tables, scales and biases matter."""
    torch.manual_seed(0)
    model = ConvViTSeg(DIMS, **{"img_size": 64, **options}).double()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def loss(model: ConvViTSeg, images: torch.Tensor) -> torch.Tensor:
    """A number that every value of every map changes in its own way."""
    weighed = [stage * torch.arange(stage[0].numel()).view(stage[0].shape).cos() for stage in model(images)]
    return torch.stack([stage.sum() for stage in weighed]).sum()


def test_published_maps() -> None:
    keys, outputs = reference("segmentation")
    model = ConvViTSeg("base", img_size=512).eval()
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    assert shapes == {name: shape for name, shape in keys.items() if not name.endswith("relative_position_index")}
    loaded = model.load_state_dict(seeded_state(keys, int(outputs["weight_seed"])), strict=False)
    assert set(loaded.missing_keys) <= {"fpn.1.num_batches_tracked"}
    assert not loaded.unexpected_keys
    with torch.inference_mode():
        maps = model(image(outputs["image_seed"], 1, 512))
    for number, stage in enumerate(maps, start=1):
        step = max(1, stage.shape[-1] // 16)
        found, allowed = difference(stage[:, ::16, ::step, ::step], outputs[f"E{number}"])
        assert found <= allowed, f"E{number}"


@pytest.mark.parametrize("downsample", ["conv", "max_pool"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (97, 50), (1, 1), (20, 200)])
def test_any_picture_size(height: int, width: int, downsample: str) -> None:
    model = ConvViTSeg(DIMS, img_size=64, downsample=downsample).eval()
    with torch.inference_mode():
        maps = model(torch.randn(2, 3, height, width))
    for stage, stride, channels in zip(maps[:3], model.strides, model.out_channels, strict=False):
        assert stage.shape == (2, channels, -(-height // stride), -(-width // stride))
    rows, columns = -(-height // 16), -(-width // 16)
    halved = (
        (-(-rows // 2), -(-columns // 2))
        if downsample == "max_pool"
        else (max(1, (rows - 1) // 2), max(1, (columns - 1) // 2))
    )
    assert maps[3].shape == (2, 16, *halved)


def test_its_own_bias_in_every_block() -> None:
    torch.manual_seed(0)
    model = ConvViTSeg(DIMS, img_size=64).eval()
    x = torch.randn(1, 3, 64, 64)
    outputs = [model(x)[2]]
    for block in model.blocks3:
        torch.nn.init.normal_(block.attn.relative_position_bias_table)
        outputs.append(model(x)[2])
    assert not torch.allclose(outputs[0], outputs[1])
    assert not torch.allclose(outputs[1], outputs[2])


@pytest.mark.parametrize("downsample", ["conv", "max_pool"])
@pytest.mark.parametrize(("height", "width"), [(96, 96), (48, 112), (32, 64)])
def test_another_grid_is_that_of_an_encoder_whose_weights_were_fitted_to_it(
    height: int, width: int, downsample: str
) -> None:
    kept, fitted = small(downsample=downsample), small(img_size=(height, width), downsample=downsample)
    assert "pos_embed" in load_checkpoint(fitted, kept.state_dict(), strict=True).resized
    images = torch.randn(2, 3, height, width, dtype=torch.double)
    with torch.inference_mode():
        for found, expected in zip(kept.eval()(images), fitted.eval()(images), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)  # resampled in fp32


@pytest.mark.parametrize("downsample", ["conv", "max_pool"])
@pytest.mark.parametrize(
    ("height", "width"), [(64, 64), (96, 48)]
)  # the grid of the tables, and one that they are fitted to
def test_gradients_are_the_slopes(height: int, width: int, downsample: str) -> None:
    model = small(downsample=downsample).train()
    images = torch.randn(2, 3, height, width, dtype=torch.double)
    loss(model, images).backward()
    for group in ("relative_position_bias_table", "gamma_", "qkv", "fpn", "blocks1", "patch_embed"):
        chosen = {name: parameter for name, parameter in model.named_parameters() if group in name}
        if not chosen:
            assert (group, downsample) == ("fpn", "max_pool")
            continue
        directions = {name: torch.randn_like(parameter) for name, parameter in chosen.items()}
        slope = sum((parameter.grad * directions[name]).sum() for name, parameter in chosen.items())
        # The tables are fitted in fp32, which a wide step makes up for: the loss is smooth.
        step = 1e-2 if group.startswith("relative") else 1e-5
        values = []
        for sign in (1, -1):
            for name, parameter in chosen.items():
                parameter.data += sign * step * directions[name]
            values.append(loss(model, images))
            for name, parameter in chosen.items():
                parameter.data -= sign * step * directions[name]
        torch.testing.assert_close((values[0] - values[1]) / (2 * step), slope, rtol=2e-3, atol=1e-3)


def test_recomputed_activations_change_no_gradient() -> None:
    images = torch.randn(2, 3, 96, 48, dtype=torch.double)
    grads = []
    for checkpointed in (False, True):
        model = small(drop_path_rate=0.5, checkpoint_activations=checkpointed).train()
        torch.manual_seed(1)
        loss(model, images).backward()
        grads.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, expected in grads[0].items():
        torch.testing.assert_close(grads[1][name], expected, msg=name)


def test_drop_path_rises_over_all_blocks_as_published_and_drops_whole_branches() -> None:
    with torch.device("meta"):
        model = ConvViTSeg("base", drop_path_rate=0.2)
    blocks = [*model.blocks1, *model.blocks2, *model.blocks3]
    rates = [getattr(block.drop_path, "rate", 0.0) for block in blocks]
    assert rates == pytest.approx(torch.linspace(0, 0.2, 15).tolist())
    model = small(drop_path_rate=0.5)
    model.blocks3[1].drop_path.rate = 1 - 1e-9
    x = torch.randn(2, 16, 16, dtype=torch.double)
    after_first = small().forward_blocks3(x, (4, 4)), model.eval().forward_blocks3(x, (4, 4))
    torch.testing.assert_close(*after_first)  # nothing is dropped in evaluation
    del model.blocks3[0]
    assert torch.equal(model.train().forward_blocks3(x, (4, 4)), x)


def test_layer_scale_starts_at_one_and_scales_both_branches() -> None:
    model = ConvViTSeg(DIMS, img_size=64)
    assert all(value.eq(1).all() for name, value in model.named_parameters() if "gamma_" in name)
    model, x = small(), torch.randn(2, 16, 16, dtype=torch.double)
    block = model.blocks3[0]
    del model.blocks3[1]
    whole = model.forward_blocks3(x, (4, 4))
    torch.nn.init.zeros_(block.gamma_2)
    attended = model.forward_blocks3(x, (4, 4))
    assert not torch.allclose(whole, attended)
    block.gamma_1.data *= 3
    torch.testing.assert_close(model.forward_blocks3(x, (4, 4)) - x, 3 * (attended - x))


def test_batch_norm_trains_on_a_cpu_inside_a_process_group(tmp_path: Path) -> None:
    model = ConvViTSeg(DIMS, img_size=64).train()
    alone = model.fpn[1](torch.arange(32.0).view(2, 16, 1, 1))
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        grouped = model.fpn[1](torch.arange(32.0).view(2, 16, 1, 1))
    finally:
        dist.destroy_process_group()
    torch.testing.assert_close(grouped, alone)
    assert model.fpn[1].num_batches_tracked == 2


def test_unknown_downsampling_is_refused() -> None:
    with pytest.raises(ValueError, match="expected conv or max_pool"):
        ConvViTSeg(DIMS, downsample="stride")
