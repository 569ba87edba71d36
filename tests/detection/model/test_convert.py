"""Detector files go from detectron2's layout to ours and back: every name, shape and value, or the name is said."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import reference
import torch
from torch import Tensor

from convmae.backbones import CheckpointError
from convmae.backbones.position import bias_at_grid
from convmae.detection.config import DetectionConfig
from convmae.detection.model.convert import (
    coco_classes,
    detector_from_detectron2,
    detector_to_detectron2,
    relative_position_index,
)
from convmae.detection.model.detection_model import DetectionModel
from convmae.engine.config import load_config
from convmae.engine.errors import UserError

CONFIG = load_config(DetectionConfig, "mask_rcnn_convmae_w16_25e.yaml")
INDEX = "relative_position_index"


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """A tensor of each published name and shape, of one value that no other has; the index buffers by their definition."""
    keys, _ = reference.reference("mask_rcnn")
    state = {name: torch.tensor(1.0 + number).expand(shape) for number, (name, shape) in enumerate(keys.items())}
    for name in keys:
        if name.endswith("num_batches_tracked"):
            state[name] = state[name].long()
        if name.endswith(INDEX):
            state[name] = relative_position_index((64, 64) if "global" in name else (16, 16))
    return state


def test_a_published_file_comes_back_whole(published: dict[str, Tensor]) -> None:
    ours = detector_from_detectron2(published, "a.pth", CONFIG)
    left = [name for name in published if name.endswith(INDEX)]
    assert ours.left == {"follow from the options": left, "have no place in this detector": []}
    back = detector_to_detectron2({name.removeprefix("model."): value for name, value in ours.state.items()}, "b.pth")
    assert back.state.keys() == published.keys()
    for name, value in published.items():
        assert back.state[name].dtype == value.dtype, name
        assert torch.equal(back.state[name], value), name


def test_a_file_of_the_vitdet_port_comes_back_whole() -> None:
    config = load_config(
        DetectionConfig, "mask_rcnn_convmae_simple_25e.yaml", ["model.size=tiny", "model.global_blocks=[1,4]"]
    )
    with torch.device("meta"):
        model = DetectionModel(config, coco_classes()).model
    ours = {
        name: torch.tensor(1.0 + number).expand(value.shape)
        for number, (name, value) in enumerate(model.state_dict().items())
    }
    port = detector_to_detectron2(ours, "a.pth").state
    # Names of the port's SimpleFeaturePyramid: the encoder as `net`, each level a sequence of layers with their norms.
    assert {name.split(".")[1] for name in port if name.startswith("backbone.")} == {
        "net",
        *(f"simfp_{n}" for n in range(2, 6)),
    }
    assert {name for name in port if name.startswith("backbone.simfp_2.")} == {
        f"backbone.simfp_2.{name}"
        for name in (
            "0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias",
            "4.weight", "4.norm.weight", "4.norm.bias", "5.weight", "5.norm.weight", "5.norm.bias",
        )
    }  # fmt: skip
    assert {"backbone.net.blocks3.0.attn.rel_pos_h", "backbone.net.pos_embed"} <= port.keys()
    back = detector_from_detectron2(port, "b.pth", config)
    assert not any(back.left.values())
    for name, value in ours.items():
        assert torch.equal(back.state[f"model.{name}"], value), name


def test_a_cascade_of_the_vitdet_port_comes_back_whole(published: dict[str, Tensor]) -> None:
    options = ["model.size=tiny", "model.global_blocks=[1,4]", "model.cascade=true"]
    config = load_config(DetectionConfig, "mask_rcnn_convmae_simple_25e.yaml", options)
    with torch.device("meta"):
        shapes = {
            name: value.shape for name, value in DetectionModel(config, coco_classes()).model.state_dict().items()
        }
    ours = {name: torch.tensor(1.0 + number).expand(shape) for number, (name, shape) in enumerate(shapes.items())}
    port = detector_to_detectron2(ours, "a.pth").state
    heads = {
        name.removeprefix("roi_heads.") for name in port if name.startswith(("roi_heads.box_head", "roi_heads.box_p"))
    }
    assert heads == {
        f"{name}.{kind}"
        for stage in range(3)
        for name in (
            *(f"box_head.{stage}.conv{n}.norm" for n in range(1, 5)),
            *(f"box_head.{stage}.conv{n}" for n in range(1, 5)),
            f"box_head.{stage}.fc1", f"box_predictor.{stage}.cls_score", f"box_predictor.{stage}.bbox_pred",
        )
        for kind in (("weight",) if name[:-1].endswith(".conv") else ("weight", "bias"))
    }  # fmt: skip
    assert list(port["roi_heads.box_predictor.2.bbox_pred.weight"].shape) == [4, 1024]
    back = detector_from_detectron2(port, "b.pth", config)
    assert not any(back.left.values())
    assert {name.removeprefix("model."): value.shape for name, value in back.state.items()} == {
        **shapes, "_extra_state": back.state["_extra_state"].shape
    }  # fmt: skip
    for name, value in ours.items():
        assert torch.equal(back.state[f"model.{name}"], value), name
    longer = {name.replace(".2.", ".3.", 1): value for name, value in port.items() if "roi_heads.box_" in name} | port
    for state, said in (
        (published, "has one box stage, the recipe a cascade of 3"),
        (longer, "has a cascade of 4 box"),
    ):
        with pytest.raises(UserError, match=said):
            detector_from_detectron2(state, "b.pth", config)


def test_what_is_not_carried_is_named(published: dict[str, Tensor]) -> None:
    cells = "proposal_generator.anchor_generator.cell_anchors.0"
    side = torch.tensor([0.5, 1.0, 2.0]).sqrt()
    anchors = torch.stack([-16 / side, -16 * side, 16 / side, 16 * side], dim=1)
    mean, strange = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1), "roi_heads.keypoint_head.conv1.weight"
    more = {**published, cells: anchors, "pixel_mean": mean, strange: torch.ones(1), "backbone.net.norm": torch.ones(1)}
    left = detector_from_detectron2(more, "a.pth", CONFIG).left
    assert set(left["follow from the options"]) == {cells, "pixel_mean", *(n for n in published if n.endswith(INDEX))}
    assert left["have no place in this detector"] == [strange, "backbone.net.norm"]
    for changed, said in (({cells: 2 * anchors}, "cell_anchors.0 is"), ({"pixel_mean": mean.flip(0)}, "pixel_mean is")):
        with pytest.raises(UserError, match=said):
            detector_from_detectron2({**more, **changed}, "a.pth", CONFIG)


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("roi_heads.box_predictor.bbox_pred.weight", (4, 1024), "fills no detector of this recipe"),  # class-agnostic
        ("backbone.bottom_up.windowed_rel_pos_bias.relative_position_bias_table", (169, 12), "model.window_size"),
        ("roi_heads.box_predictor.cls_score.bias", (4,), "knows 3 classes, not COCO's 80"),
        ("roi_heads.mask_head.deconv.bias", None, "roi_heads.mask_predictor.conv5_mask.bias is not in the file"),
        ("roi_heads.box_predictor.cls_score.bias", None, "expected a whole detector"),
        ("backbone.bottom_up.windowed_rel_pos_bias.relative_position_index", (256, 256), "has other values"),
    ],
)
def test_a_file_that_would_mean_something_else_is_refused(
    name: str, shape: tuple[int, ...] | None, said: str, published: dict[str, Tensor]
) -> None:
    changed = {key: value for key, value in published.items() if key != name}
    if shape is not None:
        changed[name] = torch.zeros(shape)
    with pytest.raises(UserError, match=said):
        detector_from_detectron2(changed, "a.pth", CONFIG)


def test_a_detector_of_other_parts_has_no_way_back(published: dict[str, Tensor]) -> None:
    ours = detector_from_detectron2(published, "a.pth", CONFIG).state
    bare = {name.removeprefix("model."): value for name, value in ours.items()}
    with pytest.raises(UserError, match=r"pyramid\.weight has no counterpart"):
        detector_to_detectron2({**bare, "pyramid.weight": torch.ones(1)}, "b.pth")
    with pytest.raises(UserError, match="holds nothing under fpn"):
        detector_to_detectron2({name: value for name, value in bare.items() if not name.startswith("fpn.")}, "b.pth")


def test_the_index_names_the_row_of_each_offset() -> None:
    rows, columns = 2, 3
    index = relative_position_index((rows, columns))
    offsets = [
        (dr, dc) for dr in range(1 - rows, rows) for dc in range(1 - columns, columns)
    ]  # one row of a table each
    cells = [(row, column) for row in range(rows) for column in range(columns)]
    wanted = [[offsets.index((q[0] - k[0], q[1] - k[1])) for k in cells] for q in cells]
    assert index.tolist() == wanted
    table = torch.randn(len(offsets), 4)
    bias = bias_at_grid(table, (rows, columns), (rows, columns))
    assert torch.equal(table[index[5, 0]], bias[:, rows - 1 + 1, columns - 1 + 2])  # one row below, two columns right


def test_cocos_classes_are_those_of_its_files(data_dir: Path) -> None:
    entries = json.loads((data_dir / "coco_mini" / "annotations" / "instances_val2017.json").read_text())["categories"]
    assert [(found.id, found.name) for found in coco_classes()] == sorted((e["id"], e["name"]) for e in entries)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (lambda given: given.to(torch.int8), "is int8; expected floats"),
        (lambda given: torch.full(given.shape, float("nan")), "values that are not finite"),
    ],
)
def test_values_that_can_not_be_meant_are_not_converted(
    value: Callable[[Tensor], Tensor], words: str, published: dict[str, Tensor]
) -> None:
    name = "roi_heads.box_predictor.cls_score.weight"
    with pytest.raises(CheckpointError, match=words):
        detector_from_detectron2(published | {name: value(published[name])}, "a.pth", CONFIG)
    ours = detector_from_detectron2(published, "a.pth", CONFIG)
    state = {key.removeprefix("model."): given for key, given in ours.state.items()}
    with pytest.raises(CheckpointError, match=rf"b\.pth: {re.escape(name)} .*{words}"):
        detector_to_detectron2(state | {name: value(state[name])}, "b.pth")
