"""The plain form of the detection encoder is the same model as the shipped one, and the comparison prints what it promises."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from convmae.backbones import ConvViTDet
from convmae.benchmarks import bench_detection
from convmae.benchmarks.bench_detection import build, objects
from convmae.benchmarks.bench_encoder import Case, layer_shapes, multiply_adds
from convmae.benchmarks.forms.plain_det import PlainDetEncoder
from convmae.detection.config import ModelOptions
from convmae.tools import benchmark


def shipped_and_plain(height: int, width: int, window: tuple[int, int]) -> tuple[ConvViTDet, PlainDetEncoder]:
    torch.manual_seed(0)
    shipped = ConvViTDet("tiny", (height, width), window).double()
    for parameter in shipped.parameters():  # biases, norms and tables that matter
        parameter.data += 0.1 * torch.randn_like(parameter)
    plain = PlainDetEncoder("tiny", (height, width), window).double()
    plain.load_state_dict(shipped.state_dict())
    return shipped, plain


@pytest.mark.parametrize(
    ("height", "width", "window"),
    [
        (128, 128, (4, 4)),  # windows that divide the grid of 8 x 8
        (96, 160, (2, 5)),
        (80, 112, (4, 4)),  # 5 x 7
        (96, 128, (7, 7)),  # 6 x 8: smaller than a window, and larger
        (16, 48, (2, 2)),
    ],
)
def test_maps_and_gradients_are_the_shipped_ones(height: int, width: int, window: tuple[int, int]) -> None:
    shipped, plain = shipped_and_plain(height, width, window)
    images = torch.randn(2, 3, height, width, dtype=torch.float64)
    found, wanted = plain(images), shipped(images)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)
    cotangents = [torch.randn_like(stage) for stage in wanted]
    torch.autograd.backward(found, cotangents)
    torch.autograd.backward(wanted, cotangents)
    ours = dict(plain.named_parameters())
    for name, parameter in shipped.named_parameters():
        torch.testing.assert_close(ours[name].grad, parameter.grad, msg=name)


def test_multiply_adds_agree_with_pytorchs_counter() -> None:
    case = Case(build, "tiny", 128, 2, False, torch.device("cpu"), window=4)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        build("plain", case)(case.images())
    wanted = counter.get_total_flops() / 2
    assert multiply_adds("plain", case) == pytest.approx(wanted, rel=0.03)
    assert multiply_adds("shipped", case) == pytest.approx(wanted, rel=0.03)


def test_layers_are_the_encoders() -> None:
    case = Case(build, "tiny", 128, 2, False, torch.device("cpu"), window=4)
    assert layer_shapes(case) == [(2 * 32 * 32, 64, 256), (2 * 16 * 16, 128, 512), (2 * 8 * 8, 256, 1024)]


def test_objects_fill_their_boxes_within_the_picture() -> None:
    found = objects(Case(build, "tiny", 64, 1, False, torch.device("cpu"), window=4))
    for box, mask in zip(found["boxes"], found["masks"], strict=True):
        rows, columns = torch.where(mask > 0)
        extent = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert ((extent - box).abs() <= 1).all()
        assert mask.sum() == (extent[2] - extent[0]) * (extent[3] - extent[1])


def test_the_comparison_prints_and_writes_three_tables(
    peaks_in_order: None, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    light = partial(ModelOptions, fpn_channels=16, roi_sampled=16, box_convs=[], box_hidden=[16], mask_convs=[16])
    monkeypatch.setattr(bench_detection, "ModelOptions", light)
    options = "detection --size tiny --pixels 64 --window 2 --precision fp32 --growth 32 64 --repeats 1 --threads 1"
    assert benchmark.main([*options.split(), "--output", str(tmp_path / "found.json")]) == 0
    heads = [block.split("\n")[0] for block in capsys.readouterr().out.split("\n\n")]
    assert [("ratio" in head, "tokens" in head, "Mask R-CNN s" in head) for head in heads] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]
    forward, step, smaller, larger, whole = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert (forward["mode"], step["mode"]) == ("forward", "step")
    assert [row["plain MB"] for row in (forward, step)] == [1, 2]
    assert [row["shipped MB"] for row in (forward, step)] == [3, 4]
    for row in (forward, step):
        assert row["ratio"] == row["over fp32"] == pytest.approx(row["plain s"] / row["shipped s"])
        assert row["share"] == pytest.approx(row["shipped G"] / row["shipped s"] / row["products G/s"])
    assert step["shipped G"] == 3 * forward["shipped G"]
    assert larger["tokens"] == 4 * smaller["tokens"]
    assert larger["forward G"] == pytest.approx(forward["shipped G"])
    assert whole["encoder's part"] == pytest.approx(whole["encoder s"] / whole["Mask R-CNN s"])


@pytest.mark.parametrize("options", ["--pixels 50", "--growth 0", "--batch 0", "--window 0"])
def test_sizes_that_do_not_fit_are_refused(options: str, capsys: pytest.CaptureFixture) -> None:
    assert benchmark.main(["detection", *options.split()]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert options in message
