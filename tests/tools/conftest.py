"""What the benchmarks' tests share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from convmae.benchmarks import bench_encoder

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
