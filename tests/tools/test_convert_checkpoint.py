"""The tool turns detector files both ways, says what it left behind, and refuses what it can't turn."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from convmae.detection.config import DetectionConfig
from convmae.detection.data.coco import Category
from convmae.detection.model.detection_model import DetectionModel
from convmae.detection.model.weights import load_detector
from convmae.engine.config import load_config, save_config, to_yaml
from convmae.engine.files import read_config, read_meta, save_weights
from convmae.tools import convert_checkpoint as tool

CLASSES = [Category(3, "box"), Category(7, "disc")]
SMALL = ["model.norm=bn", "model.fpn_channels=8", "model.box_hidden=[8]", "model.mask_convs=[8]", "model.box_convs=[8]"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder with a detector's ``model.pth``, its ``config.yaml``, and ``classes.json`` of its data."""
    config = load_config(DetectionConfig, "mask_rcnn_tiny_256px.yaml", [*SMALL, "data.img_size=64"])
    save_weights(DetectionModel(config, CLASSES).state_dict(), tmp_path / "model.pth")
    save_config(config, tmp_path / "config.yaml")
    content = {
        "images": [{"id": 1, "file_name": "1.png", "width": 8, "height": 8}],
        "annotations": [],
        "categories": [{"id": found.id, "name": found.name} for found in reversed(CLASSES)],
    }
    (tmp_path / "classes.json").write_text(json.dumps(content))
    return tmp_path


def convert(run: Path, source: str, output: str, to: str) -> int:
    options = ["--annotations", str(run / "classes.json"), "--config", str(run / "config.yaml")]
    return tool.main([str(run / source), str(run / output), "--to", to, *(options if to == "convmae" else [])])


