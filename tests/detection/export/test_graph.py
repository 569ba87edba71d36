"""A detector's graph finds what PyTorch finds, whatever the picture's size, and a wrong one is noticed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as mask_api
from torchvision.ops import batched_nms

from convmae.detection.config import DetectionConfig
from convmae.detection.data.coco_records import Category
from convmae.detection.data.dataset import fitted
from convmae.detection.export import agreement, graph, ties
from convmae.detection.model.detection_model import DetectionModel
from convmae.engine.config import load_config
from convmae.engine.errors import UserError
from convmae.engine.export.graphs import open_session, run, write_graph
from convmae.engine.export.operators import suppress_groups
from convmae.engine.pictures.scenes import draw_scene

pytest.importorskip("onnxruntime", reason="no onnxruntime: install the packages of the extra `export`")

SMALL = [
    *("model.size=tiny", "data.img_size=64", "model.fpn_channels=16", "model.norm=gn", "model.box_convs=[16]"),
    *("model.box_hidden=[32]", "model.mask_convs=[16]", "model.pre_nms_test=40", "model.post_nms_test=30"),
    *("model.anchor_sizes=[4,8,16,32,64]", "model.canonical_size=28", "model.detections=20"),
]
FORMS = {
    "mask_rcnn": [],
    "cascade": ["model.cascade=true"],
    "boxes_alone": ["model.masks=false", "data.padding=mean"],
    "simple_pyramid": ["model.pyramid=simple", "model.position=decomposed", "model.pretrain_img_size=32"],
    "padded_windows": [
        "model.position=decomposed",
        "model.attend_to_padding=true",
        "model.window_size=3",
        "model.norm=ln",
    ],
    "four_channels": ["model.in_chans=4"],
}


def detector(*options: str) -> tuple[DetectionModel, DetectionConfig]:
    """A model whose random heads are sure of some boxes and not of others."""
    config = load_config(DetectionConfig, "mask_rcnn_tiny_256px.yaml", [*SMALL, *options])
    torch.manual_seed(1)
    model = DetectionModel(config, [Category(1, "cat"), Category(2, "dog"), Category(7, "fox")]).eval()
    heads = model.model.roi_heads
    for stage in heads.stages:
        torch.nn.init.normal_(stage.box_predictor.cls_score.weight, std=1.0)
        torch.nn.init.normal_(stage.box_predictor.bbox_pred.weight, std=0.2)
    if heads.has_mask:
        torch.nn.init.normal_(heads.mask_predictor.mask_fcn_logits.weight, std=1.0)
    torch.nn.init.normal_(model.model.rpn.head.cls_logits.weight, std=0.3)
    for name, parameter in model.named_parameters():
        if "rel_pos" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model, config


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    image = draw_scene(seed, "val", 0, max(height, width)).image[:height, :width]
    return np.ascontiguousarray(image[:, :, np.arange(channels) % 3])


def exported(model: DetectionModel, config: DetectionConfig, folder: Path) -> tuple[Any, Path]:
    path = folder / "detector.onnx"
    example = torch.from_numpy(picture(50, 90, config.model.in_chans))
    write_graph(graph.DetectorGraph(model, config), example, graph.ports(config.model.masks), path, 18, {})
    return open_session(path, 1), path


@pytest.mark.parametrize("form", FORMS)
def test_the_graph_finds_what_pytorch_finds(form: str, tmp_path: Path) -> None:
    model, config = detector(*FORMS[form])
    session, path = exported(model, config, tmp_path)
    sizes = [(64, 64), (48, 64), (64, 30), (150, 111), (33, 20)]
    pictures = [picture(*size, config.model.in_chans) for size in sizes]
    lines, worst = agreement.compare(model, config, session, path, pictures)
    assert len(lines) == 5
    assert worst["boxes"] < ties.PIXELS * 150 / 64
    assert worst["scores"] < ties.SCORE
    for image in pictures:
        outputs = run(session, image)
        boxes, scores, labels = outputs[:3]
        assert (np.diff(scores) <= 0).all()
        assert boxes.dtype == scores.dtype == np.float32
        assert labels.dtype == np.int64
        assert (boxes[:, [0, 1]] >= 0).all()
        assert (boxes[:, 2] <= image.shape[1]).all()
        assert (boxes[:, 3] <= image.shape[0]).all()
        assert ("masks" in [output.name for output in session.get_outputs()]) == config.model.masks
        if config.model.masks:
            assert outputs[3].shape == (len(boxes), *image.shape[:2])
            assert set(np.unique(outputs[3])) <= {0, 1}


def test_a_graph_that_finds_something_else_is_noticed(tmp_path: Path) -> None:
    model, config = detector()
    (session, path), pictures = exported(model, config, tmp_path), [picture(64, 64), picture(40, 64)]
    agreement.compare(model, config, session, path, pictures)
    heads = model.model.roi_heads
    wrong = (
        (heads.box_predictor.bbox_pred.bias, 0.6, "boxes|finds"),
        (heads.box_predictor.cls_score.bias[1:2], 1.0, "scores|finds"),
        (heads.mask_predictor.mask_fcn_logits.bias, 3.0, "masks"),
    )
    for parameter, step, message in wrong:
        with torch.no_grad():
            parameter += step
            with pytest.raises(UserError, match=f"({message}).*nothing is written"):
                agreement.compare(model, config, session, path, pictures)
            parameter -= step
    config.model.score_threshold = 0.999
    with pytest.raises(UserError, match="nothing was compared"):
        agreement.compare(*detector("model.score_threshold=1"), session, path, [])


@pytest.mark.parametrize("side", [64, 90])
def test_the_square_is_within_a_grey_level_of_pillows(side: int) -> None:
    config = load_config(DetectionConfig, "mask_rcnn_tiny_256px.yaml", [f"data.img_size={side}", "data.padding=mean"])
    resizer, noise = agreement._resizer(config), np.random.default_rng(0)
    for height, width in [(side, side), (33, 20), (1, 7), (97, 131), (150, 111), (64, 300), (501, 333), (2, 400)]:
        for image in (picture(height, width), noise.integers(0, 256, (height, width, 3), dtype=np.uint8)):
            expected = fitted(Image.fromarray(image), 0, (side,), "mean")
            square, inside = run(resizer, image)
            assert tuple(inside) == expected["sample"].geometries[0].content
            wanted = torch.as_tensor(expected["images"][0])
            assert np.abs(square[0] - wanted.numpy()).max() <= agreement.LEVELS
            beyond = np.ones((side, side), dtype=bool)
            beyond[: inside[0], : inside[1]] = False
            assert (square[0] == wanted.numpy())[:, beyond].all()


def test_pictures_resized_in_another_way_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, config = detector()
    (session, path), pictures = exported(model, config, tmp_path), [picture(150, 111)]

    def plain(pixels: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        resized = torch.nn.functional.interpolate(pixels.float(), size=(size[0], size[1]), mode="bilinear")  # type: ignore[arg-type]
        return resized.round().to(torch.uint8)

    monkeypatch.setattr(graph, "resize_bytes", plain)
    with pytest.raises(UserError, match=r"grey levels from Pillow's.*nothing is written"):
        agreement.compare(model, config, session, path, pictures)


def test_an_object_more_or_less_is_noticed() -> None:
    _, config = detector()
    two = {
        "boxes": torch.tensor([[0.0, 0, 20, 20], [30, 30, 60, 60]]),
        "scores": torch.tensor([0.9, 0.6]),
        "labels": torch.tensor([0, 1]),
    }
    one = {name: value[:1] for name, value in two.items()}
    moved = {**two, "boxes": two["boxes"] + torch.tensor([[0.0], [0.1]])}
    other_class = {**two, "labels": torch.tensor([0, 2])}
    assert agreement._differences(two, two, config, 0.05, "")["boxes"] == 0
    for wanted, found, message in (
        (two, one, "PyTorch finds an object of class 1 .*that the graph lacks"),
        (one, two, "the graph finds an object of class 1 .*that PyTorch lacks"),
        (two, other_class, "that the graph lacks"),
        (two, moved, "boxes differ"),
    ):
        with pytest.raises(UserError, match=message):
            agreement._differences(wanted, found, config, 0.05, "9x9")
    at_threshold = {**two, "scores": torch.tensor([0.9, config.model.score_threshold + ties.SCORE / 2])}
    agreement._differences(one, at_threshold, config, 0.05, "")


def test_a_picture_without_objects(tmp_path: Path) -> None:
    model, config = detector()
    model.model.roi_heads.score_threshold = 1.0
    found = run(exported(model, config, tmp_path)[0], picture(70, 40))
    assert [one.shape for one in found] == [(0, 4), (0,), (0,), (0, 70, 40)]


def test_masks_are_those_of_coco(tmp_path: Path) -> None:
    model, config = detector()
    image = picture(90, 64)
    outputs = run(exported(model, config, tmp_path)[0], image)
    found = agreement.as_found(outputs)
    assert (mask_api.decode(found["masks"]).transpose(2, 0, 1) == outputs[3]).all()


@pytest.mark.parametrize(("set_to", "other"), [("flip=true", "flip=false"), ("square=false", "square=true")])
def test_views_that_a_graph_has_not_are_refused(set_to: str, other: str) -> None:
    model, config = detector(f"inference.{set_to}")
    with pytest.raises(UserError, match=rf"inference\.{other}"):
        graph.DetectorGraph(model, config)


@pytest.mark.parametrize("seed", range(3))
def test_groups_are_suppressed_as_torchvision_does(seed: int) -> None:
    torch.manual_seed(seed)
    corners = torch.rand(4, 30, 2) * 50
    boxes, scores = torch.cat([corners, corners + 5 + torch.rand(4, 30, 2) * 20], 2), torch.rand(4, 30)
    pairs = suppress_groups(boxes, scores, 0.5, 0.1, 25)
    groups = torch.arange(4)[:, None].expand(-1, 30).flatten()
    flat = scores.flatten()
    sure = torch.where(flat > 0.1)[0]
    kept = sure[batched_nms(boxes.flatten(0, 1)[sure], flat[sure], groups[sure], 0.5)][:25]
    assert torch.equal(pairs[:, 0] * 30 + pairs[:, 1], kept)
