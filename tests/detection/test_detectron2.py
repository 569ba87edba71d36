"""detectron2 trains, evaluates and detects with ConvViTDet as this project does."""

import copy
import dataclasses
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
from reference import Cascade as given
from torch import Tensor, nn

pytest.importorskip("detectron2", reason="detectron2 is not installed (docs/detectron2.md says how)")

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyCall, LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import SimpleTrainer, hooks
from detectron2.evaluation import inference_on_dataset
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
)
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from convmae import backbones
from convmae.detection.config import DetectionConfig, ModelOptions
from convmae.detection.detectron2 import ConvViTDet
from convmae.detection.model.convert import detector_to_detectron2
from convmae.detection.model.mask_rcnn import MaskRCNN
from convmae.detection.model.weights import to_detectron2
from convmae.engine.config import load_config
from convmae.engine.errors import UserError
from convmae.engine.files import save_weights
from convmae.engine.pictures.images import normalize

SIDE, CHANNELS, CLASSES = 64, 16, 3
LEVELS = ["p2", "p3", "p4", "p5"]
OPTIONS = ModelOptions(
    size="tiny", window_size=3, norm="bn", fpn_channels=CHANNELS, anchor_sizes=[8, 16, 32, 64, 128], canonical_size=56,
    box_convs=[CHANNELS] * 2, box_hidden=[32], mask_convs=[CHANNELS] * 2, score_threshold=0.3, detections=20,
)  # fmt: skip


def recipe() -> Any:
    """The shipped LazyConfig, as detectron2 reads it."""
    return LazyConfig.load(str(resources.files("convmae.configs") / "detectron2_mask_rcnn_convmae_25e.py"))


def small_recipe() -> Any:
    """The recipe with the sizes of `OPTIONS`."""
    config = recipe()
    model, heads = config.model, config.model.roi_heads
    model.backbone.bottom_up.update(size="tiny", img_size=SIDE, window_size=3, global_blocks=None)
    model.backbone.out_channels = model.proposal_generator.head.in_channels = CHANNELS
    model.proposal_generator.anchor_generator.sizes = [[size] for size in OPTIONS.anchor_sizes]
    for pooler in (heads.box_pooler, heads.mask_pooler):
        pooler.canonical_box_size = OPTIONS.canonical_size
    heads.num_classes = CLASSES
    heads.box_head.update(conv_dims=OPTIONS.box_convs, fc_dims=OPTIONS.box_hidden)
    heads.box_head.input_shape.channels = heads.mask_head.input_shape.channels = CHANNELS
    heads.box_predictor.input_shape.channels = OPTIONS.box_hidden[-1]
    heads.box_predictor.update(test_score_thresh=OPTIONS.score_threshold, test_topk_per_image=OPTIONS.detections)
    heads.mask_head.conv_dims = [CHANNELS] * 3  # the last is the upsampling's
    return config


def cascade_recipe() -> Any:
    """The small recipe made a cascade, as detectron2's own configs of Cascade Mask R-CNN do it."""
    config = small_recipe()
    heads = config.model.roi_heads
    head, predictor = heads.pop("box_head"), heads.pop("box_predictor")
    heads.pop("proposal_matcher")
    predictors = [copy.deepcopy(predictor) for _ in range(3)]
    for weight, one in zip((10.0, 20.0, 30.0), predictors, strict=True):
        one.box2box_transform.weights = (weight, weight, weight / 2, weight / 2)
        one.update(cls_agnostic_bbox_reg=True, num_classes=CLASSES)
    matchers = [LazyCall(Matcher)(thresholds=[overlap], labels=[0, 1]) for overlap in (0.5, 0.6, 0.7)]
    heads.update(_target_=CascadeROIHeads, box_heads=[head] * 3, box_predictors=predictors, proposal_matchers=matchers)
    return config


def random_detector(options: ModelOptions, seed: int) -> MaskRCNN:
    """A detector of this project whose outputs are neither constant nor saturated."""
    model = MaskRCNN(options, CLASSES, SIDE).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        if name.endswith("running_var"):
            value.fill_(1.0)
        elif value.ndim <= 1 and value.is_floating_point():
            value.copy_(0.1 * noise + name.endswith("weight"))
        elif value.ndim > 1:
            gain = {"cls_score": 0.5, "cls_logits": 4.0, "bbox_pred": 0.5}.get(name.split(".")[-2], 1.4)
            value.copy_(gain * noise / value[0].numel() ** 0.5)
    return model


