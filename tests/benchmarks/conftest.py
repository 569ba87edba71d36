"""What the benchmarks' tests share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from convmae.benchmarks import bench_encoder
from convmae.benchmarks.gpu.battery import Row

Step = Callable[[], object]


@pytest.fixture
def peaks_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the steps whose memory is asked for in this process, quicker than in one of its own, and calls it 1 MB, 2 MB, ..."""
    measured = []

    def peak_memory(device: torch.device, prepare: Callable[..., Step], *args: object) -> int:
        measured.append(args)
        prepare(*args)()
        return 2**20 * len(measured)

    monkeypatch.setattr(bench_encoder, "peak_memory", peak_memory)


@pytest.fixture
def measured() -> list[Row]:
    """Steps of ConvMAE that fulfil their aims, compiled ones that don't, and a line of a profile."""
    return [
        {"case": "ConvMAE, 224 px", "form": "dense", "mode": "step", "ms": 150.0, "a second": 1700.0, "GiB": 30.0},
        {"case": "ConvMAE, 224 px", "form": "shipped", "mode": "step", "ms": 60.0, "a second": 4266.0, "GiB": 13.0},
        {"case": "ConvMAE, 224 px, compiled", "form": "shipped", "mode": "step", "ms": 61.0, "a second": 4196.0, "GiB": 13.0},
        {"case": "ConvMAE, 224 px, compiled", "form": "compiled", "mode": "step", "ms": 55.0, "a second": 4654.0, "GiB": 12.0},
        {"case": "ConvMAE, 224 px", "profile": "shipped", "kernel": "layer_norm", "calls": 40, "ms": 20.0, "part": 0.3},
    ]  # fmt: skip
