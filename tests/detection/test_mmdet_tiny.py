"""mmdet's small configs are this project's small recipe, and all their parts have one size."""

from importlib import resources

import pytest
import torch

pytest.importorskip("mmdet", reason="mmdet is not installed (docs/mmdetection.md says how)")

import convmae.detection.mmdet  # noqa: F401

# isort: split
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope

from convmae.benchmarks.frameworks.mmdet_model import sizes
from convmae.detection.config import DetectionConfig
from convmae.detection.model.convert_mmdet import mmdet_names
from convmae.detection.model.mask_rcnn import MaskRCNN
from convmae.engine.config import load_config

KINDS = ("mask_rcnn", "cascade_mask_rcnn", "mask2former", "dino")


def path_of(kind: str) -> str:
    return str(resources.files("convmae.configs") / f"mmdet_{kind}_tiny_256px.py")


def test_the_small_mask_rcnn_is_our_small_recipe() -> None:
    theirs, ours = Config.fromfile(path_of("mask_rcnn")), load_config(DetectionConfig, "mask_rcnn_tiny_256px.yaml")
    with DefaultScope.overwrite_default_scope("mmdet"), torch.device("meta"):
        model, mine = MODELS.build(theirs.model), MaskRCNN(ours.model, 80, ours.data.img_size)
    names = mmdet_names(mine.state_dict(), back=True)
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        names[name]: value.shape for name, value in mine.state_dict().items()
    }
    merged = theirs.copy()
    wanted = sizes(ours, mine.backbone.out_channels, 80)
    merged.merge_from_dict({f"model.{name}": value for name, value in wanted.items()})
    for name in wanted:
        found, expected = (config.model for config in (theirs, merged))
        for part in name.split("."):
            found, expected = found.get(part), expected[part]
        if part not in (
            "global_blocks",
            "attend_to_padding",
            "position",
            "pretrain_img_size",
        ):  # left to the encoder's own
            assert found == expected or list(found) == list(expected), name
    assert theirs.optim_wrapper.optimizer.lr == ours.optim.lr
    assert theirs.optim_wrapper.optimizer.weight_decay == ours.optim.weight_decay
    assert theirs.optim_wrapper.clip_grad.max_norm == ours.optim.clip_grad
    assert theirs.optim_wrapper.paramwise_cfg.decay_biases == ours.optim.decay_biases
    samplers = theirs.model.train_cfg
    assert (samplers.rpn.sampler.num, samplers.rcnn.sampler.num) == (ours.model.rpn_sampled, ours.model.roi_sampled)
    assert list(theirs.train_dataloader.dataset.pipeline[3].ratio_range) == ours.data.jitter


@pytest.mark.parametrize("kind", KINDS)
def test_all_parts_of_a_small_config_have_its_size(kind: str) -> None:
    config = Config.fromfile(path_of(kind))
    side = load_config(DetectionConfig, "mask_rcnn_tiny_256px.yaml").data.img_size
    train, test = config.train_dataloader.dataset.pipeline, config.test_dataloader.dataset.pipeline
    assert train[3].scale == train[4].crop_size == test[1].scale == (side, side)
    assert config.model.data_preprocessor.side == config.model.backbone.img_size == side
    assert config.val_dataloader == config.test_dataloader
    assert (train[1].with_mask, test[2].with_mask) == (kind != "dino",) * 2
