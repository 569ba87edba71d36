"""Weights into a detector: our own runs, encoders alone, and detectron2's layout of the published detectors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from convmae.backbones import CheckpointError, load_checkpoint
from convmae.backbones.weights.weight_files import read_weights
from convmae.detection.data.coco import Category
from convmae.detection.model.detection_model import DetectionModel, read_categories
from convmae.detection.model.mask_rcnn import MaskRCNN
from convmae.engine.class_lists import check_classes, class_difference
from convmae.engine.errors import UserError
from convmae.engine.log import log
from convmae.engine.whole_weights import check_encoder, check_filled, tell_start

# Modules by detectron2's names and by ours: what both directions follow. `n` counts from 0, `one` from 1 and `level` from
# 2, as p2 does; for the others see `detectron2_names`. Values need no change: classes, background and box deltas stand in the
# same order in both.
_MODULES = (
    ("backbone.{trunk}", "backbone"),
    ("backbone.simfp_{level}", "fpn.simfp_{level}"),
    ("backbone.fpn_lateral{level}.norm", "fpn.inner_blocks.{n}.1"),
    ("backbone.fpn_lateral{level}", "fpn.inner_blocks.{n}.0"),
    ("backbone.fpn_output{level}.norm", "fpn.layer_blocks.{n}.1"),
    ("backbone.fpn_output{level}", "fpn.layer_blocks.{n}.0"),
    ("proposal_generator.rpn_head.conv{conv}", "rpn.head.conv.{n}.0"),
    ("proposal_generator.rpn_head.objectness_logits", "rpn.head.cls_logits"),
    ("proposal_generator.rpn_head.anchor_deltas", "rpn.head.bbox_pred"),
    ("roi_heads.box_head{number}.conv{one}.norm", "roi_heads{stage}.box_head.{n}.1"),
    ("roi_heads.box_head{number}.conv{one}", "roi_heads{stage}.box_head.{n}.0"),
    ("roi_heads.box_head{number}.fc{one}", "roi_heads{stage}.box_head.{linear}"),
    ("roi_heads.box_predictor{number}", "roi_heads{stage}.box_predictor"),
    ("roi_heads.mask_head.mask_fcn{one}.norm", "roi_heads.mask_head.{n}.1"),
    ("roi_heads.mask_head.mask_fcn{one}", "roi_heads.mask_head.{n}.0"),
    ("roi_heads.mask_head.deconv", "roi_heads.mask_predictor.conv5_mask"),
    ("roi_heads.mask_head.predictor", "roi_heads.mask_predictor.mask_fcn_logits"),
)
_WINDOW_TABLE = "backbone.windowed_rel_pos_bias.relative_position_bias_table"
_LATER = re.compile(r"\broi_heads\.later_stages\.\d+\.")  # of a cascade
_DEEPEST = 32  # modules in a row, more than any head has


def detectron2_names(names: Iterable[str], back: bool = False) -> dict[str, str]:
    """Returns our name for each of detectron2's that has one, or with ``back`` detectron2's for each of ours."""
    names = list(names)
    simple = any(re.match(r"(backbone|fpn)\.simfp_", name) for name in names)
    rpn_convs = _count(names, r"proposal_generator\.rpn_head\.conv\.conv\d+|rpn\.head\.conv\.\d+")
    box_convs = _count(names, r"roi_heads\.box_head\.(?:(?:0\.)?conv\d+|\d+\.0\.)")
    stages = _count(names, r"roi_heads\.box_predictor\.\d+\.") or box_stages(names)
    modules = {}
    for n, k in product(range(_DEEPEST), range(min(stages, _DEEPEST))):
        # detectron2's simple pyramid has the encoder as its `net`, the other one as its `bottom_up`. The convolutions of the
        # proposals are numbered if there are several. In our box head a Flatten comes after the convolutions, and an
        # activation after each linear layer. The box stages of a cascade are numbered there, the later ones alone here.
        conv = f".conv{n}" if n or rpn_convs > 1 else ""
        places = {"trunk": "net" if simple else "bottom_up", "n": n, "one": n + 1, "level": n + 2, "conv": conv}
        places |= {"linear": box_convs + 1 + 2 * n, "number": f".{k}" if stages > 1 else ""}
        places["stage"] = f".later_stages.{k - 1}" if k else ""
        pairs = [(theirs.format(**places), ours.format(**places)) for theirs, ours in _MODULES]
        modules.update({ours: theirs for theirs, ours in pairs} if back else dict(pairs))
    found = {}
    for name in names:
        owners = [name[: dot.start()] for dot in re.finditer(r"\.", name)]
        owner = next((owner for owner in reversed(owners) if owner in modules), None)
        if owner is not None:
            found[name] = modules[owner] + name.removeprefix(owner)
    return found


def from_detectron2(state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns weights of a published detector (detectron2's names) under this project's names; others are left out."""
    return {ours: state[theirs] for theirs, ours in detectron2_names(state).items()}


