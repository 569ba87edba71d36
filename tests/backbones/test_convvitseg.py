"""ConvViTSeg: the published segmenter's maps, any picture size, and its batch norm in each setting."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from reference import difference, image, reference, seeded_state

from convmae.backbones import ConvViTSeg

DIMS = {"embed_dims": (8, 12, 16), "depths": (1, 1, 2), "num_heads": 2}


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
