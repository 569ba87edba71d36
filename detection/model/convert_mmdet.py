"""Detector files: mmdet's layout of Mask R-CNN, as configs/mmdet_mask_rcnn_convmae_25e.py has it, to ours and back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convmae.backbones.weights.weight_values import check_values
from convmae.detection.config import DetectionConfig
from convmae.detection.data.coco import Category, read_classes, read_json
from convmae.detection.model.convert import Converted, check_fit, check_whole, coco_classes
from convmae.detection.model.detection_model import DetectionModel
from convmae.detection.model.weights import known_categories
from convmae.engine.class_lists import known_classes
from convmae.engine.errors import UserError

# Modules by mmdet's names and by ours. Values need no change: classes, background and box deltas stand in the same order.
_MODULES = (
    ("backbone", "backbone"),
    ("neck.lateral_convs.{n}.{norm}", "fpn.inner_blocks.{n}.1"),
    ("neck.lateral_convs.{n}.conv", "fpn.inner_blocks.{n}.0"),
    ("neck.fpn_convs.{n}.{norm}", "fpn.layer_blocks.{n}.1"),
    ("neck.fpn_convs.{n}.conv", "fpn.layer_blocks.{n}.0"),
    ("rpn_head.rpn_conv{conv}", "rpn.head.conv.{n}.0"),
    ("rpn_head.rpn_cls", "rpn.head.cls_logits"),
    ("rpn_head.rpn_reg", "rpn.head.bbox_pred"),
    ("roi_head.bbox_head.shared_convs.{n}.{norm}", "roi_heads.box_head.{n}.1"),
    ("roi_head.bbox_head.shared_convs.{n}.conv", "roi_heads.box_head.{n}.0"),
    ("roi_head.bbox_head.shared_fcs.{n}", "roi_heads.box_head.{linear}"),
    ("roi_head.bbox_head.fc_cls", "roi_heads.box_predictor.cls_score"),
    ("roi_head.bbox_head.fc_reg", "roi_heads.box_predictor.bbox_pred"),
    ("roi_head.mask_head.convs.{n}.{norm}", "roi_heads.mask_head.{n}.1"),
    ("roi_head.mask_head.convs.{n}.conv", "roi_heads.mask_head.{n}.0"),
    ("roi_head.mask_head.upsample", "roi_heads.mask_predictor.conv5_mask"),
    ("roi_head.mask_head.conv_logits", "roi_heads.mask_predictor.mask_fcn_logits"),
)
_DEEPEST = 32  # modules in a row, more than any head has
_CLASSES = "_extra_state"  # where `DetectionModel` keeps its class list
_BIAS = "roi_heads.box_predictor.cls_score.bias"


def mmdet_names(names: Iterable[str], back: bool = False) -> dict[str, str]:
    """Returns our name for each of mmdet's that has one, or with ``back`` mmdet's for each of ours."""
    names = list(names)
    # mmdet names a norm by its kind. Of ours batch norm alone has statistics.
    batch = any(re.match(r"(fpn|roi_heads)\..*\.running_mean$", name) for name in names)
    norms = ["bn" if batch else "gn"] if back else ["bn", "gn", "ln"]
    rpn_convs = _count(names, r"rpn_head\.rpn_conv\.\d+|rpn\.head\.conv\.\d+")
    box_convs = _count(names, r"roi_head\.bbox_head\.shared_convs\.\d+|roi_heads\.box_head\.\d+\.0\.")
    modules: dict[str, str] = {}
    for n in range(_DEEPEST):
        for norm in norms:
            # The convolutions of the proposals are numbered if there are several. In our box head a Flatten comes after the
            # convolutions, and an activation after each linear layer.
            places = {"n": n, "norm": norm, "conv": f".{n}.conv" if rpn_convs > 1 else ""}
            places["linear"] = box_convs + 1 + 2 * n
            pairs = [(theirs.format(**places), ours.format(**places)) for theirs, ours in _MODULES]
            for theirs, ours in pairs:
                modules.setdefault(*((ours, theirs) if back else (theirs, ours)))
    found = {}
    for name in names:
        owners = [name[: dot.start()] for dot in re.finditer(r"\.", name)]
        owner = next((owner for owner in reversed(owners) if owner in modules), None)
        if owner is not None:
            found[name] = modules[owner] + name.removeprefix(owner)
    return found


def _count(names: list[str], pattern: str) -> int:
    return len({match[0] for name in names if (match := re.match(pattern, name))})


def check_norm(norm: str, source: str) -> None:
    """Raises UserError for model.norm=ln, which mmdet lacks: its LN is no norm over channels, and GN's names are the same."""
    if norm == "ln":
        raise UserError(
            f"{source} is taken for a detector with model.norm=ln, which mmdet's Mask R-CNN lacks; expected bn, syncbn, gn or "
            "none. Where the weights are of another recipe, name it by --config."
        )


