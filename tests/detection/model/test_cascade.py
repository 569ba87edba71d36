"""The cascade's heads are detectron2's by their numbers, and what a stage learns from follows from plain formulas.

tests/data/cascade.npz holds what detectron2 (02b5c4e2) made of `reference.Cascade`'s maps, proposals and objects;
tests/detection/test_detectron2.py makes it anew where detectron2 is installed.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from reference import Cascade as given
from tiny_detector import batch_of, small_config
from torch import Tensor
from torchvision.ops import box_iou

from convmae.detection.data.coco import Category, read_coco
from convmae.detection.data.dataset import EvalSet, collate_test
from convmae.detection.model.boxes import BoxCoder, Matcher
from convmae.detection.model.detection_model import DetectionModel
from convmae.detection.model.heads import BoxPredictor, box_head, mask_head, mask_predictor
from convmae.detection.model.mask_rcnn import BOX_STAGES
from convmae.detection.model.pooler import Pooler
from convmae.detection.model.roi_heads import BoxStage, DetectionHeads
from convmae.detection.model.sampling import choose_all
from convmae.detection.model.weights import detectron2_names, from_detectron2

LOSSES = {f"loss_cls_stage{n}": f"loss_class{end}" for n, end in enumerate(("", "_2", "_3"))}
LOSSES |= {f"loss_box_reg_stage{n}": f"loss_box{end}" for n, end in enumerate(("", "_2", "_3"))}
LOSSES["loss_mask"] = "loss_mask"


def our_heads() -> DetectionHeads:
    """This project's heads of those sizes, with norms over channels, untrained."""
    stages = [
        BoxStage(
            box_head(given.CHANNELS, 7, given.CONVS, [given.HIDDEN], "ln"),
            BoxPredictor(given.HIDDEN, given.CLASSES, moves=1),
            matcher,
            coder,
        )
        for matcher, coder in BOX_STAGES
    ]
    masks = (
        Pooler(14, given.STRIDES, given.CANONICAL),
        mask_head(given.CHANNELS, given.CONVS, "ln"),
        mask_predictor(given.CHANNELS, given.CLASSES),
    )
    return DetectionHeads(
        Pooler(7, given.STRIDES, given.CANONICAL),
        stages,
        masks,
        given.SAMPLED,
        given.SCORE_THRESHOLD,
        0.5,
        given.DETECTIONS,
    )


@pytest.fixture(scope="module")
def heads() -> DetectionHeads:
    keys, _ = reference.reference("cascade")
    state = from_detectron2(reference.seeded_model(keys, given.WEIGHT_SEED, "backbone.", given.GAINS))
    heads = our_heads()
    assert {f"roi_heads.{name}" for name in heads.state_dict()} == state.keys()
    heads.load_state_dict({name.removeprefix("roi_heads."): value for name, value in state.items()})
    return heads


def test_detections_are_detectron2s(heads: DetectionHeads) -> None:
    _, outputs = reference.reference("cascade")
    proposals, _ = given.pictures()
    with torch.inference_mode():
        found, _ = heads(given.maps(), proposals, given.SIZES)
    assert [len(one["boxes"]) for one in found] == outputs["counts"].tolist()
    expected = [
        torch.from_numpy(outputs[name]).split(outputs["counts"].tolist())
        for name in ("boxes", "scores", "classes", "masks")
    ]
    for one, boxes, scores, classes, masks in zip(found, *expected, strict=True):
        # One to one; boxes moved out of the picture are pooled as zeros, and so are equally sure, in any order.
        close = (one["boxes"][None] - boxes[:, None]).abs().amax(-1) <= 0.01
        close &= (one["scores"][None] - scores[:, None]).abs() <= 1e-4
        close &= one["labels"][None] == classes[:, None]
        close &= (one["masks"][None, :, ::4, ::4] - masks[:, None]).abs().amax((-1, -2)) <= 1e-3
        free = set(range(len(boxes)))
        for row in close:
            free.discard(next((index for index in torch.where(row)[0].tolist() if index in free), -1))
        assert not free


def test_losses_and_their_gradients_are_detectron2s(heads: DetectionHeads) -> None:
    """With samples enough for all: labels anew in each stage, empty boxes left out, a third of the gradient in the maps."""
    _, outputs = reference.reference("cascade")
    proposals, targets = given.pictures()
    maps = [level.requires_grad_() for level in given.maps()]
    heads.zero_grad()
    _, losses = heads(maps, proposals, given.SIZES, targets)
    assert losses.keys() == set(LOSSES.values())
    for theirs, value in zip(outputs["loss_names"].tolist(), outputs["losses"], strict=True):
        assert losses[LOSSES[theirs]].item() == pytest.approx(value, rel=1e-4), theirs
    sum(losses.values()).backward()
    for level, name in zip(maps, ("p2", "p3", "p4", "p5"), strict=True):
        wanted = outputs[f"gradient_{name}"]
        assert level.grad is not None
        # As a whole: rounding gives a few boxes a sample more or less in a bin.
        assert np.abs(level.grad[:, ::4, ::2, ::2].numpy() - wanted).sum() <= 1e-3 * np.abs(wanted).sum()
    parameters = {f"roi_heads.{name}": value for name, value in heads.named_parameters()}
    ours = detectron2_names(outputs["gradient_names"].tolist())
    for name, norm in zip(outputs["gradient_names"].tolist(), outputs["gradient_norms"], strict=True):
        assert parameters[ours[name]].grad.norm().item() == pytest.approx(norm, rel=1e-3), name


