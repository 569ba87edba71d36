"""Anchors, pooling and mask pasting against plain formulas and torchvision's own operations."""

import math

import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as mask_api
from torch import Tensor
from torchvision.ops import roi_align

from convmae.detection.model.anchors import Anchors
from convmae.detection.model.pooler import Pooler, dense_roi_align
from convmae.detection.model.restore import encode_masks, paste_masks


def random_boxes(count: int, size: float, generator: torch.Generator) -> Tensor:
    first, second = torch.rand(2, count, 2, generator=generator) * size
    return torch.cat([torch.minimum(first, second), torch.maximum(first, second)], dim=1)


def test_boxes_are_pooled_where_they_are_from_maps_in_bf16() -> None:
    maps = [
        torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(0)).bfloat16()
        for side in (256, 128, 64, 32)
    ]
    box = torch.tensor([[901.3, 50.2, 921.7, 70.1]])  # in bf16 [900, 50.25, 920, 70]
    found = Pooler(7, (4, 8, 16, 32))(maps, [box])
    expected = roi_align(maps[0].float(), [box], 7, 1 / 4, 0, aligned=True)
    torch.testing.assert_close(found, expected.bfloat16())


def test_anchors_stand_on_multiples_of_the_stride_unrounded() -> None:
    anchors = Anchors([32, 50], [0.5, 1.0, 2.0], [4, 8])
    features = [torch.zeros(2, 1, 3, 5), torch.zeros(2, 1, 2, 3)]
    first = anchors(features)
    expected = []
    for size, stride, rows, columns in ((32, 4, 3, 5), (50, 8, 2, 3)):
        for row in range(rows):
            for column in range(columns):
                for ratio in (0.5, 1.0, 2.0):
                    width = math.sqrt(size**2 / ratio)
                    height = ratio * width
                    x, y = column * stride, row * stride
                    expected.append([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    assert torch.allclose(first, torch.tensor(expected), atol=1e-4)


def test_anchors_follow_the_maps_and_are_made_once_for_the_same() -> None:
    anchors, maps = Anchors([32], [1.0], [4]), [torch.zeros(1, 1, 3, 5)]
    with torch.inference_mode():
        first = anchors(maps)
    assert not first.is_inference()
    assert anchors([torch.ones(2, 8, 3, 5)]) is first
    other = anchors([torch.zeros(1, 1, 5, 3)])
    assert torch.equal(other.view(5, 3, 4), first.view(3, 5, 4).transpose(0, 1)[..., [1, 0, 3, 2]])


def test_a_level_without_an_anchor_size_is_refused() -> None:
    with pytest.raises(ValueError, match="4 anchor sizes for 5 levels"):
        Anchors([32, 64, 128, 256], [1.0], [4, 8, 16, 32, 64])


def test_dense_pooling_equals_torchvision_aligned_with_its_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(3, 6, 13, 17, generator=generator, dtype=torch.float64)
    boxes = random_boxes(40, 150, generator).double() - 12  # some reach beyond the map
    boxes[0] = torch.tensor([20.0, 20.0, 20.0, 30.0])  # no width
    rois = torch.cat([torch.arange(40)[:, None] // 14, boxes], dim=1)
    ours, theirs = feature.clone().requires_grad_(), feature.clone().requires_grad_()
    found = dense_roi_align(ours, rois, 7, 1 / 8)
    expected = roi_align(theirs, rois, 7, 1 / 8, 0, aligned=True)
    assert torch.allclose(found, expected, atol=1e-10)
    weight = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    assert ours.grad is not None
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-10)


def test_boxes_are_pooled_from_the_level_of_their_size_in_their_order() -> None:
    pooler = Pooler(7, (4, 8, 16, 32))
    sides = torch.tensor([10.0, 111.0, 113.0, 223.0, 225.0, 447.0, 449.0, 2000.0])
    boxes = torch.stack([torch.zeros(8), torch.zeros(8), sides, sides], dim=1)
    assert pooler.levels(boxes).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    generator = torch.Generator().manual_seed(1)
    features = [torch.randn(2, 4, 512 // stride, 512 // stride, generator=generator) for stride in (4, 8, 16, 32)]
    pictures = [random_boxes(9, 500, generator), random_boxes(5, 500, generator)]
    pooled = pooler(features, pictures)
    assert pooled.shape == (14, 4, 7, 7)
    for index, (picture, box) in enumerate([(0, b) for b in pictures[0]] + [(1, b) for b in pictures[1]]):
        level = int(pooler.levels(box[None]))
        roi = torch.cat([torch.tensor([float(picture)]), box])[None]
        alone = roi_align(features[level], roi, 7, 1 / (4 * 2**level), 0, aligned=True)
        assert torch.allclose(pooled[index], alone[0], atol=1e-5)


def test_no_boxes_give_no_features() -> None:
    features = [torch.zeros(2, 4, 8, 8)] * 4
    assert Pooler(7, (4, 8, 16, 32))(features, [torch.zeros(0, 4)] * 2).shape == (0, 4, 7, 7)


def test_pasting_is_bilinear_sampling_at_pixel_centres() -> None:
    generator = torch.Generator().manual_seed(2)
    boxes = random_boxes(6, 60, generator) - 5
    boxes[:, 2:] += 2
    masks = torch.rand(6, 28, 28, generator=generator)
    pasted = paste_masks(masks, boxes, 40, 56)
    x = (torch.arange(56) + 0.5 - boxes[:, :1]) / (boxes[:, 2:3] - boxes[:, :1]) * 2 - 1
    y = (torch.arange(40) + 0.5 - boxes[:, 1:2]) / (boxes[:, 3:] - boxes[:, 1:2]) * 2 - 1
    grid = torch.stack([x[:, None].expand(-1, 40, -1), y[:, :, None].expand(-1, -1, 56)], dim=-1)
    expected = F.grid_sample(masks[:, None], grid, align_corners=False)[:, 0]
    assert torch.allclose(pasted, expected, atol=1e-5)


def test_a_full_mask_fills_its_box_and_nothing_else() -> None:
    (found,) = encode_masks(torch.ones(1, 28, 28), torch.tensor([[4.0, 6.0, 20.0, 11.0]]), 30, 40)
    mask = mask_api.decode(found)
    assert mask.shape == (30, 40)
    assert mask.sum() == mask[6:11, 4:20].sum() == 16 * 5
