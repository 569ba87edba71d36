"""The published detectors' settings: their heads, optimiser groups and schedules, against the public configs' values."""

from pathlib import Path

import pytest
import torch
from torch import nn

from convmae.detection.checks.preflight import check_options
from convmae.detection.config import DetectionConfig
from convmae.detection.data.coco import Category, read_coco
from convmae.detection.data.dataset import EvalSet, TrainSet, collate_test, collate_train
from convmae.detection.model.boxes import Matcher
from convmae.detection.model.detection_model import DetectionModel
from convmae.detection.model.mask_rcnn import MaskRCNN
from convmae.engine.config import load_config
from convmae.engine.errors import UserError
from convmae.engine.training.optim import param_groups
from convmae.engine.training.schedule import Schedule

PICTURES = 118_000  # an epoch as the public configs count it


def recipe(name: str, *overrides: str) -> DetectionConfig:
    return load_config(DetectionConfig, f"mask_rcnn_convmae_{name}.yaml", list(overrides))


@pytest.mark.parametrize(("name", "steps"), [("25e", 92_187), ("50e", 184_375), ("100e", 368_750)])
def test_the_cosine_schedules(name: str, steps: int) -> None:
    config = recipe(name)
    schedule = Schedule.build(config.schedule, PICTURES, config.data.batch_size)
    assert abs(schedule.total - steps) <= 1
    assert schedule.warmup == 461  # 0.125 epochs, whatever the length
    assert schedule.lr_factor(0) == pytest.approx(0.001)
    assert schedule.lr_factor(461) == pytest.approx(1)
    assert schedule.lr_factor(steps // 2) == pytest.approx(0.5, abs=0.005)
    assert schedule.lr_factor(schedule.total - 1) < 1e-8
    assert config.model == recipe("25e").model
    assert config.optim == recipe("25e").optim


def test_the_step_schedule() -> None:
    config = recipe("simple_25e")
    schedule = Schedule.build(config.schedule, PICTURES, config.data.batch_size)
    assert (schedule.total, schedule.warmup, schedule.milestones) == (184_375, 250, (163_889, 177_546))
    assert schedule.total * config.data.batch_size == 25 * PICTURES
    assert [round(schedule.lr_factor(step), 6) for step in (0, 250, 163_888, 163_889, 177_546)] == [
        0.001,
        1,
        1,
        0.1,
        0.01,
    ]


@pytest.mark.parametrize(("name", "norm"), [("25e", nn.SyncBatchNorm), ("simple_25e", nn.LayerNorm)])
def test_the_published_heads(name: str, norm: type) -> None:
    config = recipe(name)
    with torch.device("meta"):
        model = MaskRCNN(config.model, 80, config.data.img_size)
    rpn, heads = model.rpn, model.roi_heads
    anchors = rpn.anchor_generator
    assert (anchors.sizes, anchors.ratios, anchors.strides) == (
        (32, 64, 128, 256, 512), (0.5, 1, 2), (4, 8, 16, 32, 64)
    )  # fmt: skip
    assert rpn.box_coder.weights == (1, 1, 1, 1)
    assert heads.box_coder.weights == (10, 10, 5, 5)
    assert (rpn.matcher, heads.matcher) == (Matcher(0.3, 0.7, keep_best=True), Matcher(0.5, 0.5, keep_best=False))
    for sampler, count, part in ((rpn.sampler, 256, 0.5), (heads.sampler, 512, 0.25)):
        assert (sampler.count, sampler.positive_fraction) == (count, part)
    assert (rpn.pre_nms, rpn.post_nms) == ((2000, 1000), (1000, 1000))
    assert (rpn.nms_threshold, heads.nms_threshold, heads.score_threshold, heads.detections) == (0.7, 0.5, 0.05, 100)
    assert (heads.box_roi_pool.size, heads.mask_roi_pool.size) == (7, 14)
    convs = [module for module in heads.box_head.modules() if isinstance(module, nn.Conv2d)]
    linears = [module for module in heads.box_head.modules() if isinstance(module, nn.Linear)]
    assert [conv.out_channels for conv in convs] == [256] * 4
    assert [linear.out_features for linear in linears] == [1024]
    assert [m.out_channels for m in heads.mask_head.modules() if isinstance(m, nn.Conv2d)] == [256] * 4
    assert sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in rpn.head.modules()) == 2
    for head in (heads.box_head, heads.mask_head, model.fpn):
        norms = [m for m in head.modules() if isinstance(m, (nn.SyncBatchNorm, nn.LayerNorm))]
        assert norms
        assert all(isinstance(module, norm) for module in norms)


