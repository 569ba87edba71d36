"""Encoders and classifiers as graphs, from normalised pictures of any size."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convmae.backbones import FAMILIES, Classifier, ConvViT, ViT, family_of
from convmae.backbones.weights.shapes import STRIDE
from convmae.engine.class_lists import known_classes
from convmae.engine.errors import UserError
from convmae.engine.export.graphs import Ports, check_shapes, run
from convmae.engine.files import read_meta

# Batch, height and width where the graph is compared with PyTorch; two are no multiples of the stride.
SIZES = ((1, 64, 64), (2, 96, 160), (1, 97, 131), (3, 33, 250))
TOLERANCE = 1e-3  # of an output's largest value: more than other kernels differ by, less than a wrong graph does
EPSILON = 1e-12  # of outputs that are all zero

# In the file of a detector or segmenter, what its stage 3 has and an encoder of its own lacks.
_OTHER_STAGE3 = re.compile(r"(?:^|\.)(?:blocks[123]?|\w+_rel_pos_bias)\.")


class Pyramid(nn.Module):
    """E1, E2, E3 of a ConvViT."""

    outputs = ("E1", "E2", "E3")

    def __init__(self, model: ConvViT) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.model.forward_pyramid(images)


class Tokens(nn.Module):
    """A plain ViT's last class token, [B, C], and its patches as a map [B, C, ceil(H / 16), ceil(W / 16)]."""

    outputs = ("class_token", "patches")

    def __init__(self, model: ViT) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.model.forward_tokens(images)
        rows, columns = ((side + STRIDE - 1) // STRIDE for side in images.shape[-2:])
        patches = tokens[:, 1:].transpose(1, 2)
        return tokens[:, 0], patches.reshape(patches.shape[0], patches.shape[1], rows, columns)


def read_model(weights: Path, part: str | None) -> tuple[nn.Module, Classifier, str]:
    """Returns what to export, the encoder in it, and which part that is: without `part`, a classifier if there is a head.

    Raises:
        UserError: the file lacks what the part needs, or its encoder computes something else than pretraining's.
        CheckpointError: it can't be read safely, or holds no encoder.
    """
    model = FAMILIES[family_of(weights)].from_checkpoint(weights).eval()
    report = model.load_report
    # A pretraining checkpoint may hold an EMA teacher, whose encoder is another one beside the model's.
    if other := [name for name in report.unexpected if _OTHER_STAGE3.search(name) and "teachers." not in name]:
        raise UserError(
            f"{weights} holds an encoder of detection or segmentation ({other[0]}, ...), whose windows and biases the graph "
            "would lack; expected a pretrained or a fine-tuned encoder."
        )
    head = ("fc_norm.", "head.")
    if missing := [name for name in report.missing if not name.startswith(head)]:
        raise UserError(f"{weights} is no whole encoder: it lacks {', '.join(missing[:3])}, ...")
    lacking = [name for name in report.missing if name.startswith(head)]
    if part == "classifier" and lacking:
        raise UserError(
            f"{weights} has no classifier: it lacks {', '.join(lacking)}. Export its encoder: --part encoder."
        )
    if part == "encoder" or lacking:
        return (Tokens(model) if isinstance(model, ViT) else Pyramid(model)).eval(), model, "encoder"  # type: ignore[arg-type]
    return model, model, "classifier"


def ports(module: nn.Module, fixed: bool) -> Ports:
    """Returns the graph's input and outputs; a batch of any number, and pictures of any size unless it is fixed."""
    free = {0: "batch"} if fixed else {0: "batch", 2: "height", 3: "width"}
    names: Sequence[str] = getattr(module, "outputs", ("logits",))
    return Ports("images", free, {name: {0: "batch"} for name in names})


def example(model: Classifier, fixed: tuple[int, int] | None) -> Tensor:
    """Returns a batch to trace with; not of the model's own grid, where positions would not be resampled."""
    rows, columns = model.grid_size
    height, width = fixed or ((rows + 1) * STRIDE, (rows + columns + 1) * STRIDE)
    return torch.zeros(2, model.in_chans, height, width)


def read_classes(weights: Path, logits: int) -> list[str]:
    """Returns the names of a classifier's classes that stand in its file, or []. Raises UserError for fewer or more."""
    meta = read_meta(weights)
    names = list(map(str, (meta.get("dataset_meta") or {}).get("classes") or known_classes(meta)))
    if names and len(names) != logits:
        raise UserError(
            f"{weights} names {len(names)} classes for {logits} logits; expected a class for each: the model.pth of a run."
        )
    return names


def compare(
    module: nn.Module, session: Any, sizes: Sequence[tuple[int, int, int]], channels: int = 3
) -> tuple[list[str], dict[str, float]]:
    """Returns a line for each size (batch, height, width) on how the graph's outputs differ from PyTorch's, and the most.

    A difference is in parts of the output's largest value. Raises UserError where the outputs disagree.
    """
    lines, worst = [], 0.0
    names = [output.name for output in session.get_outputs()]
    for batch, height, width in sizes:
        images = torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            expected = module(images)
        expected = (expected,) if isinstance(expected, Tensor) else expected
        found = [torch.from_numpy(output) for output in run(session, images.numpy())]
        check_shapes(names, expected, found, f"{height}x{width}")
        for name, ours, theirs in zip(names, expected, found, strict=True):
            difference = float((ours - theirs).abs().max() / ours.abs().max().clamp_min(EPSILON))
            if not difference <= TOLERANCE:
                raise UserError(
                    f"At {height}x{width} the graph's {name} differs from PyTorch by {difference:.1e} of its largest value, "
                    f"more than {TOLERANCE:g}; nothing is written. Try another --opset."
                )
            worst = max(worst, difference)
        lines.append(f"{batch} x {height}x{width}: {worst:.1e} of the largest value at most")
    return lines, {"outputs": worst}
