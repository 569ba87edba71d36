"""mmdet's own tools train, evaluate and detect with ConvViTDet by the shipped configs, as this project does."""

import json
import warnings
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mmdet", reason="mmdet is not installed (docs/mmdetection.md says how)")

import convmae.detection.mmdet  # noqa: F401

# isort: split
from mmdet.apis import init_detector
from mmdet.registry import MODELS, PARAM_SCHEDULERS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from tiny_detector import random_detector

from convmae.detection.config import DetectionConfig, ModelOptions
from convmae.detection.data.coco import Category
from convmae.detection.model.convert_mmdet import detector_to_mmdet, mmdet_names
from convmae.detection.model.detection_model import DetectionModel
from convmae.detection.model.mask_rcnn import MaskRCNN
from convmae.detection.model.restore import paste_masks
from convmae.engine.config import load_config
from convmae.engine.errors import UserError
from convmae.engine.files import save_weights
from convmae.engine.pictures.images import normalize
from convmae.engine.training.optim import param_groups
from convmae.engine.training.schedule import Schedule
from convmae.tools import run_mmdet

NAMES = ("box", "disc", "bar")  # in the order of their ids
SIDE, CHANNELS = 64, 16
WIDTHS = [64, 128, 256, 256]
OPTIONS = ModelOptions(
    size="tiny", window_size=3, norm="bn", fpn_channels=CHANNELS, anchor_sizes=[8, 16, 32, 64, 128], canonical_size=56,
    box_convs=[CHANNELS] * 2, box_hidden=[32], mask_convs=[CHANNELS] * 2, score_threshold=0.3, detections=20,
)  # fmt: skip
BOX_HEAD = {"num_shared_convs": 2, "in_channels": CHANNELS, "conv_out_channels": CHANNELS, "fc_out_channels": 32}
SMALL = {  # what makes each recipe's model small
    "mask_rcnn": {f"roi_head.bbox_head.{name}": value for name, value in BOX_HEAD.items()}
    | {"roi_head.bbox_head.num_classes": 3},
    "cascade_mask_rcnn": {
        f"roi_head.bbox_head.{stage}.{name}": value
        for stage in range(3)
        for name, value in {**BOX_HEAD, "num_classes": 3}.items()
    },
    "mask2former": {
        "panoptic_head.in_channels": WIDTHS,
        "panoptic_head.num_things_classes": 3,
        "panoptic_head.num_queries": 10,
        "panoptic_head.loss_cls.class_weight": [1.0] * 3 + [0.1],
        "panoptic_head.pixel_decoder.encoder.num_layers": 1,
        "panoptic_head.transformer_decoder.num_layers": 3,
        "panoptic_fusion_head.num_things_classes": 3,
        "train_cfg.num_points": 256,
        "test_cfg.max_per_image": 10,
    },
    "dino": {
        "neck.in_channels": WIDTHS[1:],
        "num_queries": 20,
        "encoder.num_layers": 1,
        "decoder.num_layers": 1,
        "bbox_head.num_classes": 3,
        "dn_cfg.group_cfg.num_dn_queries": 10,
        "test_cfg.max_per_img": 10,
    },
}
SMALL_RCNN = {
    "neck.in_channels": WIDTHS,
    "neck.out_channels": CHANNELS,
    "rpn_head.in_channels": CHANNELS,
    "rpn_head.feat_channels": CHANNELS,
    "rpn_head.anchor_generator.base_sizes": OPTIONS.anchor_sizes,
    "roi_head.mask_head.num_convs": 2,
    "roi_head.mask_head.in_channels": CHANNELS,
    "roi_head.mask_head.conv_out_channels": CHANNELS,
    "roi_head.mask_head.num_classes": 3,
    "test_cfg.rcnn.score_thr": OPTIONS.score_threshold,
    "test_cfg.rcnn.max_per_img": OPTIONS.detections,
    **{
        f"roi_head.{part}_roi_extractor.{name}": value
        for part in ("bbox", "mask")
        for name, value in (("out_channels", CHANNELS), ("finest_scale", 14))
    },
}


@pytest.fixture(autouse=True)
def mmdet_scope() -> Iterator[None]:
    """Registry names are looked up in mmdet, as its tools make sure."""
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


