"""The comparison with onnxruntime runs on a detector and a segmenter, and refuses other files in one line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_detector import write_run

from convmae.backbones import ConvViT
from convmae.benchmarks import bench_onnx
from convmae.benchmarks.timing import Step
from convmae.engine.config import load_config, to_yaml
from convmae.engine.files import save_weights
from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.model.upernet import build_model
from convmae.tools import benchmark

pytest.importorskip("onnxruntime", reason="no onnxruntime: install the packages of the extra `export`")


def detector(folder: Path) -> list[str]:
    write_run(folder)
    return ["model.score_threshold=0", "model.post_nms_test=20"]


def segmenter(folder: Path) -> list[str]:
    options = ["data.crop=64", "data.scale=[96,64]", "model.decode_channels=16"]
    config = load_config(SegmentationConfig, "upernet_tiny_camvid.yaml", options)
    meta = {"dataset_meta": {"classes": list("abc")}}
    save_weights(build_model(config, 3).state_dict(), folder / "model.pth", to_yaml(config), meta)
    return ["data.crop=64"]


@pytest.mark.parametrize(("make", "task"), [(detector, "detection"), (segmenter, "segmentation")])
def test_a_graph_is_compared_and_timed(  # type: ignore[no-untyped-def]
    make, task: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def peak_memory(device: torch.device, prepare: Callable[..., Step], pictures: list) -> int:
        measured.append(pictures)
        prepare(pictures)()
        return 2**20 * len(measured)

    monkeypatch.setattr(bench_onnx, "peak_memory", peak_memory)  # quicker here than in processes of their own
    options = make(tmp_path)
    command = ["onnx", str(tmp_path / "model.pth"), "--repeats", "1", "--threads", "1", "--cfg-options", *options]
    assert benchmark.main([*command, "--output", str(tmp_path / "found.json")]) == 0
    assert "difference from PyTorch:" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert row["task"] == task
    assert row["from"] == row["ratio"] == row["to"]  # of one round
    assert row["ratio"] == pytest.approx(row["onnxruntime a second"] / row["PyTorch a second"])
    assert max(value for name, value in row.items() if name.endswith(" off")) < 1e-2
    assert (row["PyTorch MB"], row["onnxruntime MB"]) == (1, 2)
    assert [len(pictures) for pictures in measured] == [1, 1]


def test_other_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model = ConvViT({"embed_dims": (8, 8, 16), "depths": (1, 1, 1), "num_heads": 1}, num_classes=3, img_size=32)
    torch.save({"model": model.state_dict()}, tmp_path / "classifier.pth")
    for file, message in (("classifier.pth", "expected a detector or a segmenter"), ("none.pth", "no checkpoint")):
        assert benchmark.main(["onnx", str(tmp_path / file), "--repeats", "1"]) == 2
        assert message in capsys.readouterr().err