@pytest.fixture
def dataset(split: Path) -> Any:
    """The four pictures under a name that detectron2 knows."""
    register_coco_instances("convmae_test_split", {}, str(split / "instances.json"), str(split / "images"))
    yield "convmae_test_split"
    DatasetCatalog.remove("convmae_test_split")
    MetadataCatalog.remove("convmae_test_split")


def test_the_backbone_tells_detectron2_its_shapes_and_its_padding() -> None:
    model = ConvViTDet(size="tiny", img_size=SIDE).eval()
    with torch.inference_mode():
        maps = model(torch.zeros(1, 3, SIDE, SIDE))
    shapes = model.output_shape()
    assert list(shapes) == list(maps) == ["E1", "E2", "E3", "E4"]
    for name, found in maps.items():
        assert found.shape[1:] == (shapes[name].channels, *[SIDE // shapes[name].stride] * 2)
    assert model.size_divisibility == 32
    assert model.padding_constraints == {"square_size": SIDE}


def test_pretrained_weights_start_the_backbone(tmp_path: Path) -> None:
    encoder = backbones.ConvViT("tiny", num_classes=0, img_size=96)
    path = save_weights(encoder.state_dict(), tmp_path / "encoder.pth")
    plain = backbones.ConvViTDet("tiny", img_size=SIDE)
    backbones.load_checkpoint(plain, path)
    found = ConvViTDet(size="tiny", img_size=SIDE, init=str(path)).state_dict()
    assert found.keys() == plain.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in plain.state_dict().items())
    assert torch.equal(found["blocks3.5.mlp.fc1.weight"], encoder.blocks3[5].mlp.fc1.weight)
    frozen = ConvViTDet(size="tiny", img_size=SIDE, init=str(path), freeze="encoder")
    assert not any(value.requires_grad for value in frozen.parameters())
    with pytest.raises(UserError, match="freeze of the backbone is encoder and its init empty"):
        ConvViTDet(size="tiny", img_size=SIDE, freeze="encoder")


def test_the_recipe_says_what_ours_does() -> None:
    theirs, ours = recipe(), load_config(DetectionConfig, "mask_rcnn_convmae_w16_25e.yaml")
    encoder, jitter, crop = theirs.model.backbone.bottom_up, *theirs.dataloader.train.mapper.augmentations[1:]
    assert (encoder.size, encoder.window_size) == (ours.model.size, ours.model.window_size)
    assert (encoder.drop_path_rate, encoder.img_size) == (ours.model.drop_path, ours.data.img_size)
    assert [jitter.min_scale, jitter.max_scale] == ours.data.jitter
    assert tuple(crop.crop_size) == (ours.data.img_size, ours.data.img_size)
    assert theirs.dataloader.train.total_batch_size == ours.data.batch_size == ours.optim.lr_batch
    assert (theirs.optimizer.lr, theirs.optimizer.weight_decay) == (ours.optim.lr, ours.optim.weight_decay)
    assert theirs.train.max_iter == int(ours.schedule.epochs * 118_000 / ours.data.batch_size)
    rate = instantiate(theirs.lr_multiplier)
    assert rate(0.0) == pytest.approx(ours.schedule.warmup_factor)
    assert rate(ours.schedule.warmup / ours.schedule.epochs) == pytest.approx(1.0, abs=1e-3)
    assert rate(0.5) == pytest.approx(0.5)
    assert rate(1.0) == pytest.approx(0.0, abs=1e-6)
    with torch.device("meta"):
        mine = MaskRCNN(ours.model, classes=80, img_size=ours.data.img_size)
        model = instantiate(theirs.model)
    shapes = {name: value.shape for name, value in to_detectron2(mine.state_dict()).items()}
    assert {name: value.shape for name, value in model.state_dict().items()} == shapes


@pytest.mark.parametrize("cascade", [False, True])
def test_converted_weights_detect_the_same_in_both(cascade: bool, tmp_path: Path) -> None:
    ours = random_detector(dataclasses.replace(OPTIONS, cascade=cascade), seed=2 if cascade else 0)
    config = cascade_recipe() if cascade else small_recipe()
    theirs = instantiate(config.model).eval()
    path = save_weights(detector_to_detectron2(ours.state_dict(), "model").state, tmp_path / "model.pth")
    keys = DetectionCheckpointer(theirs)._load_model({"model": torch.load(path, weights_only=True)["model"]})
    assert not keys.missing_keys
    assert not keys.incorrect_shapes
    assert all(name.endswith("relative_position_index") for name in keys.unexpected_keys)
    sizes = [(SIDE, SIDE), (40, SIDE)]
    generator = torch.Generator().manual_seed(1)
    pictures = [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes]
    squares = torch.full((2, 3, SIDE, SIDE), 128, dtype=torch.uint8)
    for square, picture in zip(squares, pictures, strict=True):
        square[:, : picture.shape[1], : picture.shape[2]] = picture
    with torch.inference_mode():
        found, _ = ours(normalize(squares), sizes=sizes)
        expected = theirs.inference([{"image": picture} for picture in pictures], do_postprocess=False)
    for mine, wanted in zip(found, expected, strict=True):
        assert len(mine["scores"]) == len(wanted) > 5
        assert len(set(mine["labels"].tolist())) > 1
        torch.testing.assert_close(mine["scores"], wanted.scores, rtol=0, atol=1e-4)
        torch.testing.assert_close(mine["boxes"], wanted.pred_boxes.tensor, rtol=0, atol=1e-2)
        assert torch.equal(mine["labels"], wanted.pred_classes)
        torch.testing.assert_close(mine["masks"], wanted.pred_masks[:, 0], rtol=0, atol=1e-2)


def test_detectron2_trains_and_evaluates_it(dataset: str) -> None:
    config = small_recipe()
    loaders = config.dataloader
    jitter, crop = loaders.train.mapper.augmentations[1:]
    jitter.update(min_scale=0.5, target_height=SIDE, target_width=SIDE)
    crop.crop_size = (SIDE, SIDE)
    loaders.test.mapper.augmentations[0].update(short_edge_length=SIDE, max_size=SIDE)
    loaders.train.dataset.names = loaders.test.dataset.names = dataset
    loaders.train.mapper.instance_mask_format = "bitmask"  # one of the objects is an RLE
    loaders.train.update(total_batch_size=2, num_workers=0)
    loaders.test.num_workers = 0
    config.model.roi_heads.box_predictor.test_score_thresh = 0.0

    torch.manual_seed(0)
    model = config.optimizer.params.model = instantiate(config.model)
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = instantiate(config.optimizer)
    assert undecayed(model, optimizer) == {
        name
        for path, module in model.named_modules()
        for name in (f"{path}.{own}" for own, _ in module.named_parameters(recurse=False))
        if isinstance(module, (nn.LayerNorm, nn.modules.batchnorm._BatchNorm))
        or name.endswith(("pos_embed", "relative_position_bias_table"))
    }
    trainer = SimpleTrainer(model, instantiate(loaders.train), optimizer)
    trainer.register_hooks([hooks.LRScheduler(scheduler=instantiate(config.lr_multiplier))])
    trainer.train(0, 2)
    still = [name for name, value in model.named_parameters() if torch.equal(value, before[name])]
    assert not still
    assert all(value.isfinite().all() for value in model.parameters())

    numbers = inference_on_dataset(model, instantiate(loaders.test), instantiate(loaders.evaluator))
    assert {"bbox", "segm"} <= numbers.keys()
    assert all(0 <= numbers[kind]["AP"] <= 100 for kind in ("bbox", "segm"))


def undecayed(model: nn.Module, optimizer: torch.optim.Optimizer) -> set[str]:
    names: dict[Tensor, str] = {value: name for name, value in model.named_parameters()}
    groups = [group for group in optimizer.param_groups if group["weight_decay"] == 0]
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.1}
    return {names[value] for group in groups for value in group["params"]}


