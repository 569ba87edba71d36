"""Detectors that train in a second, for tests."""

from pathlib import Path

import torch

from convmae.detection.config import DetectionConfig, DetectionDataOptions, ModelOptions
from convmae.detection.data.coco import read_coco
from convmae.detection.data.coco_records import Category
from convmae.detection.data.dataset import TrainSet, collate_train
from convmae.detection.model.detection_model import DetectionModel
from convmae.detection.model.mask_rcnn import MaskRCNN
from convmae.engine.config import load_config, save_config, to_yaml
from convmae.engine.files import save_weights

SIZE = 64  # of small_config's pictures
CLASSES = [Category(3, "box"), Category(7, "disc"), Category(90, "bar")]  # of write_run's detector


def write_run(folder: Path) -> None:
    """Writes what a run leaves: a detector with random weights, and its recipe beside it."""
    config = load_config(
        DetectionConfig,
        "mask_rcnn_tiny_256px.yaml",
        [
            "data.img_size=64", "model.fpn_channels=16", "model.box_hidden=[16]", "model.mask_convs=[16]", "model.norm=gn",
            "model.detections=5", "runtime.precision=fp32", "runtime.device=cpu",
        ],
    )  # fmt: skip
    torch.manual_seed(0)
    save_weights(DetectionModel(config, CLASSES).state_dict(), folder / "model.pth", to_yaml(config))
    save_config(config, folder / "config.yaml")


def random_detector(options: ModelOptions, classes: int, side: int, objectness: float = 4.0) -> MaskRCNN:
    """A detector whose outputs are neither constant nor saturated; ``objectness`` is how sure it is of anchors."""
    model = MaskRCNN(options, classes, side).eval()
    generator = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        if name.endswith("running_var"):
            value.fill_(1.0)
        elif value.ndim <= 1 and value.is_floating_point():
            value.copy_(0.1 * noise + name.endswith("weight"))
        elif value.ndim > 1:
            gain = {"cls_score": 0.5, "cls_logits": objectness, "bbox_pred": 0.125 * objectness}.get(
                name.split(".")[-2], 1.4
            )
            value.copy_(gain * noise / value[0].numel() ** 0.5)
    return model


def tiny_config(split: Path, *overrides: str) -> DetectionConfig:
    return load_config(
        DetectionConfig,
        "mask_rcnn_tiny_256px.yaml",
        [
            f"data.root={split}", "data.train_images=images", "data.train_annotations=instances.json",
            "data.val_images=images", "data.val_annotations=instances.json", "data.img_size=64", "data.batch_size=2",
            "data.workers=0", "model.fpn_channels=16", "model.box_hidden=[16]", "model.mask_convs=[16]",
            "model.roi_sampled=16", "model.score_threshold=0.01", "model.detections=5", "schedule.epochs=null",
            "schedule.steps=2", "schedule.warmup=1", "schedule.eval_every=0", "runtime.precision=fp32",
            "runtime.device=cpu", *overrides,
        ],
    )  # fmt: skip


def small_config(**model: object) -> DetectionConfig:
    options = ModelOptions(
        size="tiny", norm="gn", drop_path=0.0, fpn_channels=32, anchor_sizes=[8.0, 16.0, 32.0, 64.0, 128.0],
        canonical_size=32.0, rpn_convs=1, rpn_sampled=64, pre_nms_train=100, post_nms_train=50, pre_nms_test=50,
        post_nms_test=50, roi_sampled=32, box_convs=[], box_hidden=[64], mask_convs=[16],
    )  # fmt: skip
    for name, value in model.items():
        setattr(options, name, value)
    data = DetectionDataOptions(img_size=SIZE, jitter=[1.0, 1.0], flip=0.0)
    return DetectionConfig(model=options, data=data)


def batch_of(split: Path, config: DetectionConfig, pictures: tuple[int, ...]) -> dict:
    data = read_coco(split / "instances.json", split / "images", config.model.masks)
    train_set = TrainSet(data, config.data, config.model.masks)
    return collate_train([train_set[number] for number in pictures])
