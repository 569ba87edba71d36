"""The dense form is the same model, and the comparisons run and print what they promise."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from convmae.benchmarks import timing
from convmae.benchmarks.bench_pretrain import METHODS, kept_patches, layer_products, multiply_adds
from convmae.benchmarks.forms.dense_form import DenseMaskedAutoencoder
from convmae.benchmarks.timing import alternate, peak_memory
from convmae.engine.errors import UserError
from convmae.tools import benchmark

CPU = torch.device("cpu")


@pytest.mark.parametrize("method", ["convmae", "fastconvmae"])
@pytest.mark.parametrize("img_size", [96, 80])  # 36 patches make equal groups, 25 don't
def test_the_dense_form_has_the_shipped_models_loss_and_gradients(method: str, img_size: int) -> None:
    torch.manual_seed(0)
    shipped = METHODS[method]("tiny", img_size).double()
    dense = DenseMaskedAutoencoder("tiny", img_size).double()
    for parameter in shipped.parameters():  # biases and norms that matter
        parameter.data += 0.02 * torch.randn_like(parameter)
    dense.load_state_dict(shipped.state_dict())
    images = torch.randn(2, 3, img_size, img_size, dtype=torch.float64)
    noise = torch.rand(2, (img_size // 16) ** 2)

    loss = shipped(images, 0.75, noise, predict="removed").loss
    expected = dense(images, kept_patches(method, noise))
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)  # the loss weighs patches in fp32
    loss.backward()
    expected.backward()
    wanted = dict(dense.named_parameters())
    for name, parameter in shipped.named_parameters():
        grad = wanted[name].grad
        assert (parameter.grad is None) == (grad is None), name
        if parameter.grad is not None and grad is not None:
            torch.testing.assert_close(parameter.grad, grad, rtol=1e-5, atol=1e-8, msg=name)


@pytest.mark.parametrize("method", ["convmae", "fastconvmae"])
def test_multiply_adds_agree_with_pytorchs_counter(method: str) -> None:
    torch.manual_seed(0)
    keep = kept_patches(method, torch.rand(1, 36))
    model = DenseMaskedAutoencoder("tiny", 96)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 96, 96), keep)
    assert multiply_adds("dense", method, "tiny", 96) == pytest.approx(counter.get_total_flops() / 2, rel=0.03)


def test_the_shipped_models_do_less_work_than_the_dense_form() -> None:
    counts = {form: multiply_adds(form, "convmae", "base", 224) / 1e9 for form in ("dense", "shipped")}
    assert counts["dense"] == pytest.approx(17.26, abs=0.005)  # fvcore's count of the public code
    assert counts["shipped"] == pytest.approx(11.2, abs=0.05)


def test_products_are_those_of_the_models_layers() -> None:
    step, work = layer_products("convmae", "tiny", 96, 2, None, CPU)
    with FlopCounterMode(display=False) as counter:
        step()
    assert counter.get_total_flops() == 2 * work
    layers = [
        (2 * 9 * 16, 64),
        (2 * 9 * 4, 128),
        (2 * 9, 256),
        (2 * 36, 128),
    ]  # rows and widths of three stages and decoder
    assert work == sum(3 * rows * width * 4 * width for rows, width in layers)


def test_steps_take_turns_and_the_first_round_is_not_counted() -> None:
    calls = []
    found = alternate({name: lambda name=name: calls.append(name) for name in "ab"}, 2, CPU)
    assert "".join(calls) == "ababab"
    assert list(found) == ["a", "b"]


def test_peak_memory_is_that_of_the_step() -> None:
    assert peak_memory(CPU, partial, torch.ones, 200 * 2**18) / 2**20 == pytest.approx(200, rel=0.1)


def test_a_gpus_peak_is_measured_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(timing, "begin_peak", lambda device: seen.append("begin"))
    monkeypatch.setattr(timing, "peak_bytes", lambda device: 100 * len(seen))
    prepare = lambda: seen.append("prepare") or (lambda: seen.append("step"))  # noqa: E731
    assert peak_memory(torch.device("cuda"), prepare) == 200
    assert seen == ["prepare", "begin", "step", "step"]


def test_too_little_memory_is_said() -> None:
    with pytest.raises(UserError, match="too little of it"):
        peak_memory(CPU, partial, os._exit, 9)  # as a process that is killed: it ends without a word


def costly(megabytes: int) -> partial:
    torch.ones(4 * megabytes * 2**18)
    return partial(torch.ones, megabytes * 2**18)


def test_what_preparing_a_step_took_is_not_taken_for_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # where the new process finds this module
    assert peak_memory(CPU, costly, 100) / 2**20 == pytest.approx(100, rel=0.1)


def test_the_pretraining_comparison_writes_its_rows(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = (
        "pretrain --size tiny --img-size 32 --batch-size 1 --method convmae --precision fp32 --repeats 1 --threads 1"
    )
    assert benchmark.main([*options.split(), "--output", str(tmp_path / "found.json")]) == 0
    assert "ratio" in capsys.readouterr().out
    written = json.loads((tmp_path / "found.json").read_text())
    (row,) = written["rows"]
    assert row["ratio"] == pytest.approx(row["dense s"] / row["shipped s"])
    assert row["share"] > 0
    assert written["options"]["size"] == "tiny"
    assert written["machine"]["torch"] == torch.__version__


def test_the_loading_comparison_takes_a_folder_or_generates_one(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    Image.new("RGB", (60, 40), "red").save(tmp_path / "red.png")
    options = "--img-size 32 --repeats 1 --threads 1 --workers 0"
    for given, pictures in ((str(tmp_path), 1), ("--pictures 2", 2)):
        assert benchmark.main(["loading", *given.split(), *options.split()]) == 0
        *_, head, row = (
            capsys.readouterr().out.splitlines()
        )  # before them, what is kept in memory, once a log is started
        assert dict(zip(head.split(), row.split(), strict=False))["pictures"] == str(pictures)


def test_the_comparison_of_views_has_a_row_for_pixels_and_one_for_the_teachers(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for number in range(3):
        Image.new("RGB", (60, 40), (number * 80, 90, 90)).save(tmp_path / f"{number}.png")
    options = ["views", str(tmp_path), "--img-size", "32", "--batch-size", "2", "--repeats", "1", "--threads", "1"]
    assert benchmark.main([*options, "--output", str(tmp_path / "found.json")]) == 0
    pixels, teachers = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert pixels["targets"] == "pixels"
    assert teachers["targets"].split("+")[0] == "ema"
    assert teachers["ratio"] == pytest.approx(teachers["FastConvMAE s"] / teachers["ConvMAE, 4 steps, s"])
    assert benchmark.main([*options, "--teachers", "nobody"]) == 2
    assert "There is no teacher 'nobody'" in capsys.readouterr().err


def test_the_comparison_of_evaluations_finds_equal_numbers(tmp_path: Path) -> None:
    options = "evaluation --pictures 5 --classes 3 --detections 20 --repeats 1 --threads 1 --intervals"
    assert benchmark.main([*options.split(), "--output", str(tmp_path / "found.json")]) == 0
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert [row["kind"] for row in rows] == ["bbox", "segm"]
    assert all(row["detections"] == 100 and row["difference"] < 1e-12 for row in rows)
    assert all(row["before it"] > 0 and row["intervals s"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("pretrain --img-size 50", "expected a multiple of 16"),
        ("pretrain --repeats 0", "expected 1 or more"),
        ("loading nowhere", "There is no folder nowhere"),
        ("loading --batch-size 0", "must be 1 or more"),
        ("evaluation --classes 0", "must be 1 or more"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: str, message: str, capsys: pytest.CaptureFixture) -> None:
    assert benchmark.main(options.split()) == 2
    assert message in capsys.readouterr().err
