"""detectron2's names and ours say the same of heads of any depth, and weights of another model are told apart."""

import re
from pathlib import Path

import pytest
import reference
import torch
from tiny_detector import tiny_config

from convmae.detection.config import DetectionConfig, ModelOptions
from convmae.detection.data.coco import Category
from convmae.detection.model.detection_model import DetectionModel
from convmae.detection.model.mask_rcnn import MaskRCNN
from convmae.detection.model.weights import (
    detectron2_names,
    from_detectron2,
    init_weights,
    load_detector,
    to_detectron2,
)
from convmae.engine.config import load_config
from convmae.engine.errors import UserError
from convmae.engine.files import save_weights

ONE = [Category(1, "one")]
DEPTHS = [
    {},
    {"rpn_convs": 1, "norm": "gn"},
    {"rpn_convs": 3, "box_convs": [8], "box_hidden": [8, 8], "norm": "bn"},
    {"box_convs": [], "box_hidden": [8, 8, 8], "mask_convs": [8] * 6, "norm": "none"},
    {"masks": False, "box_convs": [8] * 12, "norm": "ln"},
    {"cascade": True},
    {"cascade": True, "box_convs": [], "box_hidden": [8, 8], "norm": "none"},
]


def our_names(**options: object) -> list[str]:
    with torch.device("meta"):
        values = {"size": "tiny", "fpn_channels": 8, "norm": "bn", **options}
        return list(MaskRCNN(ModelOptions(**values), classes=3, img_size=64).state_dict())  # type: ignore[arg-type]


def test_the_published_names_come_back() -> None:
    keys, _ = reference.reference("mask_rcnn")
    ours = from_detectron2(keys)
    assert len(ours) == len(keys)
    assert to_detectron2(ours) == keys


@pytest.mark.parametrize("options", DEPTHS, ids=str)
def test_every_name_of_a_model_has_one_of_its_own_and_comes_back(options: dict[str, object]) -> None:
    names = our_names(**options)
    theirs = detectron2_names(names, back=True)
    assert set(theirs) == set(names)
    assert detectron2_names(theirs.values()) == {name: ours for ours, name in theirs.items()}


def test_heads_are_numbered_as_detectron2_does() -> None:
    one = set(detectron2_names(our_names(rpn_convs=1), back=True).values())
    assert "proposal_generator.rpn_head.conv.weight" in one
    many = set(detectron2_names(our_names(rpn_convs=2, box_convs=[8] * 2, box_hidden=[8, 8]), back=True).values())
    for name in (
        "proposal_generator.rpn_head.conv.conv1.bias",
        "backbone.fpn_lateral2.norm.running_var",
        "backbone.fpn_output5.weight",
        "roi_heads.box_head.conv2.norm.weight",
        "roi_heads.box_head.fc1.weight",
        "roi_heads.box_head.fc2.bias",
        "roi_heads.mask_head.mask_fcn4.weight",
        "roi_heads.mask_head.deconv.bias",
    ):
        assert name in many


def test_the_stages_of_a_cascade_are_numbered_as_detectron2_does() -> None:
    names = our_names(cascade=True, box_convs=[8] * 2, box_hidden=[8, 8], norm="ln")
    theirs = detectron2_names(names, back=True)
    for ours, number in (("roi_heads", 0), ("roi_heads.later_stages.0", 1), ("roi_heads.later_stages.1", 2)):
        assert theirs[f"{ours}.box_head.1.0.weight"] == f"roi_heads.box_head.{number}.conv2.weight"
        assert theirs[f"{ours}.box_head.1.1.bias"] == f"roi_heads.box_head.{number}.conv2.norm.bias"
        assert theirs[f"{ours}.box_head.5.weight"] == f"roi_heads.box_head.{number}.fc2.weight"
        assert theirs[f"{ours}.box_predictor.bbox_pred.bias"] == f"roi_heads.box_predictor.{number}.bbox_pred.bias"
    assert theirs["roi_heads.mask_head.0.0.weight"] == "roi_heads.mask_head.mask_fcn1.weight"


