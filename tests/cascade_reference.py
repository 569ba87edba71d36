"""What detectron2's cascade of box heads was given for the numbers in tests/data/cascade.npz: maps, proposals and objects."""

from __future__ import annotations

import torch
from torch import Tensor

from convmae.detection.model.heads import BoxPredictor, box_head, mask_head, mask_predictor
from convmae.detection.model.mask_rcnn import BOX_STAGES
from convmae.detection.model.pooler import Pooler
from convmae.detection.model.roi_heads import BoxStage, DetectionHeads

SIDE, STRIDES, CHANNELS, CLASSES, HIDDEN, CANONICAL = 128, (4, 8, 16, 32), 16, 5, 32, 24
CONVS = [CHANNELS] * 2  # of the box heads and of the mask head
GAINS = {"cls_score": 3, "bbox_pred": 0.8, "predictor": 2}
WEIGHT_SEED, INPUT_SEED = 11, 7
SCORE_THRESHOLD, DETECTIONS = 0.3, 50
SAMPLED = 4 * 200  # enough for all candidates to be taken, whoever samples
SIZES = [(SIDE, SIDE), (100, SIDE)]  # of the two pictures, height and width


def maps() -> list[Tensor]:
    """p2 to p5, [2, CHANNELS, SIDE / stride, SIDE / stride]."""
    generator = torch.Generator().manual_seed(INPUT_SEED)
    return [torch.randn(2, CHANNELS, SIDE // stride, SIDE // stride, generator=generator) for stride in STRIDES]


def pictures() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """The proposals [130, 4] of two pictures, and their objects: boxes [4, 4], labels [4], and ellipses as masks [4, H, W].

    Of the proposals 100 lie about the objects and 10 beyond the picture, where nothing is left of them once they are moved.
    """
    generator = torch.Generator().manual_seed(INPUT_SEED + 1)
    proposals, targets = [], []
    for height, width in SIZES:
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
                "labels": torch.randint(0, CLASSES, (4,), generator=generator),
                "masks": across**2 + along**2 <= 0.25,
            }
        )
    return proposals, targets


def our_heads() -> DetectionHeads:
    """This project's heads of those sizes, with norms over channels, untrained."""
    stages = [
        BoxStage(box_head(CHANNELS, 7, CONVS, [HIDDEN], "ln"), BoxPredictor(HIDDEN, CLASSES, moves=1), matcher, coder)
        for matcher, coder in BOX_STAGES
    ]
    masks = (
        Pooler(14, STRIDES, CANONICAL),
        mask_head(CHANNELS, CONVS, "ln"),
        mask_predictor(CHANNELS, CLASSES),
    )
    return DetectionHeads(Pooler(7, STRIDES, CANONICAL), stages, masks, SAMPLED, SCORE_THRESHOLD, 0.5, DETECTIONS)