def recipe(kind: str = "mask_rcnn") -> Config:
    (name,) = (
        path.name
        for path in resources.files("convmae.configs").iterdir()
        if path.name.startswith(f"mmdet_{kind}_convmae")
    )
    return Config.fromfile(str(resources.files("convmae.configs") / name))


def small_recipe(kind: str = "mask_rcnn", split: Path | None = None, steps: int = 2) -> Config:
    """A recipe made small enough for a test, as --cfg-options does it, for data of three classes."""
    config = recipe(kind)
    options: dict[str, Any] = {
        "randomness.seed": 0,
        "model.data_preprocessor.side": SIDE,
        "model.backbone.size": "tiny",
        "model.backbone.img_size": SIDE,
        "model.backbone.window_size": 3,
        "train_cfg.max_iters": steps,
        "train_cfg.val_interval": steps,
        "param_scheduler.0.end": 1,
        "param_scheduler.1.begin": 1,
        "param_scheduler.1.end": steps,
        "default_hooks.checkpoint.interval": steps,
        "default_hooks.logger.interval": 1,
        "train_dataloader.batch_size": 2,
        "train_dataloader.dataset.pipeline.3.scale": (SIDE, SIDE),
        "train_dataloader.dataset.pipeline.4.crop_size": (SIDE, SIDE),
    }
    small = SMALL[kind] | (SMALL_RCNN if "rcnn" in kind else {})
    options |= {f"model.{name}": value for name, value in small.items()}
    for part in ("train", "val", "test"):
        dataset = f"{part}_dataloader.dataset"
        options |= {f"{part}_dataloader.num_workers": 0, f"{part}_dataloader.persistent_workers": False}
        if part != "train":
            options |= {
                f"{dataset}.pipeline.1.scale": (SIDE, SIDE),
                f"{part}_evaluator.ann_file": f"{split}/instances.json",
            }
        options |= {
            f"{dataset}.data_root": str(split),
            f"{dataset}.ann_file": "instances.json",
            f"{dataset}.data_prefix.img": "images",
            f"{dataset}.metainfo.classes": NAMES,
        }
    config.merge_from_dict(options)
    return config


@pytest.fixture
def listed(split: Path, change: Callable[..., Path]) -> Path:
    """The four pictures of `split`, with classes in the order of their ids."""
    change(lambda content: content["categories"].sort(key=lambda entry: entry["id"]))
    return split


def run_tool(
    name: str, config: Config, folder: Path, monkeypatch: pytest.MonkeyPatch, *argv: str
) -> list[dict[str, Any]]:
    """Runs one of mmdet's own tools, and returns what it logs: a row of losses a step, and one of an evaluation's numbers."""
    folder.mkdir()
    config.visualizer.name = folder.name  # mmengine keeps what it made under a name
    config.dump(str(folder / "config.py"))
    monkeypatch.setenv("LOCAL_RANK", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_mmdet.run(name, [str(folder / "config.py"), *argv, "--work-dir", str(folder)])
    (path,) = folder.glob("*/vis_data/scalars.json" if name == "train" else "*/*.json")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_recipe_says_what_ours_does() -> None:
    theirs, ours = recipe(), load_config(DetectionConfig, "mask_rcnn_convmae_25e.yaml")
    schedule = Schedule.build(ours.schedule, 117_266, ours.data.batch_size)
    assert theirs.train_cfg.max_iters == schedule.total
    assert theirs.train_cfg.val_interval == schedule.eval_every
    assert theirs.train_dataloader.batch_size * 8 == ours.data.batch_size == theirs.auto_scale_lr.base_batch_size
    optimizer = theirs.optim_wrapper.optimizer
    assert (optimizer.lr, optimizer.weight_decay) == (ours.optim.lr, ours.optim.weight_decay)
    assert tuple(optimizer.betas) == tuple(ours.optim.betas)
    _, _, flip, resize, crop = theirs.train_dataloader.dataset.pipeline[:5]
    assert (flip.prob, list(resize.ratio_range)) == (ours.data.flip, ours.data.jitter)
    side = ours.data.img_size
    assert resize.scale == crop.crop_size == theirs.test_dataloader.dataset.pipeline[1].scale == (side, side)
    assert theirs.train_dataloader.dataset.filter_cfg.filter_empty_gt != ours.data.keep_empty
    rcnn, options = theirs.model.test_cfg.rcnn, ours.model
    assert (rcnn.score_thr, rcnn.nms.iou_threshold, rcnn.max_per_img) == (
        options.score_threshold,
        options.nms_threshold,
        options.detections,
    )
    cuts = theirs.model.train_cfg
    for rpn, kept in ((cuts.rpn_proposal, ("train",)), (theirs.model.test_cfg.rpn, ("test",))):
        assert rpn.nms_pre == getattr(options, f"pre_nms_{kept[0]}")
        assert rpn.max_per_img == getattr(options, f"post_nms_{kept[0]}")
    assert (cuts.rpn.sampler.num, cuts.rcnn.sampler.num) == (options.rpn_sampled, options.roi_sampled)
    with torch.device("meta"):
        mine, model = MaskRCNN(options, 80, side), MODELS.build(theirs.model)
    names = mmdet_names(mine.state_dict(), back=True)
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        names[name]: value.shape for name, value in mine.state_dict().items()
    }
    rates = [block.drop_path.rate for block in mine.backbone.blocks3]
    assert [block.drop_path.rate for block in model.backbone.blocks3] == rates


