"""UPerNet: inference modes, groups of the optimiser, options that can't work."""

from collections.abc import Callable

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.models.segmentors import EncoderDecoder
from mmseg.structures import SegDataSample
from torch import nn

from convmae.engine.errors import UserError
from convmae.engine.training.optim import param_groups
from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.model.upernet import UPerNet, build_model, check_options

MakeConfig = Callable[[], SegmentationConfig]


def images(height: int, width: int, count: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def labels_of(model: UPerNet, inputs: torch.Tensor) -> torch.Tensor:
    return torch.stack([sample.pred_sem_seg.data for sample in model.predict(inputs)])


@pytest.fixture
def tiny(tiny_config: MakeConfig) -> UPerNet:
    torch.manual_seed(0)
    model = build_model(tiny_config(), 3)
    for parameter in model.parameters():  # away from the initial zeros of biases and tables
        parameter.data += 0.02 * torch.randn_like(parameter)
    return model.eval()


@torch.no_grad()
def test_slide_with_one_window_equals_whole(tiny: UPerNet) -> None:
    for size in ((32, 32), (20, 27)):  # a window's, and smaller
        inputs = images(*size, count=2)
        torch.testing.assert_close(tiny.slide_inference(inputs), tiny.whole_inference(inputs))


@torch.no_grad()
@pytest.mark.parametrize("size", [(53, 71), (32, 90), (20, 71)])
def test_slide_equals_mmsegs_and_batching_windows_changes_nothing(tiny: UPerNet, size: tuple[int, int]) -> None:
    inputs = images(*size)
    tiny.test_cfg.window_batch = 1
    single = tiny.slide_inference(inputs)
    assert single.shape == (1, 3, *size)
    theirs = EncoderDecoder.slide_inference(tiny, inputs, [{}])
    torch.testing.assert_close(single, theirs, atol=1e-5, rtol=1e-5)
    tiny.test_cfg.window_batch = 3
    torch.testing.assert_close(tiny.slide_inference(inputs), single, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["whole", "slide"])
@pytest.mark.parametrize("size", [(32, 32), (37, 65), (7, 100), (90, 1)])
def test_any_picture_size_in_any_mode(tiny: UPerNet, mode: str, size: tuple[int, int]) -> None:
    tiny.test_cfg.mode = mode
    assert labels_of(tiny, images(*size)).shape == (1, 1, *size)
    tiny.test_cfg.scales, tiny.test_cfg.flip = [0.5, 1.5], True
    assert labels_of(tiny, images(*size)).shape == (1, 1, *size)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_pictures_of_a_batch_are_labelled_as_alone_and_those_of_one_size_together(tiny: UPerNet, mode: str) -> None:
    tiny.test_cfg.mode = mode
    sizes = [(40, 48), (37, 65), (40, 48), (20, 27), (37, 65), (40, 48)]
    pictures = [(images(*size, seed=seed)[0] * 50 + 128).clamp(0, 255).byte() for seed, size in enumerate(sizes)]
    samples = [SegDataSample(metainfo={"img_path": str(number)}) for number in range(len(sizes))]
    batches: list[int] = []
    predict = tiny.predict
    tiny.predict = lambda inputs, given=None: batches.append(len(inputs)) or predict(inputs, given)  # type: ignore[method-assign, func-returns-value]
    together = tiny.val_step({"inputs": pictures, "data_samples": samples})
    assert batches == [3, 2, 1]
    for number, (picture, found) in enumerate(zip(pictures, together, strict=True)):
        assert found.img_path == str(number)
        (alone,) = tiny.val_step({"inputs": [picture], "data_samples": [SegDataSample()]})
        assert found.pred_sem_seg.shape == sizes[number]
        different = found.pred_sem_seg.data != alone.pred_sem_seg.data
        assert different.float().mean() < 1e-3  # where two classes are as likely


def test_one_training_step_reaches_every_parameter(tiny_config: MakeConfig) -> None:
    config = tiny_config()
    config.model.drop_path = 0.0
    model = build_model(config, 3).train()
    batch = {"inputs": list(torch.randint(0, 256, (2, 3, 30, 32), dtype=torch.uint8)), "data_samples": []}
    for seed in range(2):
        truth = torch.randint(0, 3, (1, 30, 32), generator=torch.Generator().manual_seed(seed))
        batch["data_samples"].append(SegDataSample(gt_sem_seg=PixelData(data=truth)))
    data = model.data_preprocessor(batch, True)
    assert data["inputs"].shape == (2, 3, 32, 32)  # padded to the crop, and the labels by 255
    assert data["data_samples"][0].gt_sem_seg.data[0, 30:].eq(255).all()
    loss, logged = model.parse_losses(model(**data, mode="loss"))
    loss.backward()
    assert {"decode.loss_ce", "aux.loss_ce"} <= logged.keys()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []


def test_layer_decay_groups(tiny_config: MakeConfig) -> None:
    config = tiny_config()
    config.optim.layer_decay = 0.75
    model = build_model(config, 3)
    groups = param_groups(model, config.optim)
    scale = {name: group["lr_scale"] for group in groups for name in group["names"]}
    decay = {name: group["weight_decay"] for group in groups for name in group["names"]}
    assert scale.keys() == {name for name, _ in model.named_parameters()}
    depth = len(model.backbone.blocks3)
    assert {scale[name] for name in scale if name.startswith(("decode_head", "auxiliary_head"))} == {1.0}
    for name in ("backbone.pos_embed", "backbone.patch_embed4.weight", "backbone.blocks2.1.conv1.weight"):
        assert scale[name] == pytest.approx(0.75 ** (depth + 1)), name
    for layer in range(depth):
        assert scale[f"backbone.blocks3.{layer}.mlp.fc1.weight"] == pytest.approx(0.75 ** (depth - layer))
    undecayed = (
        "backbone.pos_embed",
        "backbone.blocks3.0.attn.relative_position_bias_table",
        "decode_head.conv_seg.bias",
    )
    assert {decay[name] for name in undecayed} == {0.0}
    assert decay["decode_head.conv_seg.weight"] == 0.05


def test_groups_are_the_published_runs() -> None:
    config = SegmentationConfig()
    config.model.size, config.data.crop = "tiny", 64
    model = build_model(config, 3)
    depth, published = len(model.backbone.blocks3), {}
    for name, parameter in model.named_parameters():
        if name.startswith(("backbone.pos_embed", "backbone.patch_embed", "backbone.blocks1", "backbone.blocks2")):
            layer = 0
        else:
            layer = int(name.split(".")[2]) + 1 if name.startswith("backbone.blocks3") else depth + 1
        # There positions and bias tables were decayed: the name that spared pos_embed lacked the prefix.
        spared = parameter.ndim == 1 or name.endswith(".bias") or "pos_embed" in name or "bias_table" in name
        published[name] = (pytest.approx(0.75 ** (depth + 1 - layer)), 0.0 if spared else 0.05)
    found = {
        name: (group["lr_scale"], group["weight_decay"])
        for group in param_groups(model, config.optim)
        for name in group["names"]
    }
    assert found == published
    assert found["backbone.fpn.0.weight"] == found["auxiliary_head.conv_seg.weight"] == (1.0, 0.05)


def test_no_auxiliary_head_at_weight_0_and_plain_batch_norm_in_one_process(tiny_config: MakeConfig) -> None:
    config = tiny_config()
    config.model.aux_weight = 0.0
    model = build_model(config, 2)
    assert not model.with_auxiliary_head
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in model.decode_head.modules())