def detectron2s_cascade() -> CascadeROIHeads:
    """detectron2's heads of `reference.Cascade`'s sizes, as its configs of Cascade Mask R-CNN put them together."""

    def pooler(side: int) -> ROIPooler:
        scales = [1 / stride for stride in given.STRIDES]
        return ROIPooler(side, scales, 0, "ROIAlignV2", canonical_box_size=given.CANONICAL)

    def pooled(side: int) -> ShapeSpec:
        return ShapeSpec(channels=given.CHANNELS, height=side, width=side)

    return CascadeROIHeads(
        num_classes=given.CLASSES,
        batch_size_per_image=given.SAMPLED,
        positive_fraction=0.25,
        box_in_features=LEVELS,
        box_pooler=pooler(7),
        box_heads=[
            FastRCNNConvFCHead(pooled(7), conv_dims=given.CONVS, fc_dims=[given.HIDDEN], conv_norm="LN")
            for _ in range(3)
        ],
        box_predictors=[
            FastRCNNOutputLayers(
                ShapeSpec(channels=given.HIDDEN),
                box2box_transform=Box2BoxTransform((weight, weight, weight / 2, weight / 2)),
                num_classes=given.CLASSES,
                test_score_thresh=given.SCORE_THRESHOLD,
                test_topk_per_image=given.DETECTIONS,
                cls_agnostic_bbox_reg=True,
            )
            for weight in (10.0, 20.0, 30.0)
        ],
        proposal_matchers=[Matcher([overlap], [0, 1]) for overlap in (0.5, 0.6, 0.7)],
        mask_in_features=LEVELS,
        mask_pooler=pooler(14),
        mask_head=MaskRCNNConvUpsampleHead(
            pooled(14), num_classes=given.CLASSES, conv_dims=[*given.CONVS, given.CHANNELS], conv_norm="LN"
        ),
    )


