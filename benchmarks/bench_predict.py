"""Time ``predict`` against torchvision's maskrcnn_resnet50_fpn_v2, from files to masks in the pictures' pixels, in turn.

Random weights on both sides, and what makes such alike: the long side of a picture has as many pixels, there is one class, and
the 100 best boxes of each picture are kept whatever their score, so that each model draws 100 masks. Ours stand beside their
recipes' own heads and numbers of proposals. `square` is the whole square that a picture is fitted into, as in training.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torchvision.models.detection import maskrcnn_resnet50_fpn_v2
from torchvision.transforms.v2.functional import pil_to_tensor

import convmae
from convmae.benchmarks.timing import Step, alternate
from convmae.detection.config import DetectionConfig
from convmae.detection.data.coco_records import Category
from convmae.detection.model.detection_model import DetectionModel
from convmae.engine.config import load_config, to_yaml
from convmae.engine.files import save_weights
from convmae.engine.machine.precision import autocast, resolve_device, resolve_precision
from convmae.engine.pictures.folders import list_images
from convmae.engine.pictures.images import as_rgb, read_image

RECIPES = {"tiny": "mask_rcnn_tiny_256px.yaml", "base": "mask_rcnn_convmae_25e.yaml"}
FOUND = 100  # detections a picture


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns a row for each model; a repeat is a batch of it. Raises UserError for a folder without pictures."""
    device = resolve_device(args.device)
    files = list_images(args.folder)
    steps: dict[str, Step] = {"torchvision": _torchvision(args, device, _batches(files, args.batch_size))}
    with TemporaryDirectory() as scratch:
        for size, square in itertools.product(args.sizes, (True, False)):
            name = f"{size}, {'square' if square else 'picture alone'}"
            steps[name] = _ours(args, size, square, Path(scratch), _batches(files, args.batch_size))
        seconds = alternate(steps, args.repeats, device)
    return [
        {
            "model": name,
            "pixels": args.img_size,
            "pictures a second": args.batch_size / taken,
            "over torchvision": seconds["torchvision"] / taken,
        }
        for name, taken in seconds.items()
    ]


def _batches(files: list[Path], size: int) -> Iterator[list[Path]]:
    endless = itertools.cycle(files)
    return (list(itertools.islice(endless, size)) for _ in itertools.count())


def _ours(args: argparse.Namespace, size: str, square: bool, scratch: Path, batches: Iterator[list[Path]]) -> Step:
    options = [f"data.img_size={args.img_size}", "model.score_threshold=0", f"model.detections={FOUND}"]
    config = load_config(DetectionConfig, RECIPES[size], options)
    torch.manual_seed(0)
    weights = save_weights(
        DetectionModel(config, [Category(1, "object")]).state_dict(), scratch / f"{size}.pth", to_yaml(config)
    )
    model = convmae.load(weights, device=args.device, precision=args.precision, inference__square=square)

    def step() -> None:
        for result in model.predict(next(batches), batch_size=args.batch_size):
            assert isinstance(result, convmae.Detections)
            _ = result.masks

    return step


def _torchvision(args: argparse.Namespace, device: torch.device, batches: Iterator[list[Path]]) -> Step:
    dtype = resolve_precision(args.precision, device)
    torch.manual_seed(0)
    model = maskrcnn_resnet50_fpn_v2(
        weights=None,
        weights_backbone=None,
        num_classes=2,
        min_size=args.img_size,
        max_size=args.img_size,
        box_score_thresh=0.0,
        box_detections_per_img=FOUND,
    )
    model.eval().to(device)

    @torch.inference_mode()
    def step() -> None:
        images = [pil_to_tensor(as_rgb(read_image(path))).to(device).float() / 255 for path in next(batches)]
        with autocast(device, dtype):
            for found in model(images):
                _ = (found["masks"] > 0.5).cpu().numpy()

    return step
