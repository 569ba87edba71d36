"""Small encoders, a segmenter and a classifier, and their weights, for tests of files and of runs that start from them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from convmae.backbones import ConvViT
from convmae.classification.config import FinetuningConfig
from convmae.engine.config import load_config, to_yaml
from convmae.engine.files import save_weights
from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.model.upernet import build_model

DIMS = {"embed_dims": (8, 12, 16), "depths": (1, 2, 3), "num_heads": 2, "mlp_ratios": (2, 4, 3)}


State = dict[str, Tensor]


def classifier(img_size: int = 64, seed: int = 0) -> ConvViT:
    torch.manual_seed(seed)
    return ConvViT(DIMS, num_classes=5, img_size=img_size)


def random_state(model: torch.nn.Module, seed: int = 1) -> State:
    generator = torch.Generator().manual_seed(seed)
    values = {name: torch.randn(value.shape, generator=generator) for name, value in model.state_dict().items()}
    return {name: value.abs() if name.endswith("running_var") else value for name, value in values.items()}


def same(model: torch.nn.Module, state: State) -> bool:
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def write_encoder(path: Path, img_size: int = 64) -> Path:
    """Writes a tiny encoder as pretraining leaves one, without what tasks add, and returns its file."""
    torch.manual_seed(1)
    encoder = ConvViT("tiny", num_classes=0, img_size=img_size)
    torch.save({"model": {name: x for name, x in encoder.state_dict().items() if "fc_norm" not in name}}, path)
    return path


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


def plain_vit() -> State:
    """A masked autoencoder of another family: a few names are ours too."""
    shapes = {
        "cls_token": (1, 1, 16),
        "pos_embed": (1, 17, 16),
        "norm.weight": (16,),
        "patch_embed.proj.weight": (16, 3, 16, 16),
    }
    blocks = {
        f"blocks.{i}.attn.qkv.{kind}": (48, 16)[: 2 if kind == "weight" else 1]
        for i in range(24)
        for kind in ("weight", "bias")
    }
    return {name: torch.zeros(shape) for name, shape in (shapes | blocks).items()}


def write_segmenter(path: Path) -> Path:
    """Writes what a run of a segmenter leaves, with random weights."""
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
    """Writes what a run of a classifier leaves, with random weights."""
    options = ["model.img_size=32", "data.test_crop=0.8", "runtime.device=cpu"]
    config = load_config(FinetuningConfig, "finetune_tiny_96px.yaml", options)
    torch.manual_seed(0)
    model = ConvViT("tiny", num_classes=3, img_size=32)
    model.head.weight.data *= 100
    names = {"dataset_meta": {"classes": ["cat", "dog", "bird"], "folders": ["n01", "n02", "n03"]}}
    return save_weights(model.state_dict(), path, to_yaml(config), names)
