"""What is compiled is one graph each, made once, with the numbers of what is not; without a compiler there is one message."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from convmae.backbones.layers import rand_samples
from convmae.benchmarks.counting.compiled_graphs import count_graphs
from convmae.benchmarks.counting.tiny_steps import MODELS, TrainingStep, build
from convmae.engine.errors import UserError
from convmae.engine.machine.compilation import check_compiler, compile_methods
from convmae.tools import pretrain

# Every kind of block there is, once.
SMALL = {"embed_dims": [32, 32, 32], "depths": [1, 1, 2], "num_heads": 2}
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler g++")


@pytest.fixture(autouse=True)
def _clean() -> None:
    torch._dynamo.reset()


def results(step: TrainingStep, seeds: range) -> list[Tensor]:
    """The losses under each seed, and the last one's gradients."""
    losses = []
    for seed in seeds:
        torch.manual_seed(seed)
        losses.append(step.run())
    return losses + [x.grad for x in step.model.parameters() if x.grad is not None]


@pytest.mark.parametrize("name", list(MODELS))
def test_each_model_is_a_graph_for_each_part_with_the_same_numbers(name: str) -> None:
    expected = results(build(name, SMALL), range(3))
    step, seeds = build(name, SMALL), iter(range(3))

    def run() -> None:
        torch.manual_seed(next(seeds))
        step.run()

    assert count_graphs(step.compiled, run, 3, "eager") == [len(step.compiled)] * 3
    found = results(step, range(3))
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
    assert not any("_orig_mod" in key for key in step.model.state_dict())


@pytest.mark.parametrize("name", ["classifier", "UPerNet"])
def test_recomputed_activations_draw_the_same_numbers_compiled(name: str) -> None:
    expected = results(build(name, SMALL, checkpoint_activations=True), range(2))
    step = build(name, SMALL, checkpoint_activations=True)
    compile_methods(step.compiled, "default", "aot_eager")
    for mine, theirs in zip(results(step, range(2)), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_evaluation_runs_as_it_was() -> None:
    step = build("classifier", SMALL)
    model = step.model.model
    images = [torch.randn(2, 3, side, side) for side in (32, 48, 64, 80)]
    model.eval()
    expected = [model(x) for x in images]
    assert count_graphs(step.compiled, lambda: [model(x) for x in images], 1, "eager") == [0]
    for x, wanted in zip(images, expected, strict=True):
        torch.testing.assert_close(model(x), wanted, rtol=0, atol=0)


class Dropping(nn.Module):
    """Draws as drop path does."""

    def forward(self, x: Tensor) -> Tensor:
        return x * rand_samples(*x.shape)


class Breaking(nn.Module):
    """Can't be one graph."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x - 1


@needs_compiler
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_generated_code_draws_what_pytorch_draws(mode: str) -> None:
    plain, compiled = Dropping(), Dropping()
    compile_methods([compiled.forward], mode)
    x = torch.ones(4, 5)
    for seed in range(2):
        found = []
        for module in (plain, compiled):
            torch.manual_seed(seed)
            found.append(module(x))
        torch.testing.assert_close(*found, rtol=0, atol=0)


def test_what_can_not_be_compiled_is_named() -> None:
    module = Breaking()
    compile_methods([module.forward], "default", "eager")
    with pytest.raises(UserError, match=r"can't compile Breaking\.forward .* or set runtime\.compile=false"):
        module(torch.ones(2))


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    """A pretraining of three steps on six pictures."""
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for number in range(6):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(tmp_path / "pictures" / f"{number}.png")
    return [
        "--config", "fastconvmae_tiny_96px.yaml", "--cfg-options", "model.img_size=32", "model.groups=2", "data.batch_size=4",
        "data.workers=0", "schedule.epochs=null", "schedule.steps=3", "schedule.warmup=1", "runtime.precision=fp32",
        "runtime.device=cpu", "runtime.log_every=1", f"data.root={tmp_path / 'pictures'}",
    ]  # fmt: skip


@needs_compiler
@pytest.mark.skipif(
    torch.__version__.startswith("2.11."),
    reason="its CPU backend makes C++ code of the gather of patches that no compiler takes",
)
def test_a_compiled_pretraining_has_the_numbers_of_one_that_is_not() -> None:
    smallest = {**SMALL, "depths": [1, 1, 1]}
    expected = results(build("FastConvMAE", smallest), range(2))
    step = build("FastConvMAE", smallest)
    compile_methods(step.compiled, "default")
    for mine, theirs in zip(results(step, range(2)), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_without_a_compiler_there_is_one_message_before_anything_is_written(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    import torch._inductor.config as inductor

    check_compiler.cache_clear()
    monkeypatch.setattr(inductor.cpp, "cxx", (None, "/nonexistent"))
    assert pretrain.main([*options, "--compile", "--work-dir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "runtime.compile: PyTorch can't compile a line for the CPU" in said
    assert "expected a C++ compiler" in said
    assert "set runtime.compile=false" in said
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()
