"""The reference outputs in tests/data."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from convmae.benchmarks.gpu.agreement.reference import (
    OWN_VALUES,
    difference,
    image,
    normal,
    read_reference,
    seeded_model,
    seeded_state,
)

__all__ = ["OWN_VALUES", "Cascade", "difference", "image", "normal", "reference", "seeded_model", "seeded_state"]


def reference(name: str) -> tuple[dict[str, list[int]], dict[str, np.ndarray]]:
    """Returns the public model's names with shapes, and its outputs with the seeds."""
    return read_reference(Path(__file__).resolve().parent / "data", name)


class Cascade:
    """What detectron2's cascade of heads was given for the numbers in cascade.npz: sizes, seeds, maps, proposals, objects."""

    SIDE, STRIDES, CHANNELS, CLASSES, HIDDEN, CANONICAL = 128, (4, 8, 16, 32), 16, 5, 32, 24
    CONVS: ClassVar = [CHANNELS] * 2  # of the box heads and of the mask head
    GAINS: ClassVar = {"cls_score": 3, "bbox_pred": 0.8, "predictor": 2}
    WEIGHT_SEED, INPUT_SEED = 11, 7
    SCORE_THRESHOLD, DETECTIONS = 0.3, 50
    SAMPLED = 4 * 200  # enough for all candidates to be taken, whoever samples
    SIZES: ClassVar = [(SIDE, SIDE), (100, SIDE)]  # of the two pictures, height and width

    @staticmethod
    def maps() -> list[Tensor]:
        """p2 to p5, [2, CHANNELS, SIDE / stride, SIDE / stride]."""
        generator = torch.Generator().manual_seed(Cascade.INPUT_SEED)
        return [
            torch.randn(2, Cascade.CHANNELS, Cascade.SIDE // stride, Cascade.SIDE // stride, generator=generator)
            for stride in Cascade.STRIDES
        ]

    @staticmethod
    def pictures() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        """The proposals [130, 4] of two pictures, and their objects: boxes [4, 4], labels [4], and ellipses as masks [4, H, W].

        Of the proposals 100 lie about the objects and 10 beyond the picture, where nothing is left of them once they are moved.
        """
        generator = torch.Generator().manual_seed(Cascade.INPUT_SEED + 1)
        proposals, targets = [], []
        for height, width in Cascade.SIZES:
            size = torch.tensor([width, height, width, height])
            centre = torch.rand(4, 2, generator=generator) * 0.6 + 0.2
            sides = torch.rand(4, 2, generator=generator) * 0.3 + 0.1
            objects = torch.cat([centre - sides / 2, centre + sides / 2], dim=1) * size
            about = objects.repeat(25, 1)
            wide = (about[:, 2:] - about[:, :2]).repeat(1, 2)
            about = about + 0.12 * wide * torch.randn(100, 4, generator=generator)
            corner, span = torch.rand(2, 20, 2, generator=generator) * 0.5
            anywhere = torch.cat([corner, corner + span + 0.02], dim=1) * size
            inside = torch.cat([about, anywhere]).clamp(min=0).minimum(size)
            beyond = torch.tensor([10.0, height + 10, 30, height + 30]) + torch.arange(10)[:, None]
            proposals.append(torch.cat([inside, beyond]))
            y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
            left, up, right, down = (side[:, None, None] for side in objects.unbind(1))
            across, along = (x - (left + right) / 2) / (right - left), (y - (up + down) / 2) / (down - up)
            targets.append(
                {
                    "boxes": objects,
                    "labels": torch.randint(0, Cascade.CLASSES, (4,), generator=generator),
                    "masks": across**2 + along**2 <= 0.25,
                }
            )
        return proposals, targets
