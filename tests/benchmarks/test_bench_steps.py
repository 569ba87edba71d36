"""Kernels under fake tensors are those that PyTorch would launch; base models keep their limits; rows are as promised."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from convmae.backbones.attention.biased import biased_attention
from convmae.backbones.attention.fused import HAS_TRITON
from convmae.benchmarks.bench_steps import ATTENTIONS, encoder, gradient_error, kernels
from convmae.benchmarks.counting.fake_gpu import count_step
from convmae.benchmarks.counting.host_waits import host_waits
from convmae.benchmarks.counting.tiny_steps import MODELS, build
from convmae.benchmarks.forms.plain_seg import PlainSegEncoder
from convmae.tools import benchmark

needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="there is no Triton, whose kernels are counted")
LOSS = {"aten::sum", "aten::ones_like"}  # of summing an output, and of its gradient


def count(make: Callable[[], Callable[[], Tensor]], training: bool = True) -> dict[str, int]:
    found = dict(count_step(make, training).kernels)
    assert LOSS & found.keys()
    return {name: number for name, number in found.items() if name not in LOSS}


def test_a_linear_layer_is_a_product_forward_and_two_backward_and_each_tensor_is_cast_once() -> None:
    def make() -> Callable[[], Tensor]:
        layer, x = nn.Linear(8, 16), torch.randn(4, 8, requires_grad=True)
        return lambda: layer(x).sum() + layer(x).sum()

    found = count(make)
    # In fp32 go in weight, bias and x; the first two are kept over the step, x is a leaf that is kept, too. The same back.
    assert found["aten::addmm"] == 2
    assert found["aten::mm"] == 4
    assert found["aten::_to_copy"] == 3 + 2 + 3  # back also the two outputs' sums


def test_norms_are_in_fp32_and_views_and_allocations_are_free() -> None:
    def make() -> Callable[[], Tensor]:
        norm, x = nn.LayerNorm(8), torch.randn(4, 8, dtype=torch.bfloat16)
        return lambda: norm(x.view(2, 2, 8).transpose(0, 1)).flatten()[:3].expand(2, 3).sum()

    assert count(make, training=False) == {"aten::_to_copy": 1, "aten::native_layer_norm": 1}


@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_one_kernel_forward(masked: bool) -> None:
    def make() -> Callable[[], Tensor]:
        query = torch.randn(1, 2, 32, 8, dtype=torch.bfloat16)
        mask = torch.zeros(32, 32, dtype=torch.bfloat16) if masked else None
        return lambda: F.scaled_dot_product_attention(query, query, query, attn_mask=mask).sum()

    name = "aten::_scaled_dot_product_" + ("efficient_attention" if masked else "flash_attention")
    assert count(make, training=False) == {name: 1}


@needs_triton
def test_the_fused_operator_counts_as_the_triton_kernels_that_it_launches() -> None:
    def make() -> Callable[[], Tensor]:
        leaves = [torch.randn(2, 2, 64, 16, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
        table = torch.zeros(2, 15, 15, requires_grad=True)
        return lambda: biased_attention(*leaves, table, (8, 8)).sum()

    counts = count_step(make)
    launched = ("attend", "query_gradients", "key_gradients", "table_gradients", "fold_bands")
    assert [counts.kernels[name] for name in launched] == [1, 1, 1, 1, 1]
    assert counts.forward.kernels == 3  # the table's scale, attention, the loss
    # The rest is two operators, the loss, its gradient in fp32 and bf16, and three in their leaves' layout.
    assert sum(counts.kernels.values()) - counts.within <= 8
    assert counts.forward.flops == 2 * 2 * (2 * 2 * 64 * 64 * 16)


def test_bytes_and_the_peak_are_those_of_the_tensors() -> None:
    def make() -> Callable[[], Tensor]:
        x = torch.randn(1000, 1000)
        return lambda: (x + 1).mul(2).sum()

    counts = count_step(make, training=False)
    million = 4_000_000
    assert counts.forward.bytes == 2 * million + 2 * million + million + 4
    assert counts.peak == pytest.approx(2 * million, rel=0.01)  # of two results alive at once; x was there before


def test_products_of_an_encoder_are_those_that_pytorch_counts() -> None:
    def model() -> nn.Module:
        return PlainSegEncoder("tiny", (96, 96))

    counts = count_step(encoder(model, 96, 2), training=False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model()(torch.zeros(2, 3, 96, 96))
    assert counts.forward.flops == counter.get_total_flops()


@needs_triton
def test_base_models_launch_no_more_kernels_than_they_may() -> None:
    detection = {row["form"]: row for row in kernels("7x7")}
    assert detection["fused"]["fused as one"] <= 1600
    assert detection["by slices"]["step kernels"] <= 3500
    segmentation = {row["form"]: row for row in kernels("ConvViTSeg")}
    assert segmentation["fused"]["fused as one"] <= 1300


@pytest.mark.parametrize("name", [name for name in MODELS if "ConvMAE" in name] + ["classifier"])
def test_pretraining_and_classification_never_wait(name: str) -> None:
    step = build(name)
    assert host_waits(step.run, [step.model, *step.batch]) == []


def test_the_error_of_gradients_is_none_in_fp64_whatever_the_form_and_that_of_bf16_else() -> None:
    usual = gradient_error(ATTENTIONS["PyTorch's own"], 1)
    assert 1e-3 < usual < 1e-2
    for name, form in ATTENTIONS.items():
        exact = form._replace(attend=lambda *leaves, attend=form.attend: _in_fp64(attend, leaves))
        assert gradient_error(exact, 4) < 3e-3, name  # of rounding the results alone


def _in_fp64(attend: Callable[..., Tensor], leaves: tuple[Tensor, ...]) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return attend(*(x.double() for x in leaves))


def test_the_command_writes_its_tables(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = ["steps", "--only", "ConvMAE-T", "--tables", "kernels", "--threads", "1"]
    assert benchmark.main([*options, "--output", str(tmp_path / "steps.json")]) == 0
    assert "step kernels" in capsys.readouterr().out
    written = json.loads((tmp_path / "steps.json").read_text())
    assert written["comparison"] == "steps"
    (row,) = written["rows"]
    assert 0 < row["forward kernels"] < row["step kernels"]
    assert benchmark.main(["steps", "--only", "nothing of the kind"]) == 2
    assert "expected a part of one of these names" in capsys.readouterr().err
