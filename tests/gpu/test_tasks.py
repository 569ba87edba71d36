"""On a GPU: every task by the runner against the CPU's, as the battery does it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from convmae.benchmarks.gpu import tasks
from convmae.benchmarks.gpu.battery import Setting

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_every_task_learns_stops_resumes_and_predicts_as_on_the_cpu(tmp_path: Path) -> None:
    for case in tasks.cases(Setting(torch.device("cuda"), tiny=True, scratch=tmp_path)):
        for row in case.run(1.0):
            assert row["met"], f"{case.name}: {row}"
