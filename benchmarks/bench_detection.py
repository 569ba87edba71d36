"""Time the detection encoder, forward pass and training step, against its plain form with the same weights.

The plain form has explicit windows, biases of all pairs of tokens and NCHW convolutions, as public code has. `ratio` is plain
over shipped, `over fp32` the plain form in fp32 over shipped. `share` is what part of the machine's matrix-product rate the
shipped encoder achieves: counted multiply-adds, three times the forward pass's in a training step, over its time, against its
own layers alone (the products of the first layer of each stage's MLP and of its two gradients, in turn with the steps). MB
are the peak above weights and images, as two runs show it, on a CPU in a process of their own.

Two more tables: how time and memory of the shipped forward pass grow with the picture; the encoder's part in a training step
of Mask R-CNN at the paper's heads, untrained, 80 classes, on pictures of noise with 20 objects.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor, nn

from convmae.backbones import ConvViTDet
from convmae.benchmarks.bench_encoder import Case, Table, comparison, growth, part_of, read_case
from convmae.benchmarks.forms.plain_det import PlainDetEncoder
from convmae.benchmarks.timing import Step
from convmae.detection.config import ModelOptions
from convmae.detection.model.mask_rcnn import MaskRCNN
from convmae.engine.errors import UserError
from convmae.engine.machine.precision import autocast

CLASSES, OBJECTS = 80, 20


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns the rows of each table. Raises UserError for sizes that don't fit."""
    if args.window < 1:
        raise UserError(f"--window {args.window}: expected 1 or more tokens.")
    case = read_case(args, build)._replace(window=args.window)
    return [row for name in args.tables for row in TABLES[name](case, args)]


def detector(case: Case, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns a row for each precision: a training step of Mask R-CNN and one of its encoder alone."""
    return [
        {"precision": name} | part_of("Mask R-CNN", build_detector, detector_step, one, args.repeats)
        for name, one in case.precise(args.precision).items()
    ]


TABLES: dict[str, Table] = {"comparison": comparison, "growth": growth, "detector": detector}


def build(form: str, case: Case) -> nn.Module:
    """Returns one form of the encoder; both have the same weights."""
    torch.manual_seed(0)
    shipped = ConvViTDet(case.size, case.pixels, case.window, checkpoint_activations=case.checkpoint_activations)
    if form == "shipped":
        return shipped.to(case.device)
    plain = PlainDetEncoder(case.size, (case.pixels, case.pixels), (case.window, case.window))
    plain.load_state_dict(shipped.state_dict())
    return plain.to(case.device)


def build_detector(case: Case, options: ModelOptions | None = None) -> MaskRCNN:
    """Returns Mask R-CNN, at the paper's settings but for size and window unless others are given."""
    torch.manual_seed(0)
    options = options or ModelOptions(size=case.size, window_size=case.window)
    return MaskRCNN(options, CLASSES, case.pixels, case.checkpoint_activations).to(case.device).train()


def detector_step(model: nn.Module, case: Case) -> Step:
    """Returns a training step without its update."""
    images, targets = case.images(), [objects(case) for _ in range(case.batch)]

    def step() -> None:
        model.zero_grad()
        with autocast(case.device, case.dtype):
            losses = model(images, targets)[1]
        torch.stack(list(losses.values())).sum().backward()

    return step


def objects(case: Case, classes: int = CLASSES) -> dict[str, Tensor]:
    """Returns objects of an eighth to a half of a picture's side; their masks fill their boxes."""
    sides = torch.rand(OBJECTS, 2) * 3 / 8 + 1 / 8
    corners = torch.rand(OBJECTS, 2) * (1 - sides)
    boxes = torch.cat([corners, corners + sides], dim=1) * case.pixels
    cells = torch.arange(case.pixels)
    across, down = ((boxes[:, i, None] <= cells) & (cells < boxes[:, i + 2, None]) for i in (0, 1))
    found = {
        "boxes": boxes,
        "labels": torch.arange(OBJECTS) % classes,
        "masks": (down[:, :, None] & across[:, None]).to(torch.uint8),
    }
    return {name: value.to(case.device) for name, value in found.items()}