def detector_from_mmdet(
    state: Mapping[str, Tensor],
    source: str,
    config: DetectionConfig,
    annotations: Path | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Converted:
    """Returns the weights of a `DetectionModel`, class list included, of an mmdet model's.

    annotations: COCO JSON whose classes the detector was trained on; without it they are those that ``meta``, what mmengine
    keeps beside the weights, names, and without these, if there are 80, COCO's.
    Raises UserError unless the weights fill a model of the recipe, for classes of another number, and for model.norm=ln.
    """
    check_norm(config.model.norm, source)
    names = mmdet_names(state)
    given = {ours: state[theirs] for theirs, ours in names.items()}
    categories = _categories(given, source, annotations, meta or {})
    with torch.device("meta"):
        model = DetectionModel(config, categories)
    check_fit(given, model.model, source)
    wanted = model.model.state_dict()
    carried = {f"model.{ours}": value for ours, value in given.items() if ours in wanted}
    floats = {name: value for name, value in carried.items() if wanted[name.removeprefix("model.")].is_floating_point()}
    check_values(floats, source, state)
    homeless = [name for name in state if names.get(name) not in wanted]
    return Converted({**carried, _CLASSES: model.get_extra_state()}, {"have no place in this detector": homeless})


def detector_to_mmdet(state: Mapping[str, Tensor], source: str) -> tuple[Converted, dict[str, Any]]:
    """Returns the weights of a `MaskRCNN`, as a `DetectionModel`'s file names them, in mmdet's layout, and its classes as meta.

    Raises UserError for weights that have no place there.
    """
    names = mmdet_names(state, back=True)
    expected = "a detector with model.pyramid=fpn and one box head"
    check_whole(state, names, source, "mmdet's Mask R-CNN", expected)
    meta = {}
    if _CLASSES in state:
        categories = known_categories(state[_CLASSES], source)
        meta["dataset_meta"] = {
            "classes": [category.name for category in categories],
            "category_ids": [category.id for category in categories],
        }
    converted = {theirs: state[ours] for ours, theirs in names.items()}
    return Converted(converted, {"are kept as meta.dataset_meta": [name for name in state if name == _CLASSES]}), meta


def _categories(
    given: Mapping[str, Tensor], source: str, annotations: Path | None, meta: Mapping[str, Any]
) -> list[Category]:
    if _BIAS not in given or given[_BIAS].ndim != 1:
        raise UserError(f"{source} has no roi_head.bbox_head.fc_cls.bias; expected a whole detector, Mask R-CNN.")
    count = len(given[_BIAS]) - 1  # and the background
    names = known_classes(meta)
    if annotations is not None:
        found, where = read_classes(annotations), str(annotations)
        _check_order(annotations)
    elif names:
        found, where = _named(names, meta, source), "its meta"
    elif count == len(coco_classes()):
        return coco_classes()
    else:
        raise UserError(
            f"{source} knows {count} classes, not COCO's 80, and does not name them: give the COCO JSON file that it was "
            "trained on by --annotations."
        )
    if len(found) != count:
        raise UserError(f"{source} knows {count} classes, {where} lists {len(found)}; expected the same.")
    return found


def _check_order(annotations: Path) -> None:
    ids = [entry["id"] for entry in read_json(annotations)["categories"]]
    if ids != sorted(ids):
        raise UserError(
            f"{annotations} lists its classes in another order than that of their ids ({', '.join(map(str, ids[:8]))}, ...). "
            "mmdet numbers classes as they are listed, this project by id: a detector trained on this file would mistake them."
        )


def _named(names: list[str], meta: Mapping[str, Any], source: str) -> list[Category]:
    """The classes that mmengine keeps beside weights; ids are those that ``detector_to_mmdet`` wrote, COCO's, or 1, 2, ..."""
    ids = (meta.get("dataset_meta") or {}).get("category_ids")
    if ids is None:
        coco = coco_classes()
        known = [category.name for category in coco] == names
        return coco if known else [Category(number, name) for number, name in enumerate(names, 1)]
    if not isinstance(ids, (list, tuple)) or list(map(type, ids)) != [int] * len(names):
        raise UserError(
            f"{source}: its meta has other category_ids than one whole number for each of {len(names)} classes."
        )
    return [Category(number, name) for number, name in zip(ids, names, strict=True)]
