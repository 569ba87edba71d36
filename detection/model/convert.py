"""Detector files: detectron2's layout of the published detectors to this project's and back, with nothing lost unsaid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from convmae.backbones.position import Grid, RelativePositionBias
from convmae.backbones.weights.shapes import window_size
from convmae.backbones.weights.weight_values import check_values
from convmae.detection.config import DetectionConfig
from convmae.detection.data.coco import Category, read_classes
from convmae.detection.model.detection_model import DetectionModel
from convmae.detection.model.mask_rcnn import MaskRCNN
from convmae.detection.model.weights import check_stages, detectron2_names, from_detectron2, to_detectron2
from convmae.engine.errors import UserError
from convmae.engine.pictures.images import channel_statistics

_TABLE, _INDEX = "relative_position_bias_table", "relative_position_index"
_CLASSES = "_extra_state"  # where `DetectionModel` keeps its class list


class Converted(NamedTuple):
    """Weights under the other layout's names, and for each reason the file's names that were left behind."""

    state: dict[str, Tensor]
    left: dict[str, list[str]]


def detector_from_detectron2(
    state: Mapping[str, Tensor], source: str, config: DetectionConfig, annotations: Path | None = None
) -> Converted:
    """Returns the weights of a `DetectionModel`, class list included, of a detectron2 model's.

    annotations: COCO JSON whose classes the detector was trained on; without it a detector of 80 classes has COCO's.
    Raises UserError unless the weights fill a model of the recipe, and for classes of another number.
    """
    categories = _classes(state, source, annotations)
    with torch.device("meta"):
        model = DetectionModel(config, categories)
    given = from_detectron2(state)
    check_stages(given, model.model, source)
    check_fit(given, model.model, source)
    constants = _constants(model.model)
    left = {name: value for name, value in state.items() if name in constants}
    for name, value in left.items():
        _check_constant(name, value, constants[name](), source)
    wanted = model.model.state_dict()
    translated = detectron2_names(state)
    reasons = {
        "follow from the options": list(left),
        "have no place in this detector": [n for n in state if n not in left and translated.get(n) not in wanted],
    }
    named = {f"model.{name}": value for name, value in given.items() if name in wanted}
    check_values(
        {n: v for n, v in named.items() if wanted[n.removeprefix("model.")].is_floating_point()}, source, state
    )
    return Converted({**named, _CLASSES: model.get_extra_state()}, reasons)


def detector_to_detectron2(state: Mapping[str, Tensor], source: str) -> Converted:
    """Returns the weights of a `MaskRCNN`, as a `DetectionModel`'s file names them, in detectron2's layout.

    Raises UserError for weights that have no place there.
    """
    names = detectron2_names(state, back=True)
    check_whole(state, names, source, "detectron2's layout", "Mask R-CNN on ConvViTDet")
    converted = to_detectron2(state)
    for name, table in [(name, value) for name, value in converted.items() if name.endswith(_TABLE)]:
        side = window_size(table)
        if table.ndim != 2 or len(table) != (2 * side - 1) ** 2:
            raise UserError(
                f"{source}: {name} has the shape {list(table.shape)}, of no square window; detectron2's layout has squares."
            )
        converted[name.removesuffix(_TABLE) + _INDEX] = relative_position_index((side, side))
    return Converted(converted, {"are not kept by detectron2 (class names)": [n for n in state if n == _CLASSES]})


def check_whole(state: Mapping[str, Tensor], names: Mapping[str, str], source: str, layout: str, expected: str) -> None:
    """Raises UserError unless the weights of a `MaskRCNN` are a whole detector's, have ``names`` elsewhere, and are finite."""
    if strange := [name for name in state if name not in names and name != _CLASSES]:
        raise UserError(
            f"{source}: {strange[0]} has no counterpart in {layout} ({len(strange)} such names); expected {expected}."
        )
    if lacking := [part for part in ("backbone", "fpn", "rpn", "roi_heads") if not any(_in(part, n) for n in names)]:
        raise UserError(f"{source} is no whole detector: it holds nothing under {', '.join(lacking)}.")
    counted = (_CLASSES, "num_batches_tracked")
    check_values({name: value for name, value in state.items() if not name.endswith(counted)}, source, state)