def test_the_learning_rate_is_that_of_our_schedule() -> None:
    ours = load_config(DetectionConfig, "mask_rcnn_convmae_25e.yaml").schedule
    theirs = recipe().param_scheduler
    schedule = Schedule.build(ours, 117_266, 32)
    assert (theirs[0].end, theirs[1].begin, theirs[1].end) == (schedule.warmup, schedule.warmup, schedule.total)
    ours.epochs, ours.steps, ours.warmup = None, 1000, 100
    theirs[0].end = theirs[1].begin = 100
    theirs[1].end = 1000
    optimizer = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=1.0)
    schedulers = [PARAM_SCHEDULERS.build({**one, "optimizer": optimizer}) for one in theirs]
    schedule = Schedule.build(ours, 100, 16)
    for step in range(1000):  # mmengine counts the steps of a phase but one, so it is one step ahead in the end
        assert optimizer.param_groups[0]["lr"] == pytest.approx(schedule.lr_factor(step), abs=1 / 99), step
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()


def test_the_optimisers_groups_are_ours(split: Path) -> None:
    theirs, ours = small_recipe(split=split), load_config(DetectionConfig, "mask_rcnn_convmae_25e.yaml")
    model = MODELS.build(theirs.model)
    for decay in (1.0, 0.8):
        theirs.optim_wrapper.paramwise_cfg.layer_decay = ours.optim.layer_decay = decay
        found = build_optim_wrapper(model, theirs.optim_wrapper).optimizer.param_groups
        wanted = param_groups(model, ours.optim)
        assert len(found) == len(wanted) > 1
        for group, expected in zip(found, wanted, strict=True):
            assert group["names"] == expected["names"]
            assert group["weight_decay"] == expected["weight_decay"]
            assert group["lr"] == pytest.approx(8e-5 * expected["lr_scale"])


@pytest.mark.parametrize("change", [{}, {"rpn_convs": 1, "norm": "gn"}], ids=str)
def test_converted_weights_detect_the_same_in_both(change: dict[str, Any], tmp_path: Path) -> None:
    options = ModelOptions(**{**vars(OPTIONS), **change})
    ours, config = random_detector(options, len(NAMES), SIDE, 0.2), small_recipe()
    norm = {"bn": {"type": "BN"}, "gn": {"type": "GN", "num_groups": 8}}[options.norm]
    config.model.rpn_head.num_convs = options.rpn_convs
    for part in (config.model.neck, config.model.roi_head.bbox_head, config.model.roi_head.mask_head):
        part.norm_cfg = norm
    converted, meta = detector_to_mmdet(ours.state_dict(), "model")
    path = save_weights(converted.state, tmp_path / "model.pth", meta=meta)
    theirs = MODELS.build(config.model).eval()
    theirs.load_state_dict(torch.load(path, weights_only=True)["state_dict"])

    sizes = [(SIDE, SIDE), (40, SIDE)]
    generator = torch.Generator().manual_seed(1)
    pictures = [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes]
    squares = torch.full((2, 3, SIDE, SIDE), 128, dtype=torch.uint8)
    for square, picture in zip(squares, pictures, strict=True):
        square[:, : picture.shape[1], : picture.shape[2]] = picture
    whole = {"scale_factor": (1.0, 1.0)}
    samples = [DetDataSample(metainfo={"img_shape": size, "ori_shape": size, **whole}) for size in sizes]
    with torch.inference_mode():
        found, _ = ours(normalize(squares), sizes=sizes)
        expected = theirs.test_step({"inputs": [picture.flip(0) for picture in pictures], "data_samples": samples})
    for mine, sample, size in zip(found, expected, sizes, strict=True):
        reference = sample.pred_instances
        assert len(mine["scores"]) == len(reference) > 5
        assert len(set(mine["labels"].tolist())) > 1
        torch.testing.assert_close(mine["scores"], reference.scores, rtol=0, atol=1e-4)
        torch.testing.assert_close(mine["boxes"], reference.bboxes, rtol=0, atol=1e-2)
        assert torch.equal(mine["labels"], reference.labels)
        masks = paste_masks(mine["masks"], mine["boxes"], *size) >= 0.5
        assert 0.002 < masks.float().mean() < 0.99
        assert (masks == reference.masks).float().mean() > 0.999


