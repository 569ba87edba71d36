"""The published detector's weights, under detectron2's names, give detectron2's detections."""

import numpy as np
import pytest
import reference
import torch
from torch import Tensor
from torchvision.ops import box_iou

from convmae.detection.config import ModelOptions
from convmae.detection.model.mask_rcnn import MaskRCNN
from convmae.detection.model.weights import from_detectron2

GAINS = {"cls_score": 4, "objectness_logits": 4, "bbox_pred": 1, "anchor_deltas": 0.5, "predictor": 2}


@pytest.fixture(scope="module")
def detector() -> MaskRCNN:
    keys, outputs = reference.reference("mask_rcnn")
    model = MaskRCNN(ModelOptions(window_size=16, norm="bn"), classes=80, img_size=1024)
    state = from_detectron2(reference.seeded_model(keys, int(outputs["weight_seed"]), "backbone.bottom_up.", GAINS))
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert all(name.endswith("num_batches_tracked") for name in missing)
    assert not unexpected
    return model.eval()


@pytest.fixture(scope="module")
def pyramid(detector: MaskRCNN) -> list[Tensor]:
    _, outputs = reference.reference("mask_rcnn")
    with torch.inference_mode():
        return detector.features(reference.image(int(outputs["image_seed"]), 1, 1024))


def test_every_published_name_has_its_place() -> None:
    keys, _ = reference.reference("mask_rcnn")
    ours = from_detectron2(keys)
    with torch.device("meta"):
        model = MaskRCNN(ModelOptions(window_size=16, norm="bn"), classes=80, img_size=1024)
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    assert {name: shape for name, shape in ours.items() if "relative_position_index" not in name} == shapes
    assert len(ours) == len(keys)


def test_the_pyramid_agrees(pyramid: list[Tensor]) -> None:
    _, outputs = reference.reference("mask_rcnn")
    for found, expected in (
        (pyramid[0][:, ::16, ::16, ::16], outputs["p2"]),
        (pyramid[3][:, ::16, ::2, ::2], outputs["p5"]),
    ):
        wanted = torch.from_numpy(expected)
        assert (found - wanted).abs().max() <= 1e-3 * wanted.abs().max()


def test_the_heads_agree_on_given_boxes(detector: MaskRCNN, pyramid: list[Tensor]) -> None:
    _, outputs = reference.reference("mask_rcnn")
    boxes, heads = torch.from_numpy(outputs["given_boxes"]), detector.roi_heads
    with torch.inference_mode():
        logits, deltas = heads.box_outputs(pyramid[:4], [boxes])
        masks = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(pyramid[:4], [boxes]))).sigmoid()
    np.testing.assert_allclose(logits.softmax(-1), outputs["given_scores"], atol=1e-3)
    np.testing.assert_allclose(
        deltas[:, ::20], outputs["given_deltas"], atol=1e-3 * np.abs(outputs["given_deltas"]).max()
    )
    np.testing.assert_allclose(masks[:, ::16, ::4, ::4], outputs["given_masks"], atol=1e-3)


def test_proposals_and_detections_agree(detector: MaskRCNN, pyramid: list[Tensor]) -> None:
    _, outputs = reference.reference("mask_rcnn")
    with torch.inference_mode():
        size = [(1024, 1024)]
        proposals, _ = detector.rpn(pyramid, size)
        (found,), _ = detector.roi_heads(pyramid[:4], proposals, size)
    expected = torch.from_numpy(outputs["proposals"])
    assert (_nearest(expected, proposals[0][:150]) <= 0.1).sum() >= 97
    boxes, scores, classes = (torch.from_numpy(outputs[name]) for name in ("boxes", "scores", "classes"))
    matched = 0
    taken: set[int] = set()
    for box, score, label in zip(boxes, scores, classes, strict=True):
        close = (found["boxes"] - box).abs().amax(1) <= 0.1
        close &= ((found["scores"] - score).abs() <= 1e-3) & (found["labels"] == label)
        free = [index for index in torch.where(close)[0].tolist() if index not in taken]
        taken.update(free[:1])
        matched += bool(free)
    assert matched >= 97
    overlap = box_iou(boxes[:20], found["boxes"]) * (classes[:20, None] == found["labels"])
    ours = found["masks"][overlap.argmax(1)]
    different = (ours - torch.from_numpy(outputs["masks"])).abs().amax((1, 2)) > 0.01
    assert not different.any()


def _nearest(wanted: Tensor, found: Tensor) -> Tensor:
    return (wanted[:, None] - found[None]).abs().amax(-1).amin(1)
