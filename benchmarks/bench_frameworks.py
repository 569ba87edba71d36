"""Score one detector here, in detectron2 and in mmdet, on the same image tensors and by one evaluation.

The detector and its pictures are those of a run of this project. Other frameworks' models are built by the shipped configs
with the sizes of the run's recipe, and given its weights as tools/convert_checkpoint.py gives them. Each framework pads,
normalises, detects and restores boxes and masks by itself; pictures are read and resized here, once for all of them.

`found again` counts this project's detections that a framework has, too: of the same class, every side within 0.1 pixels and
the score within 0.001. AP is in points of 100, `off` its difference from ours. Seconds are medians of rounds in turn on the
first batch. All is computed in fp32.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from convmae.benchmarks.timing import Step, alternate
from convmae.detection.checks.preflight import check_options, read_split
from convmae.detection.config import DetectionConfig, InferenceOptions
from convmae.detection.data.dataset import EvalSet, Sample, collate_test
from convmae.detection.evaluation.coco_metric import CocoMetric
from convmae.detection.model.detection_model import DetectionModel
from convmae.detection.model.weights import load_detector
from convmae.engine.config import run_config
from convmae.engine.errors import UserError
from convmae.engine.machine.precision import set_up

Found = list[dict[str, Any]]
Detector = Callable[[Tensor, Sequence[Sample]], Found]
# What a framework's package is called on PyPI, and what says how it is installed.
OTHERS = {
    "mmdet": ("onedl-mmdetection", "docs/mmdetection.md"),
    "detectron2": ("detectron2", "docs/detectron2.md"),
}
NUMBERS = ("mAP", "AP50", "AP75")
NEAR, SURE = 0.1, 1e-3  # pixels and score within which two detections are the same


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns one row a framework. Raises UserError for weights, recipes and data that can't be compared."""
    config = run_config(DetectionConfig, args.weights, args.config, args.cfg_options)
    config.inference = InferenceOptions()  # one view, as the others have
    config.runtime = replace(config.runtime, precision="fp32")
    check_options(config)
    data = read_split(config.data, config.model.masks, config.model.detections, config.model.in_chans)
    device, _ = set_up(config.runtime)
    model = DetectionModel(config, data.categories)
    load_detector(model, args.weights)
    model.eval().to(device)
    detectors: dict[str, Detector] = {"here": partial(detect_here, model, device)}
    absent = []
    state = {name.removeprefix("model."): value for name, value in model.state_dict().items()}
    for name in args.frameworks or OTHERS:
        try:
            detectors[name] = build(name, config, state, model, device)
        except UserError as reason:
            if args.frameworks:
                raise
            absent.append({"framework": name, "not compared": str(reason)})
    loader = DataLoader(
        EvalSet(data, config.data.img_size, padding=config.data.padding),
        batch_size=config.data.eval_batch_size,
        collate_fn=collate_test,
    )
    found: dict[str, Found] = {name: [] for name in detectors}
    with torch.inference_mode():
        for batch in loader:
            (images,) = batch["images"]
            for name, detector in detectors.items():
                found[name] += detector(images, batch["samples"])
        first = next(iter(loader))
        steps: dict[str, Step] = {
            name: partial(detector, first["images"][0], first["samples"]) for name, detector in detectors.items()
        }
        seconds = alternate(steps, args.repeats, device)
    scores = {name: CocoMetric(data).compute_metrics(detections) for name, detections in found.items()}
    rows = [
        {
            "framework": name,
            "version": version(name),
            "detections": sum(len(one["scores"]) for one in found[name]),
            "found again": sum(map(again, found["here"], found[name])),
            **{
                f"{what} {number}": 100 * scores[name][f"{kind}_{number}"]
                for kind, what in (("bbox", "box"), ("segm", "mask"))
                for number in NUMBERS
            },
            "box off": 100 * (scores[name]["bbox_mAP"] - scores["here"]["bbox_mAP"]),
            "mask off": 100 * (scores[name]["segm_mAP"] - scores["here"]["segm_mAP"]),
            "s a picture": seconds[name] / len(first["samples"]),
        }
        for name in detectors
    ]
    return rows + absent


def build(
    name: str, config: DetectionConfig, state: dict[str, Tensor], model: DetectionModel, device: torch.device
) -> Detector:
    """Returns the detector in another framework. Raises UserError if that is absent or can't have such a detector."""
    if find_spec(name) is None:
        raise UserError(f"{name} is not installed; {OTHERS[name][1]} says how to install it.")
    widths = model.model.backbone.out_channels
    module = import_module(f"convmae.benchmarks.frameworks.{name}_model")
    detector: Detector = module.build(config, state, widths, len(model.categories), device)
    return detector


def detect_here(model: DetectionModel, device: torch.device, images: Tensor, samples: Sequence[Sample]) -> Found:
    """Returns this project's detections of a batch, in the pictures' own pixels."""
    found: Found = model(images.to(device), samples=samples, mode="predict")
    return found


def again(ours: dict[str, Any], theirs: dict[str, Any]) -> int:
    """Returns how many of a picture's detections another framework has, too, each of its own counting once."""
    left = torch.ones(len(theirs["scores"]), dtype=torch.bool)
    for box, score, label in zip(ours["boxes"], ours["scores"], ours["labels"], strict=True):
        same = left & (theirs["labels"] == label) & ((theirs["scores"] - score).abs() < SURE)
        same &= (theirs["boxes"] - box).abs().amax(dim=1) < NEAR
        left[same.nonzero()[:1]] = False
    return int((~left).sum())


def version(name: str) -> str:
    """Returns a framework's version, nothing for this project."""
    return metadata.version(OTHERS[name][0]) if name in OTHERS else ""