def to_detectron2(state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns weights of `MaskRCNN` under detectron2's names; others are left out."""
    return {theirs: state[ours] for ours, theirs in detectron2_names(state, back=True).items()}


def _count(names: list[str], pattern: str) -> int:
    return len({match[0] for name in names if (match := re.match(pattern, name))})


def box_stages(names: Iterable[str]) -> int:
    """Returns how many box stages a detector has, by names as ours are, whatever stands before them."""
    return 1 + len({match[0] for name in names if (match := _LATER.search(name))})


def check_stages(names: Iterable[str], model: MaskRCNN, source: str) -> None:
    """Raises UserError for a cascade's weights where the model is none, and for the reverse; names are ours.

    What has no heads at all says nothing of their number.
    """
    names = list(names)
    found, expected = box_stages(names), len(model.roi_heads.stages)
    if found != expected and any("roi_heads." in name for name in names):
        raise UserError(
            f"{source} has {_stages(found)}, the recipe {_stages(expected)}; expected the recipe of its run: give it by "
            f"--config, or set model.cascade={'true' if found > 1 else 'false'}."
        )


def _stages(count: int) -> str:
    return "one box stage" if count == 1 else f"a cascade of {count} box stages"


def init_weights(model: DetectionModel, path: str) -> None:
    """Fills what it can of a model from a detector's or an encoder's weights and logs what became of every key.

    Layers whose outputs are classes are left as they are where the weights name others.

    Raises UserError if they leave a part of the encoder unfilled.
    """
    weights = open_weights(Path(path))
    whole = any(name.startswith(("rpn.", "model.rpn.")) for name in weights.state)
    known = [category.name for category in weights.categories or ()]
    other = class_difference(known, model.dataset_meta["classes"], "the data")
    report = load_checkpoint(
        model.model if whole else model.model.backbone,
        weights.state,
        left_out=dict.fromkeys(_of_classes(model.model), "of other classes") if other else None,
        source=weights.source,
    )
    log.info(tell_start(report, "backbone." if whole else ""))
    if other:
        log.warning(f"{path} {other}; what tells classes apart starts anew")
    if whole and box_stages(weights.state) != (own := len(model.model.roi_heads.stages)):
        log.warning(
            f"{path} has {_stages(box_stages(weights.state))}, the recipe {_stages(own)}; what has no match starts anew"
        )
    check_encoder(report, path, "backbone." if whole else "")


def _of_classes(model: MaskRCNN) -> list[str]:
    """Returns the names of what has an output a class; a cascade's boxes move alike for all."""
    layers = ["cls_score", "mask_fcn_logits", *([] if len(model.roi_heads.stages) > 1 else ["bbox_pred"])]
    return [f"roi_heads.{name}" for name, _ in model.roi_heads.named_parameters() if name.split(".")[-2] in layers]


def load_detector(model: DetectionModel, path: Path) -> None:
    """Fills a whole model. Raises UserError for weights of another detector, of other windows or of other classes."""
    fill_detector(model, open_weights(path), path)


def fill_detector(model: DetectionModel, weights: Weights, path: Path) -> None:
    """Does what ``load_detector`` does, with weights that were read from ``path``."""
    check_stages(weights.state, model.model, str(path))
    known = [category.name for category in weights.categories or ()]
    check_classes(path, known, model.dataset_meta["classes"], "the data")
    report = load_checkpoint(model.model, weights.state, source=weights.source)
    log.info(str(report))
    # A table for the whole grid may serve another one; a window's has one size, and so shows which blocks have windows.
    blocks = set(range(len(model.model.backbone.blocks3))) - set(model.model.backbone.global_blocks)
    windowed = [f"backbone.blocks3.{index}.attn.rel_pos_h" for index in sorted(blocks)]
    if resized := next((name for name in (_WINDOW_TABLE, *windowed) if name in report.resized), None):
        raise UserError(
            f"{path} was trained with other attention windows ({report.notes[resized]}); expected the recipe of its run: "
            "give it by --config, or set model.window_size and model.global_blocks."
        )
    check_filled(report, path, len(model.categories), "roi_heads.box_predictor.")


class Weights(NamedTuple):
    """A file's weights, under our names where its are detectron2's, and the classes that it names; ``source``: found where."""

    state: dict[str, Any]
    categories: list[Category] | None
    source: str


def open_weights(path: Path) -> Weights:
    """Reads a detector's or an encoder's weights. Raises CheckpointError as ``read_weights``, UserError for no class list."""
    state, source = read_weights(path)
    extra = state.get("_extra_state")
    if any(name.startswith("proposal_generator.") for name in state):
        state = from_detectron2(state)
    return Weights(state, None if extra is None else known_categories(extra, source), source)


def known_categories(extra: object, source: str) -> list[Category]:
    """Returns the class list in a detector's weights. Raises UserError for what is none."""
    try:
        return read_categories(extra)
    except CheckpointError as error:
        raise UserError(f"{source}: {error}.") from None
