"""A graph whose suppression decides a tie otherwise than PyTorch is right, one that decides wrongly is not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from convmae.detection.config import DetectionConfig
from convmae.detection.data.coco_records import Category
from convmae.detection.export import agreement, ties
from convmae.detection.export.graph import DetectorGraph, ports
from convmae.detection.export.ties import Entry, inputs_of_suppression
from convmae.detection.model.boxes import Candidates, suppress
from convmae.detection.model.detection_model import DetectionModel
from convmae.engine.config import load_config
from convmae.engine.errors import UserError
from convmae.engine.export.graphs import open_session, write_graph
from convmae.engine.pictures.scenes import draw_scene

pytest.importorskip("onnxruntime", reason="no onnxruntime: install the packages of the extra `export`")

SIDE = 64
PICTURE = np.ascontiguousarray(draw_scene(0, "val", 0, SIDE).image)


def detector() -> tuple[DetectionModel, DetectionConfig]:
    options = ["model.size=tiny", f"data.img_size={SIDE}", "model.fpn_channels=16", "model.norm=gn"]
    options += ["model.box_convs=[16]", "model.box_hidden=[32]", "model.mask_convs=[16]", "model.canonical_size=28"]
    options += ["model.anchor_sizes=[4,8,16,32,64]", "model.pre_nms_test=40", "model.post_nms_test=30"]
    config = load_config(DetectionConfig, "mask_rcnn_tiny_256px.yaml", options)
    torch.manual_seed(1)
    model = DetectionModel(config, [Category(1, "cat"), Category(2, "dog")]).eval()
    heads = model.model.roi_heads
    torch.nn.init.normal_(heads.box_predictor.cls_score.weight, std=1.0)
    torch.nn.init.normal_(heads.box_predictor.bbox_pred.weight, std=0.2)
    torch.nn.init.normal_(model.model.rpn.head.cls_logits.weight, std=0.3)
    return model, config


def written(model: DetectionModel, config: DetectionConfig, folder: Path) -> Path:
    path = folder / "detector.onnx"
    write_graph(DetectorGraph(model, config), torch.from_numpy(PICTURE[:50]), ports(True), path, 18, {})
    return path


def check(model: DetectionModel, config: DetectionConfig, path: Path) -> str:
    (line,), worst = agreement.compare(model, config, open_session(path, 1), path, [PICTURE])
    assert worst["boxes"] > 0
    return line


def kept(entry: Entry, threshold: float) -> set[int]:
    boxes, scores, groups = entry.above(0.05)
    return set(suppress(boxes, scores, groups, threshold).tolist())


def test_a_tie_is_told_from_a_fault(tmp_path: Path) -> None:
    """The threshold is put between two boxes' overlap as the graph has it and as a model a little aside has it."""
    model, config = detector()
    exact = written(model, config, tmp_path)
    (_, one) = inputs_of_suppression(exact, PICTURE)
    with torch.no_grad():
        model.model.roi_heads.box_predictor.bbox_pred.bias[2:4] += 1e-3
    (_, other) = inputs_of_suppression(written(model, config, tmp_path), PICTURE)
    overlaps = [box_iou(*[each.above(0.05).boxes] * 2).flatten() for each in (one, other)]
    middles = sum(overlaps) / 2
    near = torch.where((overlaps[0] - overlaps[1]).abs() > 1e-5)[0]
    thresholds = [float(middles[place]) for place in near if 0.1 < middles[place] < 0.9]
    threshold = next(value for value in thresholds if kept(one, value) != kept(other, value))

    heads = model.model.roi_heads
    heads.nms_threshold = threshold
    path = written(model, config, tmp_path)
    with torch.no_grad():
        heads.box_predictor.bbox_pred.bias[2:4] -= 1e-3
    line = check(model, config, path)
    assert "a tie in suppression" in line
    assert float(line.split("within ")[1].split(" px")[0]) > 0
    heads.nms_threshold = 0.01  # the numbers are alike, but the graph keeps others
    with pytest.raises(UserError, match="no tie in suppression; nothing is written"):
        check(model, config, path)
    heads.nms_threshold = threshold
    with torch.no_grad():
        heads.box_predictor.bbox_pred.bias[2:4] += 0.5  # the graph's boxes are others
    with pytest.raises(UserError, match="nothing is written"):
        check(model, config, path)


def test_boxes_are_apart_where_one_side_lacks_some() -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 9.01], [20, 20, 40, 40]])
    ours = Candidates(boxes, torch.tensor([3.0, 2.0, 1.0]), torch.tensor([0, 0, 1]))
    assert ties._apart(ours, ours, 0.0) == (0, 0)
    moved = ours._replace(boxes=boxes + 0.03, scores=ours.scores + 5e-4)
    assert ties._apart(ours, moved, 0.0) == pytest.approx((0.03, 5e-4), rel=1e-2)
    for wrong in (
        ours._replace(boxes=boxes + 0.06),
        ours._replace(scores=ours.scores + 2e-3),
        ours._replace(groups=1 - ours.groups),
        Candidates(*(values[:2] for values in ours)),
    ):
        assert ties._apart(ours, wrong, 0.0) is None
        assert ties._apart(wrong, ours, 0.0) is None
    # The last of a group, or one at the threshold, may be another.
    assert ties._apart(ours, Candidates(*(values[:2] for values in ours)), 1.0) is not None
    assert ties._apart(ours, ours._replace(boxes=boxes.clone().index_fill(0, torch.tensor(1), 0)), None) is not None
