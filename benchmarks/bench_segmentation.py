"""Time the segmentation encoder, forward pass and training step, against its plain form with the same weights.

The plain form has biases of all pairs of tokens, attention with its weights written out and NCHW convolutions, as public code
has. `ratio` is plain over shipped, `over fp32` the plain form in fp32 over shipped. `share` is what part of the machine's
matrix-product rate the shipped encoder achieves: counted multiply-adds, three times the forward pass's in a training step, over
its time, against its own layers alone (the products of the first layer of each stage's MLP and of its two gradients, in turn
with the steps). MB are the peak above weights and images, as two runs show it, on a CPU in a process of their own.

Three more tables: how time and memory of the shipped forward pass grow with the picture; the encoder's part in a training step
of UPerNet at the paper's heads, untrained, 150 classes, on crops of noise of the first side, two at least; the counts of pixels
that mIoU needs of each picture, against mmseg's. `of bound` is the part of their time that merely reading both maps takes.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import torch
from mmengine.structures import PixelData
from torch import Tensor, nn

from convmae.backbones import ConvViTSeg
from convmae.benchmarks.bench_encoder import Case, Table, comparison, growth, part_of, read_case
from convmae.benchmarks.forms.plain_seg import PlainSegEncoder
from convmae.benchmarks.timing import Step, alternate
from convmae.engine.errors import UserError
from convmae.engine.machine.precision import autocast
from convmae.segmentation.config import ModelOptions, SegmentationConfig
from convmae.segmentation.data.layout import IGNORE
from convmae.segmentation.evaluation.scores import confusion_matrix
from convmae.segmentation.mmseg_parts import IoUMetric, SegDataSample
from convmae.segmentation.model.upernet import build_model

CLASSES = 150
SMALLEST = 80  # pixels whose E4 has more than one cell, which its batch norm needs
REGION = 50  # pixels a side of the regions that a map is made of


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns the rows of each table. Raises UserError for sizes that don't fit."""
    if args.map < 1:
        raise UserError(f"--map {args.map}: expected 1 or more pixels.")
    case = read_case(args, build, SMALLEST)
    return [row for name in args.tables for row in TABLES[name](case, args)]


def segmenter(case: Case, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns a row for each precision: a training step of UPerNet and one of its encoder alone."""
    case = case._replace(batch=max(2, case.batch))  # of the batch norm behind the pooling to one cell
    return [
        {"precision": name} | part_of("UPerNet", build_segmenter, segmenter_step, one, args.repeats)
        for name, one in case.precise(args.precision).items()
    ]


def counting(case: Case, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns a row for maps of regions and one for maps of noise: the counts of one picture by mmseg and as shipped."""
    rows = []
    for kind, region in (("regions", REGION), ("noise", 1)):
        prediction, truth = (found.to(case.device) for found in label_maps(args.map, region))
        steps: dict[str, Step] = {
            "mmseg": partial(IoUMetric.intersect_and_union, prediction, truth, CLASSES, IGNORE),
            "shipped": partial(confusion_matrix, prediction, truth, CLASSES),
            "reading": partial(_read, prediction, truth),
        }
        seconds = alternate(steps, args.repeats, case.device)
        rows.append(
            {
                "maps": kind,
                "pixels": args.map,
                "mmseg s": seconds["mmseg"],
                "shipped s": seconds["shipped"],
                "ratio": seconds["mmseg"] / seconds["shipped"],
                "reading s": seconds["reading"],
                "of bound": seconds["reading"] / seconds["shipped"],
            }
        )
    return rows


TABLES: dict[str, Table] = {
    "comparison": comparison,
    "growth": growth,
    "segmenter": segmenter,
    "counting": counting,
}


def build(form: str, case: Case) -> nn.Module:
    """Returns one form of the encoder; both have the same weights."""
    torch.manual_seed(0)
    shipped = ConvViTSeg(case.size, case.pixels, checkpoint_activations=case.checkpoint_activations)
    if form == "shipped":
        return shipped.to(case.device)
    plain = PlainSegEncoder(case.size, (case.pixels, case.pixels))
    plain.load_state_dict(shipped.state_dict())
    return plain.to(case.device)


def build_segmenter(case: Case, options: ModelOptions | None = None) -> nn.Module:
    """Returns UPerNet, at the paper's settings but for size and crop unless others are given."""
    torch.manual_seed(0)
    config = SegmentationConfig()
    config.model = options or config.model
    config.model.size, config.data.crop = case.size, case.pixels
    config.runtime.checkpoint_activations = case.checkpoint_activations
    return build_model(config, CLASSES).to(case.device).train()


def segmenter_step(model: nn.Module, case: Case) -> Step:
    """Returns a training step without its update."""
    truth = torch.randint(0, CLASSES, (case.batch, 1, case.pixels, case.pixels), device=case.device)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in truth]
    images = case.images()

    def step() -> None:
        model.zero_grad()
        with autocast(case.device, case.dtype):
            losses = model(images, samples, mode="loss")
        torch.stack([value for name, value in losses.items() if "loss" in name]).sum().backward()

    return step


def label_maps(side: int, region: int) -> tuple[Tensor, Tensor]:
    """Returns a prediction and a truth, int64 [side, side]: square regions, a tenth of the truth ignored, a fifth mistaken."""
    generator = torch.Generator().manual_seed(0)
    cells = -(-side // region)
    truth, other = torch.randint(0, CLASSES, (2, cells, cells), generator=generator)
    wrong, ignored = torch.rand(2, cells, cells, generator=generator)
    prediction = torch.where(wrong < 0.2, other, truth)
    truth = truth.masked_fill(ignored < 0.1, IGNORE)
    return tuple(
        found.repeat_interleave(region, 0).repeat_interleave(region, 1)[:side, :side].contiguous()
        for found in (prediction, truth)
    )  # type: ignore[return-value]  # two


def _read(*maps: Tensor) -> None:
    for found in maps:
        found.sum()
