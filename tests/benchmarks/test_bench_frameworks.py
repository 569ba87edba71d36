"""One detector's numbers and detections are the same here and in the frameworks that are installed; absent ones are named."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from tiny_detector import random_detector

from convmae.benchmarks import bench_frameworks
from convmae.benchmarks.bench_frameworks import again
from convmae.detection.config import DetectionConfig
from convmae.detection.data.coco import Category
from convmae.detection.data.rle import encode
from convmae.detection.model.detection_model import DetectionModel
from convmae.engine.config import load_config, to_yaml
from convmae.engine.files import save_weights
from convmae.engine.pictures import scenes
from convmae.tools import benchmark

SIDE = 64


@pytest.fixture(scope="module")
def scenes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes.generate(tmp_path_factory.mktemp("scenes"), train=2, val=3, size=96).coco


def save_detector(folder: Path, data: Path, *options: str) -> Path:
    """Writes a small detector with random weights whose recipe has the generated scenes as its data."""
    config = load_config(
        DetectionConfig,
        "mask_rcnn_tiny_256px.yaml",
        [
            f"data.root={data}", f"data.img_size={SIDE}", "data.eval_batch_size=2", "model.fpn_channels=16",
            "model.anchor_sizes=[8,16,32,64,128]", "model.canonical_size=56", "model.box_convs=[16,16]",
            "model.box_hidden=[32]", "model.mask_convs=[16,16]", "model.score_threshold=0.15", "model.detections=20",
            "runtime.device=cpu", *options,
        ],
    )  # fmt: skip
    names = [one["name"] for one in json.loads((data / "annotations/instances_val2017.json").read_text())["categories"]]
    model = DetectionModel(config, [Category(number, name) for number, name in enumerate(names, 1)])
    model.model = random_detector(config.model, len(names), SIDE, 0.2)
    return save_weights(model.state_dict(), folder / "model.pth", to_yaml(config))


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_every_framework_that_is_there_gives_the_same(
    norm: str, scenes_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    weights, output = save_detector(tmp_path, scenes_folder, f"model.norm={norm}"), tmp_path / "found.json"
    assert (
        benchmark.main(["frameworks", str(weights), "--repeats", "1", "--threads", "1", "--output", str(output)]) == 0
    )
    shown = capsys.readouterr().out
    ours, *others = json.loads(output.read_text())["rows"]
    assert ours["framework"] == "here"
    assert ours["detections"] == ours["found again"] > 15
    assert {row["framework"] for row in others} == {"mmdet", "detectron2"}
    for row in others:
        assert row["framework"] in shown
        if find_spec(row["framework"]) is None:
            assert "is not installed; docs/" in row["not compared"]
            continue
        assert row["detections"] == row["found again"] == ours["detections"]
        for name in ("box mAP", "box AP50", "mask mAP", "mask AP50"):
            assert row[name] == pytest.approx(ours[name], abs=0.1)
        assert abs(row["box off"]) < 0.1


def test_what_the_shipped_configs_lack_is_said_of_each_framework(scenes_folder: Path, tmp_path: Path) -> None:
    weights, output = save_detector(tmp_path, scenes_folder, "data.padding=mean"), tmp_path / "found.json"
    assert benchmark.main(["frameworks", str(weights), "--repeats", "1", "--output", str(output)]) == 0
    _, *others = json.loads(output.read_text())["rows"]
    reasons = {
        "data.padding is mean; expected grey" if find_spec(row["framework"]) else "is not installed" for row in others
    }
    assert all(any(reason in row["not compared"] for reason in reasons) for row in others)


def test_mistakes_are_told_by_one_message(
    scenes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    weights = save_detector(tmp_path, scenes_folder)
    monkeypatch.setattr(bench_frameworks, "find_spec", lambda name: None)
    for options, message in (
        ([str(weights), "--frameworks", "mmdet"], "mmdet is not installed; docs/mmdetection.md says how"),
        ([str(tmp_path / "none.pth")], "none.pth"),
        ([str(weights), "--cfg-options", f"data.root={tmp_path}"], "instances_val2017.json"),
    ):
        assert benchmark.main(["frameworks", *options, "--repeats", "1"]) == 2
        assert message in capsys.readouterr().err


def detections(boxes: list[list[float]], scores: list[float], labels: list[int]) -> dict:
    masks = encode(torch.zeros(len(boxes), 4, 4, dtype=torch.bool))
    return {
        "boxes": torch.tensor(boxes),
        "scores": torch.tensor(scores),
        "labels": torch.tensor(labels),
        "masks": masks,
    }


def test_a_detection_is_found_again_by_one_of_its_class_place_and_score() -> None:
    ours = detections([[0, 0, 9, 9], [0, 0, 9, 9], [5, 5, 9, 9]], [0.9, 0.9, 0.5], [1, 1, 0])
    assert again(ours, ours) == 3
    assert again(ours, detections([[0, 0, 9, 9.05]], [0.9], [1])) == 1  # not once for each of two alike
    assert again(ours, detections([[0, 0, 9, 9.2], [0, 0, 9, 9], [5, 5, 9, 9]], [0.9, 0.9, 0.5], [1, 0, 0])) == 1
    assert again(ours, detections([[5, 5, 9, 9]], [0.49], [0])) == 0
    assert again(ours, {name: value[:0] for name, value in ours.items()}) == 0
