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


def test_the_same_call_prints_the_same(capsys: pytest.CaptureFixture) -> None:
    words = ["detection", "--size", "tiny", "--img-size", "256"]  # whose boxes are pooled from two levels
    printed = set()
    for _ in range(2):
        assert tool.main(words) == 0
        printed.add(capsys.readouterr().out)
    assert len(printed) == 1


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


def test_what_processes_send_is_their_gradients_twice_but_for_their_own_share(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["--processes", "2", "8", "--links", "10", "1000"]
    assert tool.main(["convmae", "--size", "tiny", "small", "--img-size", "96", *words]) == 0
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["model", "gradients", "processes", "kept by each", "with --shard", "10 Gbit/s", "1000 Gbit/s"]
    assert [row[0] for row in rows[2:]] == ["convmae, tiny"] * 2 + ["convmae, small"] * 2
    model, _ = build("convmae", "tiny", 96, 96, 0.75)
    size = sum(len(one.grad.flatten()) * 4 for one in gradients_of(model))
    for row, processes in zip(rows[2:4], (2, 8), strict=True):
        sent = 2 * size - 2 * size / processes  # to reduce, and to gather, all but one's own share
        assert row[1:3] == [f"{size / 1e6:.0f} MB", str(processes)]
        assert float(row[5].removesuffix(" ms")) == pytest.approx(sent * 8 / 10e9 * 1e3, abs=0.51)
        assert float(row[6].removesuffix(" ms")) == pytest.approx(sent * 8 / 1000e9 * 1e3, abs=0.051)
    assert tool.main(["convmae", "--processes", "1"]) == 2
    assert "expected 2 or more" in capsys.readouterr().err


def test_what_processes_keep_is_weights_gradients_and_moments(capsys: pytest.CaptureFixture) -> None:
    assert tool.main(["convmae", "--size", "base", "--img-size", "64", "--processes", "2", "8"]) == 0
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:]]
    model, _ = build("convmae", "base", 64, 64, 0.75)
    weights = sum(4 * one.numel() for one in model.parameters())
    trained = sum(4 * one.numel() for one in model.parameters() if one.requires_grad)
    block = sum(4 * one.numel() for name, one in model.named_parameters() if "blocks3.0." in name)
    for row, processes in zip(rows, (2, 8), strict=True):
        kept, split = (1e9 * float(cell.removesuffix(" GB")) for cell in row[3:5])
        assert kept == pytest.approx(weights + 3 * trained, abs=1e7)
        assert split == pytest.approx((weights + 3 * trained) / processes + 2 * block, abs=1e7)


def gradients_of(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that a backward pass gives gradients."""
    model(torch.rand(1, 3, 96, 96)).backward()
    return [one for one in model.parameters() if one.grad is not None]


def test_a_frozen_encoder_sends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "frozen.yaml").write_text("_base_: finetune_tiny_96px.yaml\nmodel:\n  freeze: encoder\n")
    assert tool.main([str(tmp_path / "frozen.yaml"), "--processes", "2", "--links", "1"]) == 0
    head = 256 * 1000 + 1000 + 2 * 256  # the classifier's, and its norm's
    milliseconds = float(capsys.readouterr().out.splitlines()[-1].split("|")[-2].removesuffix(" ms "))
    assert milliseconds == pytest.approx(head * 4 * 8 / 1e9 * 1e3, rel=0.1)


def test_the_memory_of_training_is_told_before_a_gpu_is_there(capsys: pytest.CaptureFixture) -> None:
    words = ["detection", "--size", "tiny", "--img-size", "64", "--batch", "1", "2"]
    assert tool.main([*words, "--processes", "4"]) == 0
    head, _, one, two, _, communication, *_ = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")] == [
        *("model", "pictures a process", "kept", "activations", "in all", "--shard, 4")
    ]
    assert communication.startswith("| model | gradients | processes |")
    needed = [[float(cell.split()[0]) for cell in row.split("|")[3:7]] for row in (one, two)]
    assert needed[0][0] == needed[1][0]
    assert needed[0][1] < needed[1][1]
    assert tool.main([*words, "--checkpoint-activations"]) == 0
    again = capsys.readouterr().out.splitlines()[3]
    assert float(again.split("|")[4].split()[0]) <= needed[1][1]


def test_a_recipe_s_teachers_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    kept, activations = [], []
    for teachers in ("", ", {teacher: ema}", ", {teacher: vit_tiny_patch16_224}"):  # no weights are asked for
        recipe = f"targets: [{{teacher: pixels}}{teachers}]\nmodel: {{size: tiny, img_size: 64}}\n"
        (tmp_path / "recipe.yaml").write_text(recipe)
        assert tool.main([str(tmp_path / "recipe.yaml"), "--batch", "64"]) == 0
        cells = capsys.readouterr().out.splitlines()[-1].split("|")
        kept.append(float(cells[3].removesuffix(" GB ")))
        activations.append(float(cells[4].removesuffix(" GB ")))
    assert kept[0] < min(kept[1:])
    assert activations[0] < min(activations[1:])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["detection", "--batch", "0"], "--batch [0]: expected 1 or more"),
        (["detection", "--checkpoint-activations"], "expected --batch with it"),
        (["segmentation", "--size", "tiny", "--batch", "1"], "batch norm, which this model has, needs 2 in training"),
    ],
)
def test_batches_that_can_t_be_are_refused(words: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert tool.main(words) == 2
    assert message in capsys.readouterr().err
