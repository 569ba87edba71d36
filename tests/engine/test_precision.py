"""Where and in which precision a run computes."""

import pytest
import torch

from convmae.engine import precision
from convmae.engine.errors import UserError

CPU = torch.device("cpu")
BY_INSTRUCTIONS = precision._multiplies_bf16  # before a fixture of every test has its way


def test_auto_takes_bf16_only_where_the_cpu_multiplies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_multiplies_bf16", BY_INSTRUCTIONS)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    assert precision.resolve_precision("auto", CPU) is torch.bfloat16
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx2": True}, raising=False)
    assert precision.resolve_precision("auto", CPU) is None


def test_bf16_on_a_cpu_without_its_products_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(precision, "_multiplies_bf16", BY_INSTRUCTIONS)
    for instructions, warned in (("avx2", True), ("avx512_bf16", False)):
        caplog.clear()
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda known=instructions: {known: True}, raising=False)
        assert precision.resolve_precision("bf16", CPU) is torch.bfloat16
        assert ("much slower than fp32" in caplog.text) == warned


def test_tests_in_auto_run_in_both_precisions_on_every_processor(auto_precision: str) -> None:
    assert precision.precision_name(precision.resolve_precision("auto", CPU)) == auto_precision


def test_other_tests_in_auto_run_in_fp32_on_every_processor() -> None:
    assert precision.resolve_precision("auto", CPU) is None


def test_named_precisions() -> None:
    assert precision.resolve_precision("bf16", CPU) is torch.bfloat16
    assert precision.precision_name(precision.resolve_precision("fp32", CPU)) == "fp32"
    with pytest.raises(UserError, match="needs a CUDA device"):
        precision.resolve_precision("fp16", CPU)


def test_autocast_is_off_for_fp32() -> None:
    x = torch.ones(2, 2)
    with precision.autocast(CPU, None):
        assert (x @ x).dtype is torch.float32
    with precision.autocast(CPU, torch.bfloat16):
        assert (x @ x).dtype is torch.bfloat16


def test_an_absent_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert precision.resolve_device("auto") == CPU
    with pytest.raises(UserError, match="no CUDA device"):
        precision.resolve_device("cuda")
