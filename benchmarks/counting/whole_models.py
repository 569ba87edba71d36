"""The whole model of each task, with what it takes of one picture: what operations are counted on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import chain

import torch
from torch import Tensor, nn

from convmae.backbones import ConvViT, ConvViTDet, ConvViTEncoder, ConvViTSeg
from convmae.detection.config import DetectionConfig
from convmae.detection.model.mask_rcnn import MaskRCNN
from convmae.pretraining import METHODS, MaskedAutoencoder
from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.model.upernet import build_model

CLASSES = {"classifier": 1000, "detection": 80, "cascade_detection": 80, "segmentation": 150}
BOXES, MASKS = 1000, 100  # a test picture's proposals and detections


class Pretraining(nn.Module):
    """A pass as in training: the pixels of removed patches alone are predicted."""

    def __init__(self, model: MaskedAutoencoder, tokens: int, ratio: float) -> None:
        super().__init__()
        self.model, self.noise = model, torch.rand(1, tokens)
        kept = model.masks(self.noise, ratio)
        model.masks = lambda noise, mask_ratio: kept  # type: ignore[method-assign]  # tracing makes tensors of numbers

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images, noise=self.noise, predict="removed").loss


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
    images, longer = torch.zeros(1, channels, height, width), max(height, width)
    tokens = -(-height // 16) * -(-width // 16)
    corners = torch.rand(BOXES, 2, 2) * torch.tensor([width, height])
    boxes = torch.cat([corners.amin(1), corners.amax(1)], dim=1)

    def detector() -> nn.Module:
        config = DetectionConfig()
        config.model.size, config.model.in_chans = size, channels
        config.model.cascade = task == "cascade_detection"
        return Detector(MaskRCNN(config.model, CLASSES[task], longer))

    def segmenter() -> nn.Module:
        config = SegmentationConfig()
        config.model.size, config.model.in_chans, config.data.crop = size, channels, longer
        model = build_model(config, CLASSES[task])
        model.forward = model._forward
        return model

    def pretraining(method: type[MaskedAutoencoder]) -> nn.Module:
        return Pretraining(method(size, area, in_chans=channels), tokens, ratio)

    area = (height, width)
    models: dict[str, tuple[Callable[[], nn.Module], list[Tensor]]] = {
        **{name: (partial(pretraining, method), [images]) for name, method in METHODS.items()},
        "encoder": (lambda: Encoder(ConvViT(size, 0, area, in_chans=channels)), [images]),
        "classifier": (lambda: ConvViT(size, CLASSES[task], area, in_chans=channels), [images]),
        "detection_backbone": (lambda: ConvViTDet(size, longer, in_chans=channels), [images]),
        "detection": (detector, [images, boxes]),
        "cascade_detection": (detector, [images, boxes]),
        "segmentation_backbone": (lambda: ConvViTSeg(size, longer, in_chans=channels), [images]),
        "segmentation": (segmenter, [images]),
    }
    make, inputs = models[task]
    return make(), inputs