def cascade_outputs(heads: CascadeROIHeads) -> dict[str, np.ndarray]:
    """What tests/data/cascade.npz holds: detections, losses, and the losses' gradients."""
    proposals, targets = given.pictures()
    maps = {name: level.requires_grad_() for name, level in zip(LEVELS, given.maps(), strict=True)}

    def rated() -> list[Instances]:
        return [
            Instances(size, proposal_boxes=Boxes(boxes.clone()), objectness_logits=torch.zeros(len(boxes)))
            for size, boxes in zip(given.SIZES, proposals, strict=True)
        ]

    with torch.inference_mode():
        found, _ = heads.eval()(None, maps, rated())
    objects = [
        Instances(size, gt_boxes=Boxes(one["boxes"]), gt_classes=one["labels"], gt_masks=BitMasks(one["masks"]))
        for size, one in zip(given.SIZES, targets, strict=True)
    ]
    with EventStorage():
        _, losses = heads.train()(None, maps, rated(), objects)
    sum(losses.values()).backward()
    return {
        "counts": np.array([len(one) for one in found]),
        "boxes": torch.cat([one.pred_boxes.tensor for one in found]).numpy(),
        "scores": torch.cat([one.scores for one in found]).numpy(),
        "classes": torch.cat([one.pred_classes for one in found]).numpy(),
        "masks": torch.cat([one.pred_masks[:, 0, ::4, ::4] for one in found]).numpy(),
        "loss_names": np.array(list(losses)),
        "losses": np.array([loss.item() for loss in losses.values()]),
        **{f"gradient_{name}": level.grad[:, ::4, ::2, ::2].numpy() for name, level in maps.items()},
        "gradient_names": np.array([f"roi_heads.{name}" for name, _ in heads.named_parameters()]),
        "gradient_norms": np.array([value.grad.norm().item() for value in heads.parameters()]),
    }


def test_the_cascades_reference_is_detectron2s() -> None:
    keys, outputs = reference.reference("cascade")
    heads = detectron2s_cascade()
    assert {f"roi_heads.{name}": list(value.shape) for name, value in heads.state_dict().items()} == keys
    state = reference.seeded_model(keys, given.WEIGHT_SEED, "backbone.", given.GAINS)
    heads.load_state_dict({name.removeprefix("roi_heads."): value for name, value in state.items()})
    found = cascade_outputs(heads)
    assert found.keys() == outputs.keys()
    for name, value in found.items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(value, outputs[name], rtol=1e-3, atol=1e-3, err_msg=name)
        else:
            assert (value == outputs[name]).all(), name
