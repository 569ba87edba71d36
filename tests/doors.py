"""Every public way of reading weights, with a tiny model's weights that it takes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from tiny_detector import CLASSES, small_config

from convmae.backbones import ConvViT, ConvViTDet, ConvViTSeg, ViT, load_checkpoint, load_encoder
from convmae.backbones.weights.checkpoint import fit_state
from convmae.backbones.weights.weight_files import read_weights
from convmae.classification.config import FinetuningConfig
from convmae.detection.config import DetectionConfig
from convmae.detection.convert_file import convert
from convmae.detection.model.convert_mmdet import detector_to_mmdet
from convmae.detection.model.detection_model import DetectionModel
from convmae.detection.model.weights import init_weights, load_detector, to_detectron2
from convmae.detection.predict import open_detector
from convmae.engine.class_lists import known_classes
from convmae.engine.commands.given_pictures import kept_reading
from convmae.engine.config import run_config
from convmae.engine.export import encoders
from convmae.engine.files import read_config, read_meta
from convmae.pretraining import METHODS, teachers
from convmae.pretraining.weights import load_pretrained
from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.model.upernet import build_model
from convmae.segmentation.model.weights import load_weights

DIMS = {"embed_dims": (8, 8, 16), "depths": (1, 1, 1), "num_heads": 2}
VIT_DIMS = {"embed_dim": 16, "depth": 1, "num_heads": 2}
FIRST = ["patch_embed1.proj.weight", "pos_embed", "blocks3.0.mlp.fc1.weight"]


class Door(NamedTuple):
    state: Callable[[], dict[str, Any]]  # weights that it takes
    names: list[str]  # that it reads shapes of
    use: Callable[[Path], object]


def _detector() -> DetectionModel:
    torch.manual_seed(0)
    return DetectionModel(small_config(size=DIMS), CLASSES)


def _segmentation() -> SegmentationConfig:
    config = SegmentationConfig()
    config.model.size, config.model.decode_channels, config.model.aux_channels = DIMS, 8, 8  # type: ignore[assignment]
    config.data.crop, config.model.pool_scales = 32, [1]
    return config


def _detect(use: Callable[[DetectionModel, Path], None], path: Path) -> None:
    use(DetectionModel(small_config(size=DIMS), CLASSES), path)


def _init(model: DetectionModel, path: Path) -> None:
    init_weights(model, str(path))


def _segment(path: Path) -> None:
    load_weights(build_model(_segmentation(), 3), path, ["a", "b", "c"])


def _convert(path: Path, to: str = "detectron2", config: str | None = None) -> None:
    given = argparse.Namespace(
        weights=path, output=path.with_suffix(".converted.pth"), to=to, overwrite=True, annotations=None,
        config=config, cfg_options=[],
    )  # fmt: skip
    convert(given)


def _export(path: Path) -> None:
    _, model, _ = encoders.read_model(path, None)
    encoders.read_classes(path, model.num_classes)


def _teacher(path: Path) -> None:
    teachers._create("test_vit", str(path))


def _strictly(path: Path) -> None:
    load_checkpoint(ConvViT(DIMS, 3), path, strict=True)


def _fitted(path: Path) -> None:
    """As timm loads a file of a whole model: by load_state_dict, which a hook fits."""
    state = read_weights(path)[0]
    model = ConvViT(DIMS, 3)
    model.register_load_state_dict_pre_hook(fit_state)
    with suppress(RuntimeError):  # PyTorch's own list of names and sizes that differ
        model.load_state_dict(state)


def _beside(path: Path) -> None:
    read_config(path)
    known_classes(read_meta(path))


def _loads(kind: type[Any], dims: dict[str, Any]) -> Callable[[Path], object]:
    return lambda path: load_checkpoint(kind(dims), path)


def _makes(kind: type[Any], dims: dict[str, Any], **options: Any) -> Callable[[], dict[str, Any]]:
    def make() -> dict[str, Any]:
        torch.manual_seed(0)
        return kind(dims, **options).state_dict()

    return make


_convvit = _makes(ConvViT, DIMS, num_classes=3)
_vit = _makes(ViT, VIT_DIMS, num_classes=3)
_det = _makes(ConvViTDet, DIMS, img_size=64)
_own_det = _makes(ConvViTDet, DIMS, img_size=64, position="decomposed")
_seg = _makes(ConvViTSeg, DIMS, img_size=64)
_mae = _makes(METHODS["convmae"], DIMS, decoder_dim=16, decoder_depth=1, decoder_heads=2)
_VIT_FIRST = ["patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight", "head.weight"]
_DETECTOR = ["model.backbone.pos_embed", "model.roi_heads.box_predictor.cls_score.bias", "_extra_state"]

DOORS: dict[str, Door] = {
    "load_checkpoint": Door(_convvit, [*FIRST, "head.weight", "head.bias"], _loads(ConvViT, DIMS)),
    "load_checkpoint, strict": Door(_convvit, [], _strictly),
    "load_checkpoint, ViT": Door(_vit, _VIT_FIRST, _loads(ViT, VIT_DIMS)),
    "load_checkpoint, detection": Door(_own_det, [*FIRST, "blocks3.0.attn.rel_pos_h"], _loads(ConvViTDet, DIMS)),
    "load_checkpoint, segmentation": Door(_seg, ["pos_embed", "blocks3.0.attn.relative_position_bias_table"],
                                          _loads(ConvViTSeg, DIMS)),
    "from_checkpoint": Door(_convvit, [*FIRST, "head.weight"], ConvViT.from_checkpoint),
    "from_checkpoint, ViT": Door(_vit, _VIT_FIRST, ViT.from_checkpoint),
    "from_checkpoint, detection": Door(_det, [*FIRST, "windowed_rel_pos_bias.relative_position_bias_table"],
                                       ConvViTDet.from_checkpoint),
    "from_checkpoint, decomposed": Door(_own_det, ["blocks3.0.attn.rel_pos_h", "blocks3.0.attn.rel_pos_w"],
                                        ConvViTDet.from_checkpoint),
    "from_checkpoint, segmentation": Door(_seg, ["blocks3.0.attn.relative_position_bias_table"],
                                          ConvViTSeg.from_checkpoint),
    "from_checkpoint, pretraining": Door(_mae, [*FIRST, "decoder_embed.weight", "decoder_pos_embed"],
                                         METHODS["convmae"].from_checkpoint),
    "load_pretrained of a module": Door(_convvit, FIRST, lambda path: ConvViT(DIMS, 3).load_pretrained(path)),
    "timm's whole model": Door(_convvit, FIRST, _fitted),
    "load_encoder": Door(_convvit, FIRST, load_encoder),
    "pretraining, load_pretrained": Door(_mae, ["decoder_embed.weight"], load_pretrained),
    "teacher": Door(lambda: timm.create_model("test_vit", num_classes=0).state_dict(), ["pos_embed"], _teacher),
    "detection, init": Door(lambda: _detector().state_dict(), _DETECTOR, partial(_detect, _init)),
    "detection, load": Door(lambda: _detector().state_dict(), _DETECTOR, partial(_detect, load_detector)),
    "detection, open": Door(lambda: _detector().state_dict(), _DETECTOR,
                                partial(open_detector, small_config(size=DIMS))),
    "segmentation, load": Door(lambda: build_model(_segmentation(), 3).state_dict(), ["decode_head.conv_seg.bias"], _segment),
    "convert": Door(lambda: _detector().state_dict(), _DETECTOR, _convert),
    "convert to ours": Door(lambda: from_ours(), ["roi_heads.box_predictor.cls_score.bias", "pixel_mean"],
                            partial(_convert, to="convmae")),
    "convert to mmdet": Door(lambda: _detector().state_dict(), _DETECTOR,
                              partial(_convert, to="mmdet", config="mask_rcnn_small_512px.yaml")),
    "convert to ours, mmdet's": Door(lambda: in_mmdet(), ["roi_head.bbox_head.fc_cls.bias", "rpn_head.rpn_cls.weight"],
                                    partial(_convert, to="convmae")),
    "export": Door(_convvit, ["head.weight"], _export),
    "beside": Door(_convvit, [], _beside),
    "recipe of a classifier": Door(_convvit, [], lambda path: run_config(FinetuningConfig, path, default="finetune_tiny.yaml")),
    "recipe of a detector": Door(_convvit, [], lambda path: run_config(DetectionConfig, path)),
    "recipe of a segmenter": Door(_convvit, [], lambda path: run_config(SegmentationConfig, path)),
    "recipe of pictures": Door(_convvit, [], kept_reading),
}  # fmt: skip


def from_ours() -> dict[str, Any]:
    """Returns a detector's weights under detectron2's names."""
    state = {name.removeprefix("model."): value for name, value in _detector().state_dict().items()}
    return {**to_detectron2(state), "pixel_mean": torch.ones(3, 1, 1)}


def in_mmdet() -> dict[str, Any]:
    """Returns a detector's weights under mmdet's names."""
    state = {name.removeprefix("model."): value for name, value in _detector().state_dict().items()}
    return detector_to_mmdet(state, "a detector")[0].state
