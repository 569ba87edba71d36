"""A training step of each model at tiny size, with the structure of the large ones: what is counted where nothing is timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from mmengine.structures import PixelData
from torch import Tensor, nn

from convmae.backbones import ConvViT
from convmae.benchmarks.bench_detection import objects
from convmae.benchmarks.bench_encoder import Case
from convmae.classification.model import ClassificationModel
from convmae.detection.config import DetectionConfig
from convmae.detection.model.mask_rcnn import MaskRCNN
from convmae.pretraining import ConvMAE, FastConvMAE, MaskedAutoencoder
from convmae.pretraining.config import PIXELS, Target
from convmae.pretraining.reconstructors import MixtureOfReconstructors
from convmae.pretraining.teachers import build_teacher
from convmae.pretraining.train import PretrainingModel
from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.mmseg_parts import SegDataSample
from convmae.segmentation.model.upernet import build_model

CLASSES = 5
Size = str | Mapping[str, Any]


class TrainingStep(NamedTuple):
    """A model, its methods that `runtime.compile` compiles, what it takes, and its loss of that."""

    model: nn.Module
    compiled: Sequence[Callable]
    batch: Sequence[object]
    loss: Callable[[], Tensor]

    def run(self) -> Tensor:
        """Does a forward and a backward pass and returns the loss."""
        self.model.zero_grad()
        loss = self.loss()
        loss.backward()
        return loss.detach()


def build(name: str, size: Size = "tiny", checkpoint_activations: bool = False) -> TrainingStep:
    """Returns the step of one of `MODELS`, its weights and inputs always the same; the size is the encoder's, or its dims."""
    torch.manual_seed(0)
    return MODELS[name](size, checkpoint_activations)


def _pretraining(method: type[MaskedAutoencoder], teachers: Sequence[str], size: Size, recompute: bool) -> TrainingStep:
    side, batch = 64, 4
    model = method(size, side, decoder_dim=64, decoder_depth=2, decoder_heads=2, checkpoint_activations=recompute)
    targets = [Target(teacher=name) for name in teachers]
    mixture = MixtureOfReconstructors(
        model, targets, {name: build_teacher(name, model, {}, (side, side)) for name in teachers}
    )
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
    noise = torch.rand(batch, (side // 16) ** 2)
    trained = PretrainingModel(mixture, 0.75).train()
    return TrainingStep(trained, mixture.static_methods(), (images, noise), lambda: trained(images, noise)["loss"])


def _classifier(size: Size, recompute: bool) -> TrainingStep:
    model = ConvViT(size, CLASSES, 64, 0.2, recompute)
    images, labels = torch.randn(4, 3, 64, 64), torch.arange(4)
    trained = ClassificationModel(model, 0.1).train()
    return TrainingStep(trained, [model.forward], (images, labels), lambda: trained(images, labels)["loss"])


def _detector(position: str, size: Size, recompute: bool) -> TrainingStep:
    options = DetectionConfig().model
    options.size, options.window_size, options.position = size, 3, position  # type: ignore[assignment]
    options.fpn_channels, options.box_hidden, options.mask_convs, options.roi_sampled = 16, [16], [16], 16
    model = MaskRCNN(options, CLASSES, 128, recompute).train()
    case = Case(lambda form, case: model, "", 128, 2, recompute, torch.device("cpu"))
    images, targets = case.images(), [objects(case, CLASSES) for _ in range(case.batch)]

    def loss() -> Tensor:
        return torch.stack(list(model(images, targets)[1].values())).sum()

    return TrainingStep(model, model.static_methods(), (images, targets), loss)


def _segmenter(size: Size, recompute: bool) -> TrainingStep:
    config = SegmentationConfig()
    config.model.size, config.data.crop = size, 128  # type: ignore[assignment]
    config.model.decode_channels = config.model.aux_channels = 16
    config.runtime.checkpoint_activations = recompute
    model = build_model(config, CLASSES).train()
    images, truth = torch.randn(2, 3, 128, 128), torch.randint(0, CLASSES, (2, 1, 128, 128))
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in truth]

    def loss() -> Tensor:
        found = model(images, samples, mode="loss")
        return torch.stack([value for name, value in found.items() if "loss" in name]).sum()

    return TrainingStep(model, [model.backbone.forward_pyramid], (images, samples), loss)


MODELS: dict[str, Callable[[Size, bool], TrainingStep]] = {
    "ConvMAE": partial(_pretraining, ConvMAE, [PIXELS]),
    "FastConvMAE": partial(_pretraining, FastConvMAE, [PIXELS]),
    "FastConvMAE, EMA teacher": partial(_pretraining, FastConvMAE, [PIXELS, "ema"]),
    "classifier": _classifier,
    "Mask R-CNN": partial(_detector, "shared"),
    "Mask R-CNN, decomposed positions": partial(_detector, "decomposed"),
    "UPerNet": _segmenter,
}
