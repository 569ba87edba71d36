"""How far a function is from what it should be, wherever the error lies."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from convmae.benchmarks.gpu.agreement import deviation, right
from convmae.benchmarks.gpu.agreement.deviation import Deviation, errors
from convmae.benchmarks.gpu.attention_forms import (
    plain,
)
from convmae.benchmarks.gpu.battery import Setting

CPU = torch.device("cpu")


def test_an_error_is_found_wherever_it_is() -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(2, 3, 20, 8, dtype=torch.float64) for _ in range(3)]
    leaves += [torch.randn(3, 7, 9, dtype=torch.float64)]

    def off(factor: float, number: int) -> list[float]:
        """With the gradient of one leaf, or the output, too large."""

        class Wrong(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
                return x.clone()

            @staticmethod
            def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
                return grad * factor

        def form(*given: torch.Tensor) -> torch.Tensor:
            changed = [Wrong.apply(x) if index == number else x for index, x in enumerate(given)]
            return plain(*changed, (4, 5)) * (factor if number < 0 else 1)

        return errors(form, lambda *given: plain(*given, (4, 5)), leaves, CPU, None)

    assert max(off(1.0, 0)) < 1e-5
    for number in range(-1, 4):
        found = off(1.01, number)
        assert found[number + 1] == pytest.approx(0.01, rel=0.01)
        assert [value > 1e-3 for value in found] == [index == number + 1 or number < 0 for index in range(5)]


def test_what_is_read_beyond_an_input_or_never_written_shows() -> None:
    leaves = [torch.randn(2, 3, 20, 8, dtype=torch.float64)]

    def beyond(x: torch.Tensor) -> torch.Tensor:
        return x + 0 * torch.as_strided(x, (1,), (1,), x.storage_offset() + x.numel())

    assert errors(beyond, lambda x: x * 1, leaves, CPU, None)[0] == math.inf


def test_bf16_is_judged_by_pytorchs_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting(CPU, tiny=True)
    found = list(right.CHECKS["bf16 gradients, shared table"](setting))
    assert all(entry.found <= entry.allowed for entry in found)
    coarse = right.SHARED._replace(
        form=lambda q, k, v, t, grid: plain(q, k, v, t, grid).to(torch.float8_e5m2).to(q.dtype)
    )
    worse = list(right._gradients(coarse, setting))
    assert any(entry.found > entry.allowed for entry in worse)


def test_deviations_name_what_they_are_of() -> None:
    assert Deviation("x", 1.0, 2.0).found < Deviation("x", 1.0, 2.0).allowed
    assert deviation.LIMIT.keys() == deviation.DTYPES.keys()
