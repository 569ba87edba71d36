"""The whole model of each task, with what it takes of one picture: what operations are counted on."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn

from convmae.backbones import FAMILIES, ConvViT, ConvViTDet, ConvViTEncoder, ConvViTSeg
from convmae.classification.config import FinetuningConfig
from convmae.detection.config import DetectionConfig
from convmae.detection.model.mask_rcnn import MaskRCNN
from convmae.pretraining import METHODS, MaskedAutoencoder
from convmae.pretraining.config import PIXELS, PretrainingConfig
from convmae.pretraining.reconstructors import MixtureOfReconstructors
from convmae.pretraining.teachers import build_teacher
from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.model.upernet import build_model

CLASSES = {"classifier": 1000, "detection": 80, "segmentation": 150}
BOXES, MASKS = 1000, 100  # a test picture's proposals and detections


class Pretraining(nn.Module):
    """A pass as in training: the pixels of removed patches alone are predicted."""

    def __init__(self, model: MaskedAutoencoder, tokens: int, ratio: float) -> None:
        super().__init__()
        self.model, self.noise, self.ratio = model, torch.rand(1, tokens), ratio
        kept = model.masks(self.noise, ratio)
        model.masks = lambda noise, mask_ratio: kept  # type: ignore[method-assign]  # tracing makes tensors of numbers

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images, noise=self.noise, predict="removed").loss


class Mixture(nn.Module):
    """A pass as in training on targets of teachers, which are made of random numbers where they come from files.

    Changes the model in place, which then has masks for any number of pictures.
    """

    def __init__(self, pretraining: Pretraining, config: PretrainingConfig, sides: tuple[int, int]) -> None:
        super().__init__()
        model, self.tokens, self.ratio = pretraining.model, pretraining.noise.shape[1], pretraining.ratio
        vars(model).pop("masks", None)
        files = dict.fromkeys(target.teacher for target in config.targets)
        teachers = {name: build_teacher(name, model, files, sides) for name in files}
        self.mixture = MixtureOfReconstructors(model, config.targets, teachers, config.model.branch_depth)

    def forward(self, images: Tensor) -> Tensor:
        return self.mixture(images, self.ratio, torch.rand(len(images), self.tokens))["loss"]


class Encoder(nn.Module):
    """The three stages of ConvViT, on the whole picture."""

    def __init__(self, model: ConvViTEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.forward_features(images)


class Detector(nn.Module):
    """Mask R-CNN without what depends on the picture: each box head on BOXES boxes, the mask head on MASKS."""

    def __init__(self, model: MaskRCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, boxes: Tensor) -> tuple[Tensor, ...]:
        pyramid = self.model.features(images)
        objectness, deltas = self.model.rpn.head(pyramid)
        levels, heads = pyramid[:-1], self.model.roi_heads
        labels = torch.zeros(MASKS, dtype=torch.int64)
        masks = heads.mask_outputs(levels, [boxes[:MASKS]], labels)
        found = chain(*(heads.box_outputs(levels, [boxes], number) for number in range(len(heads.stages))))
        return *objectness, *deltas, *found, masks


def build(
    task: str, size: str, height: int, width: int, ratio: float, channels: int = 3
) -> tuple[nn.Module, list[Tensor]]:
    """Returns the model of a task and what it takes, one picture of those channels, that height and that width."""
    area, longer, config = (height, width), max(height, width), configured(task, size, ratio, channels)
    if config is not None:
        return build_from(config, height, width)
    bare: dict[str, Callable[[], nn.Module]] = {
        "encoder": lambda: Encoder(ConvViT(size, 0, area, in_chans=channels)),
        "detection_backbone": lambda: ConvViTDet(size, longer, in_chans=channels),
        "segmentation_backbone": lambda: ConvViTSeg(size, longer, in_chans=channels),
    }
    return bare[task](), [torch.zeros(1, channels, height, width)]


def with_teachers(model: nn.Module, config: Any, height: int, width: int) -> nn.Module:
    """Returns a model of `build_from` with all that its training computes, teachers too; the model itself where it has none.

    Raises ValueError or UserError for teachers that can't be.
    """
    if not isinstance(config, PretrainingConfig) or all(target.teacher == PIXELS for target in config.targets):
        return model
    return Mixture(cast(Pretraining, model), config, (height, width))


def configured(task: str, size: str, ratio: float, channels: int) -> Any:
    """Returns the tree of a task's default model, or None where the task is an encoder alone."""
    schemas = {**dict.fromkeys(METHODS, PretrainingConfig), "classifier": FinetuningConfig}
    schemas |= {"detection": DetectionConfig, "cascade_detection": DetectionConfig, "segmentation": SegmentationConfig}
    if task not in schemas:
        return None
    config: Any = schemas[task]()
    config.model.size, config.model.in_chans = size, channels
    if task in METHODS:
        config.model.method, config.model.mask_ratio = task, ratio
    if task == "cascade_detection":
        config.model.cascade = True
    return config


def build_from(config: Any, height: int, width: int, classes: int = 0) -> tuple[nn.Module, list[Tensor]]:
    """Returns the model that a tree describes, and what it takes, one picture of that height and width.

    classes: 0 takes those of the task's usual data, `CLASSES`. Raises ValueError for options that make no model.
    """
    options, area, longer = config.model, (height, width), max(height, width)
    images = torch.zeros(1, options.in_chans, height, width)
    if isinstance(config, PretrainingConfig):
        given = {name: getattr(options, name) for name in ("decoder_dim", "decoder_depth", "decoder_heads")}
        given |= {"groups": options.groups} if options.method == "fastconvmae" else {}
        model = METHODS[options.method](options.size, area, in_chans=options.in_chans, **given)
        return Pretraining(model, -(-height // 16) * -(-width // 16), options.mask_ratio), [images]
    if isinstance(config, FinetuningConfig):
        kind = FAMILIES[options.arch]
        return kind(options.size, classes or CLASSES["classifier"], area, in_chans=options.in_chans), [images]
    if isinstance(config, DetectionConfig):
        corners = torch.rand(BOXES, 2, 2) * torch.tensor([width, height])
        boxes = torch.cat([corners.amin(1), corners.amax(1)], dim=1)
        return Detector(MaskRCNN(options, classes or CLASSES["detection"], longer)), [images, boxes]
    config.data.crop = longer
    segmenter = build_model(config, classes or CLASSES["segmentation"])
    segmenter.forward = segmenter._forward
    return segmenter, [images]
