"""Weights into a detector: our own runs, encoders alone, and detectron2's layout of the published detector."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convmae.backbones import load_checkpoint
from convmae.backbones.weight_files import read_weights
from convmae.detection.coco import Category
from convmae.detection.model import DetectionModel, read_categories
from convmae.engine.errors import UserError
from convmae.engine.log import log
from convmae.engine.weights import check_filled

# detectron2's names and ours, by regular expressions that hold for any depth of the heads. Classes, background and box
# deltas stand in the same order in both, so that values need no change.
_TO_OURS = (
    (r"backbone\.bottom_up\.(.+)", r"backbone.\1"),
    (r"backbone\.fpn_lateral(\d)\.norm\.(.+)", r"fpn.inner_blocks.{level}.1.\2"),
    (r"backbone\.fpn_lateral(\d)\.(.+)", r"fpn.inner_blocks.{level}.0.\2"),
    (r"backbone\.fpn_output(\d)\.norm\.(.+)", r"fpn.layer_blocks.{level}.1.\2"),
    (r"backbone\.fpn_output(\d)\.(.+)", r"fpn.layer_blocks.{level}.0.\2"),
    (r"proposal_generator\.rpn_head\.conv\.conv(\d)\.(.+)", r"rpn.head.conv.{same}.0.\2"),
    (r"proposal_generator\.rpn_head\.objectness_logits\.(.+)", r"rpn.head.cls_logits.\1"),
    (r"proposal_generator\.rpn_head\.anchor_deltas\.(.+)", r"rpn.head.bbox_pred.\1"),
    (r"roi_heads\.box_head\.conv(\d)\.norm\.(.+)", r"roi_heads.box_head.{before}.1.\2"),
    (r"roi_heads\.box_head\.conv(\d)\.(.+)", r"roi_heads.box_head.{before}.0.\2"),
    (r"roi_heads\.box_head\.fc(\d)\.(.+)", r"roi_heads.box_head.{linear}.\2"),
    (r"roi_heads\.box_predictor\.(.+)", r"roi_heads.box_predictor.\1"),
    (r"roi_heads\.mask_head\.mask_fcn(\d)\.norm\.(.+)", r"roi_heads.mask_head.{before}.1.\2"),
    (r"roi_heads\.mask_head\.mask_fcn(\d)\.(.+)", r"roi_heads.mask_head.{before}.0.\2"),
    (r"roi_heads\.mask_head\.deconv\.(.+)", r"roi_heads.mask_predictor.conv5_mask.\1"),
    (r"roi_heads\.mask_head\.predictor\.(.+)", r"roi_heads.mask_predictor.mask_fcn_logits.\1"),
)


def from_detectron2(state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns weights of the published detector (detectron2's names) under this project's names; others are left out."""
    convs = max(
        (int(n[1]) for n in (re.match(r"roi_heads\.box_head\.conv(\d)", name) for name in state) if n), default=0
    )
    converted = {}
    for name, value in state.items():
        for pattern, target in _TO_OURS:
            match = re.fullmatch(pattern, name)
            if match is None:
                continue
            number = int(match[1]) if match[1].isdigit() else 0
            # Pyramid levels count from p2, convolutions from 1; a Flatten and two modules a linear layer come after them.
            linear = convs + 1 + 2 * (number - 1)
            places = {"level": number - 2, "same": number, "before": number - 1, "linear": linear}
            converted[match.expand(target).format(**places)] = value
            break
    return converted


def init_weights(model: DetectionModel, path: str) -> None:
    """Fills what it can of a model from a detector's or an encoder's weights and logs what became of every key."""
    weights, names, _ = _open(Path(path))
    whole = any(name.startswith(("rpn.", "model.rpn.")) for name in names)
    log.info(str(load_checkpoint(model.model if whole else model.model.backbone, weights)))


def load_detector(model: DetectionModel, path: Path) -> None:
    """Fills a whole model. Raises UserError for weights of another detector or of other classes."""
    weights, _, categories = _open(path)
    if categories is not None:
        _check_classes(categories, model.categories, path)
    report = load_checkpoint(model.model, weights)
    log.info(str(report))
    check_filled(report, path, len(model.categories), "roi_heads.box_predictor.")


def _open(path: Path) -> tuple[Path | dict[str, Any], list[str], list[Category] | None]:
    """Returns what to load (the file, or weights under our names where its are detectron2's), the names, and the classes."""
    state, _ = read_weights(path)
    extra = state.get("_extra_state")
    weights: Path | dict[str, Any] = path
    if any(name.startswith("proposal_generator.") for name in state):
        state = weights = from_detectron2(state)
    return weights, list(state), None if extra is None else read_categories(extra)


def _check_classes(found: list[Category], expected: list[Category], path: Path) -> None:
    if found == expected:
        return
    differing = next((pair for pair in zip(found, expected, strict=False) if pair[0] != pair[1]), None)
    where = f"; the first that differs: {differing[0].name!r} and {differing[1].name!r}" if differing else ""
    raise UserError(
        f"{path} was trained on {len(found)} classes, the data has {len(expected)}{where}. Expected the same list."
    )
