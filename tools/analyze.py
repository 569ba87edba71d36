"""Print parameters, multiply-adds and activations by part, of one picture.

python tools/analyze.py fastconvmae --size base --img-size 224
python tools/analyze.py detection --size base --img-size 1024 --depth 2
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time to read
    import convmae.tools.starting  # noqa: F401

import argparse
import inspect
import sys
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from convmae.backbones import SIZES, ConvViT, ConvViTDet, ConvViTEncoder, ConvViTSeg
from convmae.benchmarks.complexity import Part, analyze
from convmae.detection.config import DetectionConfig
from convmae.detection.model.mask_rcnn import MaskRCNN
from convmae.engine.commands.cli import read_size, run_tool
from convmae.engine.errors import UserError
from convmae.pretraining import METHODS, MaskedAutoencoder
from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.model.upernet import build_model

CLASSES = {"classifier": 1000, "detection": 80, "segmentation": 150}
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
    """Mask R-CNN without what depends on the picture: the box head on BOXES boxes, the mask head on MASKS."""

    def __init__(self, model: MaskRCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, boxes: Tensor) -> tuple[Tensor, ...]:
        pyramid = self.model.features(images)
        objectness, deltas = self.model.rpn.head(pyramid)
        levels, heads = pyramid[:-1], self.model.roi_heads
        labels = torch.zeros(MASKS, dtype=torch.int64)
        masks = heads.mask_outputs(levels, [boxes[:MASKS]], labels)
        return *objectness, *deltas, *heads.box_outputs(levels, [boxes]), masks


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
        "segmentation_backbone": (lambda: ConvViTSeg(size, longer, in_chans=channels), [images]),
        "segmentation": (segmenter, [images]),
    }
    make, inputs = models[task]
    return make(), inputs


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit status."""
    parser = argparse.ArgumentParser(
        description=inspect.cleandoc(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tasks = (*METHODS, "encoder", "classifier", "detection_backbone", "detection")
    parser.add_argument("task", choices=(*tasks, "segmentation_backbone", "segmentation"), help="what to count")
    parser.add_argument("--size", choices=tuple(SIZES), default="base", help="size of the encoder (default base)")
    parser.add_argument(
        "--img-size", nargs="+", default=["224"], metavar="SIZE", help="pixels, as 224 or 480x640 (height x width)"
    )
    parser.add_argument("--in-chans", type=int, default=3, help="channels of the pictures (default 3, RGB)")
    parser.add_argument("--mask-ratio", type=float, default=0.75, help="of pretraining (default 0.75)")
    parser.add_argument("--depth", type=int, default=2, help="levels of names that are shown (default 2)")
    args = parser.parse_args(argv)

    def run() -> None:
        for given in args.img_size:
            height, width = read_size(given)
            try:
                model, inputs = build(args.task, args.size, height, width, args.mask_ratio, args.in_chans)
                parts, uncounted = analyze(model, inputs, args.depth)
            except ValueError as error:
                raise UserError(str(error)) from None
            print(f"\n{args.task}, {args.size}, one picture of {height} x {width} pixels")
            print(table(parts))
            if uncounted:
                print("not counted: " + ", ".join(f"{count} x {name}" for name, count in uncounted.items()))

    return run_tool(run)


def table(parts: Sequence[Part]) -> str:
    """Returns the counts as text, millions and billions (G) of them, parts set in by their depth."""
    wrapped = any(part.name == "model" for part in parts)
    rows = []
    for part in parts:
        name = part.name.removeprefix("model").removeprefix(".") if wrapped else part.name
        if wrapped and part.name == "model":
            continue
        label = "  " * (name.count(".") + 1) + name if name else "whole"
        rows.append(
            (
                label,
                f"{part.parameters / 1e6:.2f} M",
                f"{part.multiply_adds / 1e9:.3f} G",
                f"{part.activations / 1e6:.2f} M",
            )
        )
    head = ("part", "parameters", "multiply-adds", "activations")
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(4)]
    lines = [
        "  ".join(
            text.ljust(wide) if column == 0 else text.rjust(wide)
            for column, (text, wide) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *rows)
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
