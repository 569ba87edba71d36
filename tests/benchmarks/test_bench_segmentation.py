"""The plain form of the segmentation encoder is the same model as the shipped one; the comparison prints what it promises."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from convmae.backbones import ConvViTSeg
from convmae.benchmarks import bench_segmentation
from convmae.benchmarks.bench_encoder import Case, layer_shapes, multiply_adds
from convmae.benchmarks.bench_segmentation import CLASSES, build, label_maps
from convmae.benchmarks.forms.plain_seg import PlainSegEncoder
from convmae.segmentation.config import ModelOptions, SegmentationConfig
from convmae.segmentation.data.layout import IGNORE
from convmae.segmentation.evaluation.scores import confusion_matrix
from convmae.segmentation.mmseg_parts import IoUMetric
from convmae.tools import benchmark


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize(("height", "width"), [(96, 96), (48, 80)])
def test_maps_and_gradients_are_the_shipped_ones(height: int, width: int, mode: str) -> None:
    torch.manual_seed(0)
    shipped = ConvViTSeg("tiny", (height, width)).double()
    for parameter in shipped.parameters():  # biases, norms, scales and tables that matter
        parameter.data += 0.1 * torch.randn_like(parameter)
    plain = PlainSegEncoder("tiny", (height, width)).double()
    plain.load_state_dict(shipped.state_dict())
    images = torch.randn(2, 3, height, width, dtype=torch.float64)
    found, wanted = (model.train(mode == "train")(images) for model in (plain, shipped))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)
    cotangents = [torch.randn_like(stage) for stage in wanted]
    torch.autograd.backward(found, cotangents)
    torch.autograd.backward(wanted, cotangents)
    ours = dict(plain.named_parameters())
    for name, parameter in shipped.named_parameters():
        torch.testing.assert_close(ours[name].grad, parameter.grad, msg=name)


def test_multiply_adds_agree_with_pytorchs_counter() -> None:
    case = Case(build, "tiny", 128, 2, False, torch.device("cpu"))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        build("plain", case)(case.images())
    wanted = counter.get_total_flops() / 2
    assert multiply_adds("plain", case) == pytest.approx(wanted, rel=0.03)
    assert multiply_adds("shipped", case) == pytest.approx(wanted, rel=0.03)


def test_layers_are_the_encoders() -> None:
    case = Case(build, "tiny", 128, 2, False, torch.device("cpu"))
    assert layer_shapes(case) == [(2 * 32 * 32, 64, 256), (2 * 16 * 16, 128, 512), (2 * 8 * 8, 256, 1024)]


@pytest.mark.parametrize("region", [1, 7])
def test_mmsegs_counts_are_those_of_the_confusion_matrix(region: int) -> None:
    prediction, truth = label_maps(100, region)
    assert prediction.shape == truth.shape == (100, 100)
    kept = truth != IGNORE
    assert 0.8 < kept.float().mean() < 0.98
    assert 0.6 < (prediction == truth)[kept].float().mean() < 0.95
    right, union, predicted, true = IoUMetric.intersect_and_union(prediction, truth, CLASSES, IGNORE)
    confusion = confusion_matrix(prediction, truth, CLASSES).numpy()
    np.testing.assert_array_equal(np.diag(confusion), right)
    np.testing.assert_array_equal(confusion.sum(0), predicted)
    np.testing.assert_array_equal(confusion.sum(1), true)
    np.testing.assert_array_equal(confusion.sum(0) + confusion.sum(1) - np.diag(confusion), union)


def test_the_comparison_prints_and_writes_four_tables(
    peaks_in_order: None, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads_of_16 = ModelOptions(decode_channels=16, aux_channels=16)
    monkeypatch.setattr(bench_segmentation, "SegmentationConfig", partial(SegmentationConfig, model=heads_of_16))
    options = "segmentation --size tiny --pixels 80 --precision fp32 --growth 96 --map 64 --repeats 1 --threads 1"
    assert benchmark.main([*options.split(), "--output", str(tmp_path / "found.json")]) == 0
    heads = [block.split("\n")[0] for block in capsys.readouterr().out.split("\n\n")]
    assert [[word in head for word in ("memory", "tokens", "UPerNet s", "of bound")] for head in heads] == [
        [number == place for place in range(4)] for number in range(4)
    ]
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    forward, step, grown, whole, *counted = rows
    assert (forward["mode"], step["mode"]) == ("forward", "step")
    for row in (forward, step):
        assert row["ratio"] == row["over fp32"] == pytest.approx(row["plain s"] / row["shipped s"])
        assert row["memory"] == row["shipped MB"] / row["plain MB"]
    assert grown["tokens"] == 36
    assert whole["batch"] == 2
    assert whole["encoder's part"] == pytest.approx(whole["encoder s"] / whole["UPerNet s"])
    assert [row["maps"] for row in counted] == ["regions", "noise"]
    for row in counted:
        assert row["ratio"] == pytest.approx(row["mmseg s"] / row["shipped s"])
        assert row["of bound"] == pytest.approx(row["reading s"] / row["shipped s"])


@pytest.mark.parametrize("options", ["--pixels 64", "--growth 90", "--batch 0", "--map 0"])
def test_sizes_that_do_not_fit_are_refused(options: str, capsys: pytest.CaptureFixture) -> None:
    assert benchmark.main(["segmentation", *options.split()]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert options in message