def test_the_cascades_stages() -> None:
    config = load_config(DetectionConfig, "cascade_mask_rcnn_convmae_25e.yaml")
    with torch.device("meta"):
        heads = MaskRCNN(config.model, 80, config.data.img_size).roi_heads
    assert [stage.matcher for stage in heads.stages] == [Matcher(low, low) for low in (0.5, 0.6, 0.7)]
    assert [stage.box_coder.weights for stage in heads.stages] == [(w, w, w / 2, w / 2) for w in (10, 20, 30)]
    assert [len(stage.box_predictor.bbox_pred.bias) for stage in heads.stages] == [4] * 3
    assert len({str(stage.box_head) for stage in heads.stages}) == 1
    config.model.cascade = False
    assert config == recipe("25e")


def test_the_box_heads_linear_layers_start_as_detectron2s() -> None:
    torch.manual_seed(0)
    model = MaskRCNN(recipe("25e", "model.size=tiny", "model.fpn_channels=16").model, 3, 64)
    (linear,) = [m for m in model.roi_heads.box_head.modules() if isinstance(m, nn.Linear)]
    assert linear.weight.std().item() == pytest.approx(linear.in_features**-0.5, rel=0.01)  # Caffe2's "xavier"
    assert not linear.bias.any()


@pytest.mark.parametrize(("name", "layer_decay"), [("25e", 1.0), ("simple_25e", 0.8)])
def test_learning_rates_and_weight_decay(name: str, layer_decay: float) -> None:
    config = recipe(name)
    with torch.device("meta"):
        model = DetectionModel(config, [Category(1, "one")])
    groups = {name: group for group in param_groups(model, config.optim) for name in group["names"]}
    assert groups.keys() == dict(model.named_parameters()).keys()
    norms = {
        f"{owner}.{name}"
        for owner, module in model.named_modules()
        if isinstance(module, (nn.LayerNorm, nn.SyncBatchNorm))
        for name, _ in module.named_parameters()
    }
    for name, group in groups.items():
        inner = name.removeprefix("model.")
        if inner.startswith("backbone.blocks3."):
            layer = int(inner.split(".")[2]) + 1
        else:
            layer = 0 if inner.startswith(("backbone.patch_embed", "backbone.blocks", "backbone.pos_embed")) else 12
        assert group["lr_scale"] == pytest.approx(layer_decay ** (12 - layer)), name
        undecayed = name in norms or name.endswith(("pos_embed", "relative_position_bias_table"))
        assert group["weight_decay"] == (0 if undecayed else 0.1), name


def test_a_detector_in_the_ports_form_learns_and_detects(split: Path) -> None:
    torch.manual_seed(0)
    config = recipe(
        "simple_25e", "model.size=tiny", "model.fpn_channels=16", "model.box_convs=[16]", "model.box_hidden=[16]",
        "model.mask_convs=[16]", "model.roi_sampled=16", "model.window_size=3", "model.global_blocks=[1,4]",
        "model.pretrain_img_size=32", "model.score_threshold=0", "data.img_size=64",
    )  # fmt: skip
    check_options(config)
    data = read_coco(split / "instances.json", split / "images")
    model = DetectionModel(config, data.categories)
    backbone = model.model.backbone
    assert (backbone.pos_embed.shape[1], backbone.blocks3[0].attn.rel_pos_h.shape) == (4, (5, 64))
    losses = model(**collate_train([TrainSet(data, config.data, True)[0]]), mode="loss")
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with torch.no_grad():
        (found,) = model.eval()(**collate_test([EvalSet(data, 64)[0]]), mode="predict")
    assert len(found["boxes"]) == len(found["masks"]) > 0


def test_global_blocks_that_do_not_exist_are_refused() -> None:
    with pytest.raises(UserError, match=r"model.global_blocks has \[7, 10\]; expected blocks from 0 to 5 of 'tiny'"):
        check_options(recipe("simple_25e", "model.size=tiny"))
