"""Counts against published ones and against PyTorch's own counter."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from convmae.backbones import ConvViT
from convmae.benchmarks.counting.complexity import analyze
from convmae.benchmarks.counting.whole_models import build
from convmae.engine.files import save_weights
from convmae.tools import analyze as tool


@pytest.mark.parametrize(
    ("task", "millions", "billions"),
    [("encoder", 84.61, 23.1), ("classifier", 85.37, 23.1), ("convmae", 115.04, 11.2), ("fastconvmae", 115.04, 44.8)],
)
def test_the_base_models_have_the_published_counts(task: str, millions: float, billions: float) -> None:
    (whole, *_), uncounted = analyze(*build(task, "base", 224, 224, 0.75), depth=1)
    assert whole.parameters / 1e6 == pytest.approx(millions, abs=0.005)
    assert whole.multiply_adds / 1e9 == pytest.approx(billions, abs=0.05)
    assert not uncounted


@pytest.mark.parametrize(
    "task", ["convmae", "fastconvmae", "mae", "classifier", "detection", "cascade_detection", "segmentation"]
)
def test_sums_and_other_sizes_agree_with_pytorchs_counter(task: str) -> None:
    torch.manual_seed(0)
    model, inputs = build(task, "tiny", 96, 64, 0.5)
    parts, uncounted = analyze(model, inputs, depth=2)
    assert not uncounted
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*inputs)
    # fvcore counts a few operations for each element of a norm, PyTorch none.
    assert parts[0].multiply_adds == pytest.approx(counter.get_total_flops() / 2, rel=0.02)
    assert parts[0].parameters == sum(parameter.numel() for parameter in model.parameters())


def test_the_tool_prints_a_table_for_each_size(capsys: pytest.CaptureFixture) -> None:
    assert tool.main(["detection_backbone", "--size", "tiny", "--img-size", "64", "48x80", "--depth", "1"]) == 0
    printed = capsys.readouterr().out
    for text in ("64 x 64 pixels", "48 x 80 pixels", "multiply-adds", "blocks3", "global_rel_pos_bias"):
        assert text in printed


@pytest.mark.parametrize("task", ["convmae", "mae", "encoder", "classifier", "detection", "segmentation"])
def test_another_channel_costs_the_first_layer_and_the_decoder_that_much(task: str) -> None:
    parameters = [
        sum(parameter.numel() for parameter in build(task, "tiny", 64, 64, 0.5, channels)[0].parameters())
        for channels in (3, 4)
    ]
    first = {"mae": 16 * 16 * 256}.get(task, 4 * 4 * 64)
    decoder = 16 * 16 * (128 + 1) if task in ("convmae", "mae") else 0
    assert parameters[1] - parameters[0] == first + decoder


def test_a_size_that_is_none_is_refused(capsys: pytest.CaptureFixture) -> None:
    assert tool.main(["encoder", "--img-size", "224by224"]) == 2
    assert "expected pixels, as 224 or 480x640" in capsys.readouterr().err
    assert tool.main(["convmae", "--size", "tiny", "--img-size", "32", "--mask-ratio", "1.0"]) == 2


def test_a_recipe_and_its_weights_say_which_model_it_is(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert tool.main(["finetune_tiny_96px.yaml", "--depth", "1"]) == 0
    assert "finetune_tiny_96px.yaml, tiny, one picture of 96 x 96 pixels" in capsys.readouterr().out
    model = ConvViT("tiny", 5, 96)
    recipe = "model:\n  size: tiny\n  img_size: 96\naugment:\n  mixup: 0.0\n"
    meta = {"dataset_meta": {"classes": list("abcde")}}
    save_weights(model.state_dict(), tmp_path / "model.pth", recipe, meta)
    assert tool.main([str(tmp_path / "model.pth"), "--depth", "1"]) == 0
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert f"{millions:.2f} M" in capsys.readouterr().out
    assert tool.main(["finetune_tiny_96px.yaml", "--size", "base"]) == 2
    assert "says what --size would" in capsys.readouterr().err
    assert tool.main(["nowhere"]) == 2
    assert "name one of" in capsys.readouterr().err