def test_backbone_options_reach_the_encoder(tiny_config: MakeConfig) -> None:
    config = tiny_config()
    config.model.downsample, config.model.drop_path, config.runtime.checkpoint_activations = "max_pool", 0.3, True
    backbone = build_model(config, 2).backbone
    assert not hasattr(backbone, "fpn")
    assert backbone.blocks3[-1].drop_path.rate == pytest.approx(0.3)
    assert backbone.checkpoint_activations
    assert backbone(images(64, 64))[3].shape[2:] == (2, 2)


def test_options_that_leave_pixels_out_or_one_picture_a_part(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config()
    config.inference.stride = 33
    with pytest.raises(UserError, match=r"inference\.stride is 33"):
        check_options(config)
    for scales in ([], [1.0, -0.5]):
        config = tiny_config()
        config.inference.scales = scales
        with pytest.raises(UserError, match=r"inference\.scales is .*factors above 0"):
            check_options(config, training=False)
    config = tiny_config()
    config.data.ratio_range = [2.0, 0.5]
    with pytest.raises(UserError, match=r"data\.ratio_range is \[2\.0, 0\.5\]; expected the smallest and the largest"):
        check_options(config)
    config = tiny_config()
    config.inference.mode, config.inference.crop = "whole", 16  # no windows, so that their stride says nothing
    check_options(config, training=False)
    config = tiny_config()
    config.data.accumulate = 2
    with pytest.raises(UserError, match="one picture a part"):
        check_options(config)
    check_options(config, training=False)
    config.data.accumulate = 1
    check_options(config)
    monkeypatch.setattr("convmae.segmentation.model.upernet.get_world_size", lambda: 2)
    check_options(config)  # batch norm counts the pictures of both


@pytest.mark.parametrize(("downsample", "crop"), [("conv", 64), ("max_pool", 32)])
def test_one_picture_whose_e4_is_one_token_is_refused_and_a_larger_one_trains(
    tiny_config: MakeConfig, downsample: str, crop: int
) -> None:
    config = tiny_config()
    config.data.batch_size, config.model.pool_scales, config.model.downsample = 1, [2], downsample
    config.data.crop = crop
    with pytest.raises(UserError, match="one picture a part"):
        check_options(config)
    config.data.crop = crop + 16
    check_options(config)
    model = build_model(config, 3).train()
    assert model(images(crop + 16, crop + 16), None, mode="tensor").shape[0] == 1
