"""Coding, matching and suppression of boxes against torchvision's own, and what they tell on a GPU."""

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import _utils as theirs
from torchvision.ops import box_iou, nms

from convmae.benchmarks.counting.host_waits import host_waits
from convmae.detection.model.boxes import BoxCoder, Matcher, clip, suppress


def random_boxes(count: int, size: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner, sides = torch.rand(2, count, 2, generator=generator) * size
    return torch.cat([corner, corner + 0.3 * sides + 0.5], dim=1)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_deltas_are_torchvisions_and_lead_back(weights: tuple[float, float, float, float]) -> None:
    boxes, others = random_boxes(50, 400, 0), random_boxes(50, 400, 1)
    coder, expected = BoxCoder(weights), theirs.BoxCoder(weights)
    deltas = coder.encode(boxes, others)
    torch.testing.assert_close(deltas, expected.encode([boxes], [others])[0])
    torch.testing.assert_close(coder.decode(deltas, others), boxes, rtol=1e-4, atol=1e-3)
    wild = torch.randn(50, 4, generator=torch.Generator().manual_seed(2)) * 30  # some grow beyond the limit
    torch.testing.assert_close(coder.decode(wild, others), expected.decode(wild, [others])[:, 0])


@pytest.mark.parametrize(("low", "high", "keep_best"), [(0.3, 0.7, True), (0.5, 0.5, False)])
def test_matches_are_torchvisions(low: float, high: float, keep_best: bool) -> None:
    objects, boxes = random_boxes(7, 200, 3), random_boxes(900, 200, 4)
    boxes[:5] = objects[:5]
    boxes[5] = boxes[6]  # overlap equally
    state, index = Matcher(low, high, keep_best)(objects, boxes)
    expected = theirs.Matcher(high, low, allow_low_quality_matches=keep_best)(box_iou(objects, boxes))
    assert torch.equal(state, torch.where(expected >= 0, 1, torch.where(expected == -1, 0, -1)))
    assert torch.equal(index[state == 1], expected[expected >= 0])


def test_without_objects_all_boxes_are_background() -> None:
    state, index = Matcher(0.3, 0.7, keep_best=True)(torch.zeros(0, 4), random_boxes(9, 50, 5))
    assert not state.any()
    assert not index.any()


def test_boxes_are_cut_at_the_pictures_sides() -> None:
    boxes = torch.tensor([[-3.0, 5.0, 70.0, 90.0], [1.0, -2.0, 3.0, 4.0]])
    assert clip(boxes, (40, 60)).tolist() == [[0, 5, 60, 40], [1, 0, 3, 4]]
    assert torch.equal(clip(boxes[None], (40, 60))[0], clip(boxes, (40, 60)))


@pytest.mark.parametrize("count", [1, 300, 1500])
def test_suppression_keeps_what_it_does_group_by_group_on_any_device(count: int) -> None:
    boxes = random_boxes(count, 1000, 6)
    scores = torch.rand(count, generator=torch.Generator().manual_seed(7))
    groups = torch.arange(count) * 7 % 5
    members = [torch.where(groups == group)[0] for group in groups.unique()]
    kept = torch.cat([index[nms(boxes[index], scores[index], 0.4)] for index in members])
    expected = kept[scores[kept].argsort(descending=True)]
    assert torch.equal(suppress(boxes, scores, groups, 0.4), expected)
    on_device: list[Tensor] = []
    waits = host_waits(lambda: on_device.append(suppress(boxes, scores, groups, 0.4)), [boxes, scores, groups])
    assert [wait.op for wait in waits] == ["torchvision::nms"]
    assert torch.equal(on_device[0], expected)
    assert len(suppress(boxes[:0], scores[:0], groups[:0], 0.4)) == 0