def test_mmdets_tools_train_and_evaluate_and_our_weights_are_read_as_they_are(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_recipe(split=listed)
    config.model.test_cfg.rcnn.score_thr = 0.0
    *steps, evaluated = run_tool("train", config, tmp_path / "trained", monkeypatch)
    assert [0 < row["loss"] < 20 for row in steps] == [True, True]
    (again,) = run_tool("test", config, tmp_path / "tested", monkeypatch, str(tmp_path / "trained" / "iter_2.pth"))
    for kind in ("bbox", "segm"):
        assert again[f"coco/{kind}_mAP"] == pytest.approx(evaluated[f"coco/{kind}_mAP"])

    ours = load_config(DetectionConfig, "mask_rcnn_convmae_25e.yaml")
    ours.model, ours.data.img_size = OPTIONS, SIDE
    model = DetectionModel(ours, [Category(number, name) for number, name in zip((3, 7, 90), NAMES, strict=True)])
    state = {name.removeprefix("model."): value for name, value in model.state_dict().items()}
    converted, meta = detector_to_mmdet(state, "model")
    path = save_weights(converted.state, tmp_path / "ours.pth", meta=meta)
    theirs = init_detector(config, str(path), device="cpu")
    assert list(theirs.dataset_meta["classes"]) == list(NAMES)
    assert all(torch.equal(theirs.state_dict()[name], value) for name, value in converted.state.items())


@pytest.mark.parametrize("kind", ["cascade_mask_rcnn", "mask2former", "dino"])
def test_the_other_recipes_train_and_evaluate(
    kind: str, listed: Path, change: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_recipe(kind, listed)
    if kind == "dino":  # which learns boxes alone
        change(lambda content: [entry.pop("segmentation") for entry in content["annotations"]])
    if "rcnn" in kind:
        config.model.test_cfg.rcnn.score_thr = 0.0
    *steps, evaluated = run_tool("train", config, tmp_path / kind, monkeypatch)
    assert [0 < row["loss"] < 500 for row in steps] == [True, True]
    assert "coco/bbox_mAP" in evaluated


def test_mistakes_are_told_by_one_message(listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_recipe(split=listed)
    config.model.roi_head.mask_head.num_classes = 4
    with pytest.raises(UserError, match=r"mask_head\.num_classes is 4, the classes of the data are 3 \(box, disc, bar"):
        run_tool("train", config, tmp_path / "head", monkeypatch)
    config = small_recipe(split=listed)
    config.train_dataloader.dataset.metainfo.classes = (*NAMES, "cube")
    with pytest.raises(
        UserError, match=r"instances\.json has 3 of the data set's classes, 4 \(box, disc, bar, \.\.\.\)"
    ):
        run_tool("train", config, tmp_path / "data", monkeypatch)
    config.train_dataloader.dataset.metainfo.classes = ("disc", "bar", "box")
    with pytest.raises(
        UserError, match=r"instances\.json lists its classes as box, disc, bar .*metainfo\.classes as disc, bar, box;"
    ):
        run_tool("train", config, tmp_path / "order", monkeypatch)
    torch.save({"state_dict": {"backbone.pos_embed": torch.zeros(1, 16, 256)}}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"The checkpoint leaves \d+ of the model's tensors unfilled \(backbone\."):
        run_tool("test", small_recipe(split=listed), tmp_path / "test", monkeypatch, str(tmp_path / "other.pth"))
