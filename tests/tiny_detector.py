"""The recipe of a detector that trains in a second, for tests."""

from pathlib import Path

from convmae.detection.config import DetectionConfig
from convmae.engine.config import load_config


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
