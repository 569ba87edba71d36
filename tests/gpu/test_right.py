"""On a GPU: the published models' outputs and the project's own functions, in fp32 and bf16, as the battery checks them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from convmae.benchmarks.gpu.agreement.right import CHECKS
from convmae.benchmarks.gpu.battery import Setting

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("name", CHECKS)
def test_it_is_right_on_this_gpu(name: str, fixtures_dir: Path) -> None:
    found = list(CHECKS[name](Setting(torch.device("cuda"), fixtures=fixtures_dir)))
    assert found
    missed = [f"{what}: {off:.3g}, allowed {allowed:.3g}" for what, off, allowed in found if not off <= allowed]
    assert not missed, "\n".join(missed)