def relative_position_index(window: Grid) -> Tensor:
    """Returns the row of a bias table for each query and key of a window, [rows * columns, rows * columns].

    Offsets are counted row by row from the most negative (Swin, arXiv 2103.14030); the public model keeps them as a buffer.
    """
    rows, columns = window
    y = torch.arange(rows).repeat_interleave(columns)
    x = torch.arange(columns).repeat(rows)
    return (y[:, None] - y + rows - 1) * (2 * columns - 1) + (x[:, None] - x + columns - 1)


def coco_classes() -> list[Category]:
    """Returns COCO's 80 classes; their ids have gaps."""
    names = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]  # by id; 0 is the background
    return [Category(number, name) for number, name in enumerate(names) if number and name != "N/A"]


def _classes(state: Mapping[str, Tensor], source: str, annotations: Path | None) -> list[Category]:
    names = (f"roi_heads.box_predictor.{stage}cls_score.bias" for stage in ("", "0."))  # 0: the first of a cascade
    bias = next((state[name] for name in names if name in state), None)
    if bias is None or bias.ndim != 1:
        raise UserError(f"{source} has no roi_heads.box_predictor.cls_score.bias; expected a whole detector.")
    count = len(bias) - 1  # and the background
    if annotations is None:
        if count != len(coco_classes()):
            raise UserError(
                f"{source} knows {count} classes, not COCO's 80, and detectron2 keeps no names: give the COCO JSON file "
                "that it was trained on by --annotations."
            )
        return coco_classes()
    found = read_classes(annotations)
    if len(found) != count:
        raise UserError(f"{source} knows {count} classes, {annotations} lists {len(found)}; expected the same.")
    return found


def check_fit(given: Mapping[str, Tensor], model: MaskRCNN, source: str) -> None:
    """Raises UserError unless tensors under our names fill a model."""
    differing = []
    for name, target in model.state_dict().items():
        if name in given and given[name].shape != target.shape:
            differing.append(f"{name} is {list(given[name].shape)} in the file, {list(target.shape)} in the model")
        elif name not in given and not name.endswith("num_batches_tracked"):
            differing.append(f"{name} is not in the file")
    if differing:
        raise UserError(
            f"{source} fills no detector of this recipe: {differing[0]} ({len(differing)} such tensors). Give the recipe "
            "that it was trained with by --config, or what differs by --cfg-options (model.window_size, data.img_size, ...)."
        )


def _constants(model: MaskRCNN) -> dict[str, Callable[[], Tensor]]:
    """detectron2's buffers that this project makes from the options, by detectron2's names."""
    anchors = model.rpn.anchor_generator
    tables = {
        name: module for name, module in model.backbone.named_modules() if isinstance(module, RelativePositionBias)
    }
    means, deviations = channel_statistics(model.backbone.in_chans)
    return {
        "pixel_mean": lambda: 255 * torch.tensor(means)[:, None, None],
        "pixel_std": lambda: 255 * torch.tensor(deviations)[:, None, None],
        **{
            f"proposal_generator.anchor_generator.cell_anchors.{level}": partial(anchors.level, level, torch.empty(1, 1, 1, 1))
            for level in range(len(anchors.sizes))
        },
        **{
            f"backbone.bottom_up.{name}.{_INDEX}": partial(relative_position_index, module.window)
            for name, module in tables.items()
        },
    }  # fmt: skip


def _check_constant(name: str, found: Tensor, expected: Tensor, source: str) -> None:
    if found.shape != expected.shape or not torch.allclose(found.to(expected.dtype), expected, rtol=0, atol=1e-2):
        raise UserError(
            f"{source}: {name} is {_shown(found)}, of this recipe {_shown(expected)}; the detector was trained on other input "
            "or other options, and its weights would mean something else here."
        )


def _shown(value: Tensor) -> Any:
    return value.flatten().tolist() if value.numel() <= 12 else f"of shape {list(value.shape)} or has other values"


def _in(part: str, name: str) -> bool:
    return name.startswith(f"{part}.")
