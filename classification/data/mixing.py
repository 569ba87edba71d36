"""Mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899) between neighbours in a batch."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from convmae.classification.config import AugmentationOptions
from convmae.engine.errors import UserError
from convmae.engine.options import DataOptions


def check_pairs(augment: AugmentationOptions, data: DataOptions, world: int) -> None:
    """Raises UserError where parts of a batch of an odd number would be mixed: in other pairs than those of the whole batch."""
    parts = data.accumulate * world
    share = data.batch_size // parts
    if (augment.mixup or augment.cutmix) and parts > 1 and share % 2:
        raise UserError(
            f"data.batch_size {data.batch_size} in {parts} parts leaves {share} picture{'s' * (share > 1)} in each; expected "
            "an even number, as neighbours are mixed. Change the batch, data.accumulate or the number of processes, or set "
            "augment.mixup=0 augment.cutmix=0."
        )


def draw_mix(mixup: float, cutmix: float) -> Tensor:
    """Returns what one sample's mixing follows from, [4]: its own share, whether to cut, and where (x, y in 0..1).

    mixup, cutmix: parameters of the beta distributions, 0 for none; where both are given each has half the samples. Draws from
    the global ``random``, which the engine sets for each sample.
    """
    cut = cutmix > 0 and (mixup == 0 or random.random() < 0.5)
    parameter = cutmix if cut else mixup
    share = random.betavariate(parameter, parameter) if parameter > 0 else 1.0
    return torch.tensor([share, float(cut), random.random(), random.random()])


def mix(images: Tensor, targets: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Mixes each sample with its neighbour: 0 with 1, 2 with 3, ...; the last of an odd number stays as it is.

    images: [B, C, H, W]; targets: [B, classes], shares of each class; drawn: [B, 4] from ``draw_mix``. A pixel is the sample's
    in part w and its neighbour's in part 1 - w; mixup has one w for all pixels, cutmix 0 in a box and 1 around it. The targets
    are mixed by the mean of w.
    """
    count, _, height, width = images.shape
    place = torch.arange(count, device=images.device)
    neighbour = torch.where(place ^ 1 < count, place ^ 1, place)
    share, cut, x, y = (values.view(-1, 1, 1) for values in drawn.to(images).unbind(1))
    half = (1 - share).sqrt() / 2  # of the box's side, as a part of the picture's
    columns = (torch.arange(width, device=images.device) + 0.5) / width
    rows = (torch.arange(height, device=images.device) + 0.5) / height
    in_box = ((columns - x).abs() < half) & ((rows[:, None] - y).abs() < half)
    weight = torch.where(cut > 0, (~in_box).to(images.dtype), share.expand(-1, height, width))[:, None]
    part = weight.mean(dim=(2, 3))
    return (
        weight * images + (1 - weight) * images[neighbour],
        part * targets + (1 - part) * targets[neighbour],
    )
