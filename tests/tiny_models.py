"""A segmenter and a classifier with random weights, as their runs leave them; a detector is in ``tiny_detector``."""

from pathlib import Path

import torch

from convmae.backbones import ConvViT
from convmae.classification.config import FinetuningConfig
from convmae.engine.config import load_config, to_yaml
from convmae.engine.files import save_weights
from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.model.upernet import build_model


def write_segmenter(path: Path) -> Path:
    options = ["data.crop=32", "data.scale=[64,48]", "inference.crop=32", "inference.stride=20", "inference.mode=slide"]
    options += ["model.decode_channels=16", "model.aux_channels=16", "runtime.device=cpu"]
    config = load_config(SegmentationConfig, "upernet_tiny_camvid.yaml", options)
    torch.manual_seed(0)
    model = build_model(config, 3)
    model.decode_head.conv_seg.weight.data *= 1000  # so that a pixel's class follows from what is there
    return save_weights(
        model.state_dict(), path, to_yaml(config), {"dataset_meta": {"classes": ["sky", "road", "car"]}}
    )


def write_classifier(path: Path) -> Path:
    options = ["model.img_size=32", "data.test_crop=0.8", "runtime.device=cpu"]
    config = load_config(FinetuningConfig, "finetune_tiny_96px.yaml", options)
    torch.manual_seed(0)
    model = ConvViT("tiny", num_classes=3, img_size=32)
    model.head.weight.data *= 100
    names = {"dataset_meta": {"classes": ["cat", "dog", "bird"], "folders": ["n01", "n02", "n03"]}}
    return save_weights(model.state_dict(), path, to_yaml(config), names)