def test_a_detector_goes_to_detectron2_and_back(run: Path, capsys: pytest.CaptureFixture) -> None:
    assert convert(run, "model.pth", "detectron2.pth", "detectron2") == 0
    printed = capsys.readouterr().out
    assert "1 left behind" in printed
    assert "(class names): _extra_state" in printed
    theirs = torch.load(run / "detectron2.pth", weights_only=True)["model"]
    arrays = {f"module.{name}": value.numpy() for name, value in theirs.items()}
    arrays["module.pixel_std"] = np.array([58.395, 57.12, 57.375]).reshape(3, 1, 1)
    (run / "zoo.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "someone"}))
    assert convert(run, "zoo.pkl", "back.safetensors", "convmae") == 0
    printed = capsys.readouterr().out
    assert "prefix 'module.'" in printed
    assert "follow from the options: " in printed
    for name in ("pixel_std", "windowed_rel_pos_bias.relative_position_index"):
        assert name in printed
    original, back = torch.load(run / "model.pth", weights_only=True)["model"], load_file(run / "back.safetensors")
    assert back.keys() == original.keys()
    assert all(torch.equal(back[name], value) for name, value in original.items())
    config = load_config(DetectionConfig, run / "config.yaml")
    model = DetectionModel(config, CLASSES)
    load_detector(model, run / "back.safetensors")
    assert all(torch.equal(model.state_dict()[name], value) for name, value in original.items())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_half_precision_keeps_what_a_file_is(run: Path, suffix: str, capsys: pytest.CaptureFixture) -> None:
    original = torch.load(run / "model.pth", weights_only=True)["model"]
    config = load_config(DetectionConfig, run / "config.yaml")
    save_weights(original, run / "own.pth", to_yaml(config), {"of": "a test"})
    assert tool.main([str(run / "own.pth"), str(run / f"half{suffix}"), "--to", "half"]) == 0
    assert f"{len(original)} tensors" in capsys.readouterr().out
    assert read_config(run / f"half{suffix}") == to_yaml(config)
    assert read_meta(run / f"half{suffix}") == {"of": "a test"}
    model = DetectionModel(config, CLASSES)
    load_detector(model, run / f"half{suffix}")
    for name, value in model.state_dict().items():
        assert value.dtype == original[name].dtype
        assert torch.equal(value, original[name].half().to(value.dtype) if value.is_floating_point() else value)


def test_what_half_precision_cannot_hold_is_told(run: Path, capsys: pytest.CaptureFixture) -> None:
    save_weights({"a.weight": torch.tensor([1e5])}, run / "large.pth")
    assert tool.main([str(run / "large.pth"), str(run / "half.pth"), "--to", "half"]) == 2
    assert "a.weight holds values that are not finite" in capsys.readouterr().err
    assert not (run / "half.pth").exists()


def test_a_detector_goes_to_mmdet_and_back(run: Path, capsys: pytest.CaptureFixture) -> None:
    assert convert(run, "model.pth", "mmdet.pth", "mmdet") == 0
    assert "are kept as meta.dataset_meta: _extra_state" in capsys.readouterr().out
    content = torch.load(run / "mmdet.pth", weights_only=True)
    assert content["meta"] == {"dataset_meta": {"classes": ["box", "disc"], "category_ids": [3, 7]}}
    content["state_dict"] = {f"module.{name}": value for name, value in content.pop("model").items()}
    torch.save({**content, "optimizer": {"state": {}}}, run / "trained.pth")
    options = ["--to", "convmae", "--config", str(run / "config.yaml")]
    assert tool.main([str(run / "trained.pth"), str(run / "back.pth"), *options]) == 0
    printed = capsys.readouterr().out
    assert "layout of mmdet" in printed
    assert "0 left behind" in printed
    original, back = (torch.load(run / name, weights_only=True)["model"] for name in ("model.pth", "back.pth"))
    assert back.keys() == original.keys()
    assert all(torch.equal(back[name], value) for name, value in original.items())


def test_a_norm_that_mmdet_lacks_is_known_from_the_recipe(run: Path, capsys: pytest.CaptureFixture) -> None:
    for norm, said in (("ln", "with model.norm=ln, which mmdet's Mask R-CNN lacks"), ("gn", "")):
        config = load_config(DetectionConfig, run / "config.yaml", [f"model.norm={norm}", "model.pyramid=fpn"])
        path = save_weights(DetectionModel(config, CLASSES).state_dict(), run / f"{norm}.pth", to_yaml(config))
        assert tool.main([str(path), str(run / f"{norm}_mmdet.pth"), "--to", "mmdet"]) == (2 if said else 0)
        assert said in capsys.readouterr().err
    state = torch.load(path, weights_only=True)["model"]
    bare = [str(save_weights(state, run / "bare" / "gn.pth")), str(run / "out.pth"), "--to", "mmdet"]
    assert tool.main(bare) == 2
    assert "does not say what model it is of" in capsys.readouterr().err
    assert tool.main([*bare, "--config", str(run / "config.yaml"), "--cfg-options", "model.norm=gn"]) == 0


def test_a_published_files_recipe_and_classes_need_not_be_given(
    run: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convmae.detection.convert_file.PUBLISHED", str(run / "config.yaml"))
    config = load_config(DetectionConfig, run / "config.yaml")
    coco = [Category(number, str(number)) for number in range(80)]
    save_weights(DetectionModel(config, coco).state_dict(), run / "model.pth")
    assert convert(run, "model.pth", "detectron2.pth", "detectron2") == 0
    assert tool.main([str(run / "detectron2.pth"), str(run / "back.pth"), "--to", "convmae"]) == 0
    assert f"tools/test_det.py {run / 'back.pth'} --config {run / 'config.yaml'}" in capsys.readouterr().out
    classes = bytes(torch.load(run / "back.pth", weights_only=True)["model"]["_extra_state"].tolist()).decode()
    assert json.loads(classes)[::79] == [[1, "person"], [90, "toothbrush"]]


def test_a_cascade_goes_both_ways_without_being_told(
    run: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convmae.detection.convert_file.PUBLISHED", str(run / "config.yaml"))
    config = load_config(DetectionConfig, run / "config.yaml", ["model.cascade=true"])
    model = DetectionModel(config, CLASSES)
    save_weights(model.state_dict(), run / "model.pth")
    assert convert(run, "model.pth", "detectron2.pth", "detectron2") == 0
    theirs = torch.load(run / "detectron2.pth", weights_only=True)["model"]
    assert {"roi_heads.box_head.2.conv1.weight", "roi_heads.box_predictor.0.cls_score.bias"} <= theirs.keys()
    classes = ["--annotations", str(run / "classes.json")]
    capsys.readouterr()
    assert tool.main([str(run / "detectron2.pth"), str(run / "back.pth"), "--to", "convmae", *classes]) == 0
    assert f"{run / 'config.yaml'} --cfg-options model.cascade=true" in capsys.readouterr().out
    back = torch.load(run / "back.pth", weights_only=True)["model"]
    assert back.keys() == model.state_dict().keys()
    assert all(torch.equal(back[name], value) for name, value in model.state_dict().items())
    assert convert(run, "detectron2.pth", "other.pth", "convmae") == 2  # by the recipe of one stage
    assert "has a cascade of 3 box stages, the recipe one box stage; " in capsys.readouterr().err


def test_what_cant_be_turned_is_refused_by_one_message(run: Path, capsys: pytest.CaptureFixture) -> None:
    assert convert(run, "model.pth", "detectron2.pth", "detectron2") == 0
    theirs = torch.load(run / "detectron2.pth", weights_only=True)["model"]
    torch.save({"patch_embed1.proj.weight": torch.ones(1)}, run / "encoder.pth")
    torch.save({"state_dict": {"module.decode_head.conv_seg.bias": torch.ones(1)}}, run / "segmenter.pth")
    words = {**theirs, "backbone.fpn_lateral2.weight": np.array(["a"], dtype=object)}
    (run / "words.pkl").write_bytes(pickle.dumps({"model": {n: np.asarray(v) for n, v in words.items()}}))
    (run / "text.pth").write_text("no weights")
    (run / "one.json").write_text(
        (run / "classes.json").read_text().replace('{"id": 3, "name": "box"}', "").replace(", ]", "]")
    )
    capsys.readouterr()
    config, to_ours, to_theirs = ["--config", str(run / "config.yaml")], ["--to", "convmae"], ["--to", "detectron2"]
    classes, one = ["--annotations", str(run / "classes.json")], ["--annotations", str(run / "one.json")]
    for source, output, options, said in (
        ("encoder.pth", "out.pth", to_ours, "can't be converted: found patch_embed1.proj.weight"),
        ("segmenter.pth", "out.pth", to_ours, "tools/test_seg.py takes the file as it is"),
        ("model.pth", "out.pth", to_ours, "layout of convmae, which can't be turned into that of convmae"),
        ("detectron2.pth", "out.pth", to_theirs, "layout of detectron2, which can't"),
        ("detectron2.pth", "out.pth", [*to_ours, *config], "knows 2 classes, not COCO's 80"),
        ("detectron2.pth", "out.pth", [*to_ours, *config, *one], "knows 2 classes, "),
        ("detectron2.pth", "out.pth", [*to_ours, *classes], "fills no detector of this recipe"),
        (
            "detectron2.pth",
            "out.pth",
            [*to_ours, *config, "--annotations", "none.json"],
            "no annotation file none.json",
        ),
        ("model.pth", "out.pth", [*to_theirs, *classes], "leave them out here"),
        ("model.pth", "out.pth", ["--to", "mmdet", *config], "leave them out here"),
        (
            "detectron2.pth",
            "out.pth",
            ["--to", "mmdet"],
            "layout of detectron2, which can't be turned into that of mmdet",
        ),
        ("model.pth", "out.onnx", to_theirs, "expected a name that ends in .pth"),
        ("model.pth", "none/out.pth", to_theirs, "There is no folder"),
        ("model.pth", "detectron2.pth", to_theirs, "is there already"),
        ("model.pth", "model.pth", [*to_theirs, "--overwrite"], "holds the weights: give another output"),
        ("words.pkl", "out.pth", [*to_ours, *config, *classes], "names numpy.dtype"),
        ("text.pth", "out.pth", to_ours, "expected weights saved as"),
        ("none.pth", "out.pth", to_ours, "There is no checkpoint"),
    ):
        assert tool.main([str(run / source), str(run / output), *options]) == 2, said
        message = capsys.readouterr().err
        assert message.startswith("error: ")
        assert said in message
        assert message.count("\n") == 1
    assert not (run / "out.pth").exists()
