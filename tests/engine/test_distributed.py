"""Two processes equal one with the same global batch."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from convmae.tools import pretrain

OPTIONS = [
    "--config",
    "fastconvmae_tiny_96px.yaml",
    "--cfg-options",
    "model.img_size=32",
    "model.groups=2",
    "data.batch_size=4",
    "data.workers=0",
    "schedule.epochs=null",
    "schedule.steps=2",
    "schedule.warmup=1",
    "runtime.precision=fp32",
    "runtime.device=cpu",
]


def test_two_processes_equal_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for number in range(6):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(tmp_path / "pictures" / f"{number}.png")
    options = [*OPTIONS, f"data.root={tmp_path / 'pictures'}"]
    assert pretrain.main([*options, "--work-dir", str(tmp_path / "one")]) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "convmae.tools.pretrain", *options, "--work-dir", str(tmp_path / "two"), "--launcher", "pytorch"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (torch.load(tmp_path / name / "step_2.pth", weights_only=True)["state_dict"] for name in ("one", "two"))
    # Two steps at 1e-3; where a gradient is all but zero, AdamW makes its sign a step of full length.
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-4)