def random_boxes(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner, sides = torch.rand(2, count, 2, generator=generator) * 40
    return torch.cat([corner, corner + sides], dim=1)


def stage(overlap: float = 0.4) -> BoxStage:
    return BoxStage(
        torch.nn.Identity(), torch.nn.Identity(), Matcher(overlap, overlap), BoxCoder((20.0, 20.0, 10.0, 10.0))
    )


def test_a_later_stage_learns_from_every_box_that_is_left() -> None:
    candidates, objects = [random_boxes(30, 0), random_boxes(20, 1), random_boxes(4, 2)], [random_boxes(3, 3)]
    candidates[0][5, 2], candidates[1][:7, 3] = candidates[0][5, 0], candidates[1][:7, 1] - 2  # no width, no height
    candidates[2][:, 2:] = candidates[2][:, :2]  # a picture without a box that is left
    objects += [torch.zeros(0, 4), random_boxes(2, 4)]
    boxes, matches = stage().assign(candidates, objects, choose_all)
    assert [len(one) for one in matches[1:]] == [0, 0]
    assert [len(one) for one in boxes] == [29, 13, 0]
    overlap = box_iou(candidates[0], objects[0])
    positive = [n for n in range(30) if n != 5 and overlap[n].max() >= 0.4]
    rest = [n for n in range(30) if n != 5 and overlap[n].max() < 0.4]
    assert positive
    assert torch.equal(boxes[0], candidates[0][positive + rest])
    assert matches[0].tolist() == [int(overlap[n].argmax()) for n in positive]
    assert torch.equal(boxes[1], candidates[1][7:])


def test_boxes_go_on_where_their_deltas_lead_inside_their_picture() -> None:
    boxes = [torch.tensor([[10.0, 20.0, 30.0, 60.0]]), torch.tensor([[0.0, 0.0, 20.0, 10.0]])]
    deltas = torch.tensor([[10.0, -5.0, 0.0, math.log(2) * 10], [-40.0, 0.0, 0.0, 0.0]], requires_grad=True)
    first, second = stage().moved(deltas, boxes, [(50, 100), (50, 100)])
    # Half a width to the right, a quarter of a height up, and twice as high: from -10 to 70, and cut off at 0 and 50.
    torch.testing.assert_close(first, torch.tensor([[20.0, 0.0, 40.0, 50.0]]))
    assert second.tolist() == [[0, 0, 0, 10]]  # two widths to the left: nothing is left of it
    assert not first.requires_grad


def test_all_boxes_gone_leave_later_stages_without_a_loss(heads: DetectionHeads) -> None:
    proposals, targets = given.pictures()
    outside = [boxes[-10:] for boxes in proposals]
    nothing = [{name: value[:0] for name, value in target.items()} for target in targets]
    _, losses = heads(given.maps(), outside, given.SIZES, nothing)
    assert losses["loss_class"] > 0
    assert {losses[name].item() for name in losses if name != "loss_class"} == {0.0}
    heads.zero_grad()
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in heads.parameters())  # as training across processes needs


def test_a_cascade_learns_and_detects(split: Path) -> None:
    torch.manual_seed(0)
    config = small_config(cascade=True, score_threshold=0.0)
    data = read_coco(split / "instances.json", split / "images")
    model = DetectionModel(config, data.categories).train()
    batch = batch_of(split, config, (0, 1, 3))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    history = []
    for _ in range(8):
        losses = model(**batch, mode="loss")
        history.append(sum(losses.values()).item())
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert history[-1] < 0.8 * history[0]
    assert all(parameter.grad is not None for parameter in model.parameters())
    test_set = EvalSet(data, 64)
    with torch.no_grad():
        found = model.eval()(**collate_test([test_set[0], test_set[1]]), mode="predict")
    for one in found:
        assert len(one["boxes"]) == len(one["masks"]) > 0
        assert ((one["scores"] >= 0) & (one["scores"] <= 1)).all()


def test_only_a_cascade_has_later_stages_and_its_boxes_move_alike_for_all_classes() -> None:
    classes = [Category(number, str(number)) for number in range(1, 4)]
    one, three = (
        {
            name: list(value.shape)
            for name, value in DetectionModel(small_config(cascade=some), classes).state_dict().items()
        }
        for some in (False, True)
    )
    assert not any("later_stages" in name for name in one)
    assert {name for name in three if "later_stages" not in name} == one.keys()
    assert one["model.roi_heads.box_predictor.bbox_pred.bias"] == [12]
    for place in ("", "later_stages.0.", "later_stages.1."):
        assert three[f"model.roi_heads.{place}box_predictor.bbox_pred.bias"] == [4]
        assert three[f"model.roi_heads.{place}box_predictor.cls_score.bias"] == [4]