@pytest.mark.parametrize("cascade", [True, False])
def test_a_cascade_and_one_stage_are_told_apart(
    cascade: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = ["model.fpn_channels=8", "model.box_hidden=[8]", "model.mask_convs=[]", "model.box_convs=[]"]
    own, other = (
        DetectionModel(
            load_config(DetectionConfig, "mask_rcnn_tiny_256px.yaml", [*small, f"model.cascade={some}"]), ONE
        )
        for some in (cascade, not cascade)
    )
    ours = save_weights(own.state_dict(), tmp_path / "ours.pth")
    theirs = save_weights(to_detectron2(own.model.state_dict()), tmp_path / "theirs.pth")
    one, three = "one box stage", "a cascade of 3 box stages"
    has, recipe = (three, one) if cascade else (one, three)
    for path in (ours, theirs):
        with pytest.raises(
            UserError, match=f"has {has}, the recipe {recipe}; .*set model.cascade={str(cascade).lower()}"
        ):
            load_detector(other, path)
    init_weights(other, str(ours))  # what both have is a start
    assert f"has {has}, the recipe {recipe}; what has no match starts anew" in caplog.text
    for part in ("backbone", "fpn", "rpn", "roi_heads.box_head", "roi_heads.mask_predictor"):
        for name, value in own.model.get_submodule(part).state_dict().items():
            assert torch.equal(other.model.get_submodule(part).state_dict()[name], value), (part, name)


def test_names_of_other_models_are_left_out() -> None:
    others = [
        "backbone.net.pos_embed",
        "backbone.res2.0.conv1.weight",
        "roi_heads.box_head.0.conv1.weight",
        "pixel_mean",
    ]
    assert detectron2_names(others) == {}


def test_weights_of_other_windows_are_refused(tmp_path) -> None:
    small = ["model.fpn_channels=8", "model.box_hidden=[8]", "model.mask_convs=[]", "model.box_convs=[]"]
    seven, four = (
        load_config(DetectionConfig, "mask_rcnn_tiny_256px.yaml", [*small, f"model.window_size={side}"])
        for side in (7, 4)
    )
    classes = [Category(1, "one")]
    path = save_weights(DetectionModel(seven, classes).state_dict(), tmp_path / "model.pth")
    load_detector(DetectionModel(seven, classes), path)
    with pytest.raises(
        UserError, match=r"other attention windows \(7x7 -> 4x4 window\); expected the recipe of its run"
    ):
        load_detector(DetectionModel(four, classes), path)


@pytest.mark.parametrize("override", ["model.window_size=2", "model.global_blocks=[1]"])
def test_weights_of_other_windows_are_refused_with_decomposed_positions_too(override: str, tmp_path: Path) -> None:
    small = ["model.fpn_channels=8", "model.box_hidden=[8]", "model.mask_convs=[]", "model.box_convs=[]"]
    small += ["model.position=decomposed", "model.window_size=3", "data.img_size=96"]
    own, other = (
        load_config(DetectionConfig, "mask_rcnn_tiny_256px.yaml", [*small, *more]) for more in ([], [override])
    )
    classes = [Category(1, "one")]
    path = save_weights(DetectionModel(own, classes).state_dict(), tmp_path / "model.pth")
    with pytest.raises(UserError, match="other attention windows"):
        load_detector(DetectionModel(other, classes), path)


def test_an_encoder_that_is_not_whole_starts_no_detector(tmp_path: Path) -> None:
    small = ["model.fpn_channels=8", "model.box_hidden=[8]", "model.mask_convs=[]", "model.box_convs=[]"]
    model = DetectionModel(load_config(DetectionConfig, "mask_rcnn_tiny_256px.yaml", small), [Category(1, "one")])
    encoder = {name: value for name, value in model.model.backbone.state_dict().items() if "rel_pos" not in name}
    torch.save(encoder, tmp_path / "encoder.pth")
    init_weights(model, str(tmp_path / "encoder.pth"))
    torch.save({name: value for name, value in encoder.items() if "blocks3.1." not in name}, tmp_path / "half.pth")
    with pytest.raises(UserError, match=r"encoder's tensors unfilled \(blocks3\.1\."):
        init_weights(model, str(tmp_path / "half.pth"))


def detector(split: Path, *categories: tuple[int, str]) -> DetectionModel:
    return DetectionModel(tiny_config(split), [Category(*category) for category in categories])


OF_CLASSES = ("box_predictor", "mask_fcn_logits")


def test_a_cascade_keeps_how_boxes_move_for_other_classes(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "model.cascade=true")
    given = DetectionModel(config, [Category(1, "box"), Category(2, "disc")]).state_dict()
    model = DetectionModel(config, [Category(1, "disc"), Category(2, "bar")])
    init_weights(model, str(save_weights(given, tmp_path / "model.pth")))
    for stage in ("", "later_stages.0.", "later_stages.1."):
        for layer, kept in (
            ("box_head.0.0", True),
            ("box_predictor.bbox_pred", True),
            ("box_predictor.cls_score", False),
        ):
            name = f"model.roi_heads.{stage}{layer}.weight"
            assert torch.equal(model.state_dict()[name], given[name]) == kept, name


@pytest.mark.parametrize(
    ("known", "taken"),
    [
        ([(1, "box"), (2, "disc")], True),
        ([(3, "box"), (90, "disc")], True),
        ([(1, "disc"), (2, "box")], False),
        ([(1, "box"), (2, "bar")], False),
    ],
)
def test_heads_of_other_classes_are_left_out_of_a_new_detector(
    known: list[tuple[int, str]], taken: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = detector(tmp_path, *known).state_dict()
    save_weights(given, tmp_path / "model.pth")
    model = detector(tmp_path, (1, "box"), (2, "disc"))
    init_weights(model, str(tmp_path / "model.pth"))
    for name, value in model.state_dict().items():
        if name.endswith("weight") and "norm" not in name and value.ndim > 1:
            of_classes = any(part in name for part in OF_CLASSES)
            assert torch.equal(value, given[name]) == (taken or not of_classes), name
    assert ("starts anew" in caplog.text) != taken


def test_a_detector_serves_the_same_names_in_the_same_order_whatever_their_ids(tmp_path: Path) -> None:
    given = detector(tmp_path, (1, "box"), (2, "disc")).state_dict()
    save_weights(given, tmp_path / "model.pth")
    same = detector(tmp_path, (18, "box"), (44, "disc"))
    load_detector(same, tmp_path / "model.pth")
    same.load_state_dict(given)
    assert [category.id for category in same.categories] == [18, 44]
    for others, words in (
        ([(1, "disc"), (2, "box")], "with 'box' where the data has 'disc' (the same names in another order)"),
        ([(1, "box"), (2, "disc"), (3, "bar")], "without 'bar', which the data has"),
    ):
        other = detector(tmp_path, *others)
        with pytest.raises(UserError, match=re.escape(f"was trained on classes {words}")):
            load_detector(other, tmp_path / "model.pth")
        with pytest.raises(ValueError, match=re.escape(f"it was trained on classes {words}")):
            other.set_extra_state(given["_extra_state"])
