"""The memory that a training step needs on a GPU beside what is kept whatever the batch, counted without one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from convmae.backbones.encoder import Encoder
from convmae.benchmarks.counting.communication import Held
from convmae.benchmarks.counting.fake_gpu import count_step
from convmae.benchmarks.counting.whole_models import Detector, Mixture, Pretraining
from convmae.detection.model.pooler import Pooler
from convmae.engine.pictures.images import normalize
from convmae.pretraining.teachers import TimmTeacher
from convmae.segmentation.model.upernet import UPerNet

_POSITIVE = 4  # of so many sampled boxes one has a mask, at most


class Activations(NamedTuple):
    """Bytes beside the weights of a step in bf16: the most of a forward pass, and of a whole step, gradients included."""

    batch: int
    forward: int
    step: int


def activations(model: nn.Module, images: Tensor, batch: int) -> Activations:
    """Returns what a step of ``batch`` pictures needs by `count_step`, bf16 copies of weights included.

    ``model`` and ``images``, [1, C, H, W], are of ``whole_models``, on any device. Not counted are the boxes of a
    detector's targets, and what PyTorch's allocator leaves unused.

    Raises ValueError for a batch that can't be trained on.
    """
    if batch < 2 and any(isinstance(part, nn.BatchNorm2d) for part in model.modules()):
        raise ValueError(f"{batch} picture a process: batch norm, which this model has, needs 2 in training")
    trained = copy.deepcopy(model).train()

    def make() -> Callable[[], Tensor]:
        _replace_tensors(trained)
        pictures = torch.zeros(batch, *images.shape[1:], dtype=torch.uint8)
        return lambda: _loss(trained, pictures)

    with mock.patch.object(Pooler, "forward", _pool_evenly):
        counts = count_step(make)
    return Activations(batch, counts.forward_peak, counts.peak)


def _replace_tensors(model: nn.Module) -> None:
    """Gives a model tensors made here and now; their memory is there before a step and isn't counted in it."""
    made: dict[int, Tensor] = {}  # one for all modules that share it

    def new(known: Tensor) -> Tensor:
        if id(known) not in made:
            value = torch.empty_strided(known.shape, known.stride(), dtype=known.dtype)
            value.untyped_storage()._counted = True  # type: ignore[attr-defined]
            is_parameter = isinstance(known, nn.Parameter)
            made[id(known)] = nn.Parameter(value, known.requires_grad) if is_parameter else value
        return made[id(known)]

    hidden = [part.network for part in model.modules() if isinstance(part, TimmTeacher)]
    for module in (part for root in (model, *hidden) for part in root.modules()):
        for tensors in (vars(module)["_parameters"], vars(module)["_buffers"]):
            tensors.update({name: new(known) for name, known in tensors.items() if known is not None})


def recompute(model: nn.Module, enable: bool) -> None:
    """Has encoders and decoders recompute activations in the backward pass, or not."""
    for part in model.modules():
        if isinstance(part, Encoder):
            part.set_grad_checkpointing(enable)


def memory_table(models: Sequence[tuple[Held, Sequence[Activations]]], processes: Sequence[int]) -> str:
    """Returns a table of models and batches: what a process needs in all, whole, and split over so many processes."""
    head = ["model", "pictures a process", "kept", "activations", "in all", *(f"--shard, {n}" for n in processes)]
    rows = [
        [
            held.name,
            str(one.batch),
            _gigabytes(held.kept),
            _gigabytes(one.forward),
            # Gradients fill while activations go, so that both are never there whole.
            _gigabytes(held.kept - held.gradients + max(one.step, one.forward, held.gradients)),
            *(_gigabytes(held.split(count) + one.forward) for count in processes),
        ]
        for held, batches in models
        for one in batches
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def _loss(model: nn.Module, images: Tensor) -> Tensor:
    """Returns a loss as a task's, of bytes [B, C, H, W]."""
    pictures, batch = normalize(images), len(images)
    if isinstance(model, Pretraining):
        vars(model.model).pop("masks", None)  # of one picture
        noise = torch.rand(batch, model.noise.shape[1])
        return model.model(pictures, model.ratio, noise, predict="removed").loss
    if isinstance(model, Mixture):
        return model(pictures)
    if isinstance(model, Detector):
        return _detector_loss(model, pictures)
    if isinstance(model, UPerNet):
        features = model.extract_feat(pictures)
        labels = torch.zeros(batch, *images.shape[2:], dtype=torch.int64)
        heads = [model.decode_head, *([model.auxiliary_head] if model.with_auxiliary_head else [])]
        return torch.stack([_segmentation_loss(head(features), labels) for head in heads]).sum()
    found = model(pictures)
    return _means([found] if isinstance(found, Tensor) else found)


def _means(outputs: Iterable[Tensor]) -> Tensor:
    return torch.stack([one.mean(dtype=torch.float32) for one in outputs]).sum()


def _segmentation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    scores = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    return F.cross_entropy(scores, labels)


def _detector_loss(detector: Detector, images: Tensor) -> Tensor:
    """As of a step whose every picture has all the boxes that are sampled, as in training on COCO."""
    model, sampled = detector.model, detector.model.roi_heads.sampler.count
    pyramid = model.features(images)
    objectness, deltas = model.rpn.head(pyramid)
    levels, heads = [level.float().contiguous() for level in pyramid[:-1]], model.roi_heads
    corners = torch.zeros(sampled, 4)
    boxes, masked = [corners] * len(images), [corners[: sampled // _POSITIVE]] * len(images)
    found = [*objectness, *deltas]
    for number in range(len(heads.stages)):
        found += heads.box_outputs(levels, boxes, number)
    labels = torch.zeros(len(images) * (sampled // _POSITIVE), dtype=torch.int64)
    found.append(heads.mask_outputs(levels, masked, labels))
    return _means(found)


def _pool_evenly(self: Pooler, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Any:
    """As `Pooler.forward`, where the boxes' sides are not known."""
    rois = torch.cat([F.pad(found, (1, 0), value=picture) for picture, found in enumerate(boxes)])
    parts = [
        roi_align(feature, some, self.size, 1 / stride, 0, aligned=True)
        for feature, stride, some in zip(features, self.strides, rois.chunk(len(self.strides)), strict=True)
    ]
    return torch.cat(parts)
