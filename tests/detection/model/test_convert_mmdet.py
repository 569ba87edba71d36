"""Detector files go to mmdet's layout and back: every name, shape and value, or the name is said."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from convmae.detection.config import DetectionConfig
from convmae.detection.data.coco import Category
from convmae.detection.model.convert import coco_classes
from convmae.detection.model.convert_mmdet import detector_from_mmdet, detector_to_mmdet
from convmae.detection.model.detection_model import DetectionModel
from convmae.engine.config import load_config
from convmae.engine.errors import UserError

CLASSES = [Category(3, "box"), Category(7, "disc"), Category(90, "bar")]
SMALL = [
    "model.size=tiny",
    "data.img_size=64",
    "model.fpn_channels=8",
    "model.box_hidden=[8,8]",
    "model.box_convs=[8,8]",
]


def detector(*overrides: str, classes: list[Category] = CLASSES) -> tuple[DetectionConfig, dict[str, Tensor]]:
    """A recipe, and its detector's tensors, each of one value that no other has."""
    config = load_config(DetectionConfig, "mask_rcnn_convmae_25e.yaml", [*SMALL, "model.mask_convs=[8]", *overrides])
    state = DetectionModel(config, classes).state_dict()
    for number, (name, value) in enumerate(state.items()):
        if name != "_extra_state":
            value.fill_(1 + number)
    return config, state


def bare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("model."): value for name, value in state.items()}


@pytest.mark.parametrize(
    "overrides",
    [[], ["model.rpn_convs=1", "model.norm=gn"], ["model.norm=none", "model.box_convs=[]"], ["model.masks=false"]],
    ids=str,
)
def test_a_file_of_ours_comes_back_whole(overrides: list[str]) -> None:
    config, state = detector(*overrides)
    theirs, meta = detector_to_mmdet(bare(state), "a.pth")
    assert meta == {"dataset_meta": {"classes": ["box", "disc", "bar"], "category_ids": [3, 7, 90]}}
    assert theirs.left == {"are kept as meta.dataset_meta": ["_extra_state"]}
    assert len(theirs.state) == len(state) - 1
    back = detector_from_mmdet(theirs.state, "b.pth", config, meta=meta)
    assert back.left == {"have no place in this detector": []}
    assert back.state.keys() == state.keys()
    for name, value in state.items():
        assert back.state[name].dtype == value.dtype, name
        assert torch.equal(back.state[name], value), name


def test_what_is_not_carried_is_named() -> None:
    config, state = detector()
    theirs, meta = detector_to_mmdet(bare(state), "a.pth")
    more = {**theirs.state, "roi_head.glbctx_head.fc.weight": torch.ones(1), "backbone.fc.bias": torch.ones(1)}
    back = detector_from_mmdet(more, "b.pth", config, meta=meta)
    assert back.left == {"have no place in this detector": ["roi_head.glbctx_head.fc.weight", "backbone.fc.bias"]}


def listed(folder: Path, *classes: tuple[int, str]) -> Path:
    image = {"id": 1, "file_name": "1.png", "width": 8, "height": 8}
    categories = [{"id": number, "name": name} for number, name in classes]
    path = folder / "classes.json"
    folder.mkdir(exist_ok=True)
    path.write_text(json.dumps({"images": [image], "annotations": [], "categories": categories}))
    return path


def test_classes_come_from_the_file_that_is_given_from_the_weights_meta_or_are_cocos(tmp_path: Path) -> None:
    def found(state: dict[str, Tensor], **options: Any) -> list[list[Any]]:
        converted = detector_from_mmdet(detector_to_mmdet(bare(state), "a.pth")[0].state, "b.pth", config, **options)
        pairs: list[list[Any]] = json.loads(bytes(converted.state["_extra_state"].tolist()))
        return pairs

    config, state = detector()
    path = listed(tmp_path, (2, "cup"), (5, "fork"), (6, "jar"))
    assert found(state, annotations=path) == [[2, "cup"], [5, "fork"], [6, "jar"]]
    plain = {"dataset_meta": {"classes": ("cup", "fork", "jar")}}
    assert found(state, meta=plain) == [[1, "cup"], [2, "fork"], [3, "jar"]]
    for options, said in (
        ({}, "knows 3 classes, not COCO's 80, and does not name them"),
        ({"meta": {"dataset_meta": {"classes": ["cup"]}}}, "knows 3 classes, its meta lists 1"),
        (
            {"meta": {"dataset_meta": {**plain["dataset_meta"], "category_ids": [1, 2]}}},
            "one whole number for each of 3",
        ),
        ({"annotations": listed(tmp_path / "one", (2, "cup"))}, r"knows 3 classes, .*classes\.json lists 1"),
        (
            {"annotations": listed(tmp_path / "other", (7, "cup"), (5, "fork"), (6, "jar"))},
            r"another order than that of their ids \(7, 5, 6",
        ),
    ):
        with pytest.raises(UserError, match=said):
            found(state, **options)
    config, state = detector(classes=coco_classes())
    names = [category.name for category in coco_classes()]
    assert found(state)[::79] == found(state, meta={"CLASSES": names})[::79] == [[1, "person"], [90, "toothbrush"]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("rpn_head.rpn_cls.bias"), r"rpn\.head\.cls_logits\.bias is not in the file"),
        (lambda state: state.pop("roi_head.bbox_head.fc_cls.bias"), r"no roi_head\.bbox_head\.fc_cls\.bias"),
        (
            lambda state: state.update({"roi_head.bbox_head.fc_reg.bias": torch.ones(4)}),
            r"bbox_pred\.bias is \[4\] in the file, \[12\] in the model",
        ),
    ],
)
def test_a_file_that_would_mean_something_else_is_refused(change: Callable[[dict], Any], said: str) -> None:
    config, state = detector()
    theirs, meta = detector_to_mmdet(bare(state), "a.pth")
    change(theirs.state)
    with pytest.raises(UserError, match=said):
        detector_from_mmdet(theirs.state, "b.pth", config, meta=meta)


def test_a_detector_of_other_parts_has_no_place_in_mmdet() -> None:
    state = bare(detector("model.pyramid=simple", "model.norm=ln")[1])
    with pytest.raises(
        UserError, match=r"fpn\.simfp_2.* has no counterpart in mmdet's Mask R-CNN .*model\.pyramid=fpn"
    ):
        detector_to_mmdet(state, "a.pth")
    state = {name: value for name, value in bare(detector()[1]).items() if not name.startswith("rpn.")}
    with pytest.raises(UserError, match="holds nothing under rpn"):
        detector_to_mmdet(state, "a.pth")


def test_the_norm_that_mmdet_lacks_is_refused_though_its_names_are_another_s() -> None:
    theirs, meta = detector_to_mmdet(bare(detector("model.norm=gn")[1]), "a.pth")
    config, state = detector("model.norm=ln", "model.pyramid=fpn")
    assert detector_to_mmdet(bare(state), "a.pth")[0].state.keys() == theirs.state.keys()
    with pytest.raises(UserError, match=r"b\.pth is taken for a detector with model\.norm=ln, which mmdet's .* lacks"):
        detector_from_mmdet(theirs.state, "b.pth", config, meta=meta)
