"""Two processes equal one with the same global batch, and stop together."""

from pathlib import Path

import numpy as np
import pytest
import torch
from launch import two_processes
from PIL import Image

from convmae.engine.runner import latest_checkpoint
from convmae.tools import pretrain

STOP_ONE = '''
"""Pretraining in which the second process alone is told to stop."""

import os
import signal
import sys

from mmengine.hooks import Hook

import convmae.pretraining.train
from convmae.tools import pretrain

run_training = convmae.pretraining.train.run_training


class StopOne(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx == 1 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGINT)


convmae.pretraining.train.run_training = lambda *args, hooks, **kwargs: run_training(
    *args, hooks=[*hooks, StopOne()], **kwargs
)
sys.exit(pretrain.main())
'''


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    """A run of four steps on six pictures."""
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for number in range(6):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(tmp_path / "pictures" / f"{number}.png")
    return [
        "--config",
        "fastconvmae_tiny_96px.yaml",
        "--cfg-options",
        "model.img_size=32",
        "model.groups=2",
        "data.batch_size=4",
        "data.workers=0",
        "schedule.epochs=null",
        "schedule.steps=4",
        "schedule.warmup=1",
        "runtime.precision=fp32",
        "runtime.device=cpu",
        f"data.root={tmp_path / 'pictures'}",
    ]


def assert_same(left: Path, right: Path) -> None:
    one, two = (torch.load(path, weights_only=True)["state_dict"] for path in (left, right))
    # A few steps at 1e-3; where a gradient is all but zero, AdamW makes its sign a step of full length.
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-4)


def test_two_processes_equal_one_and_stop_together(options: list[str], tmp_path: Path) -> None:
    assert pretrain.main([*options, "--work-dir", str(tmp_path / "one")]) == 0
    (tmp_path / "stop_one.py").write_text(STOP_ONE)
    stopped = two_processes("stop_one.py", *options, "--work-dir", "two", cwd=tmp_path)
    assert stopped.stderr.count("Stopped after step 2 of 4") == 1, stopped.stderr[-3000:]
    assert stopped.returncode != 0
    assert latest_checkpoint(tmp_path / "two") == tmp_path / "two" / "step_2.pth"
    done = two_processes("-m", "convmae.tools.pretrain", *options, "--work-dir", "two", "--resume", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same(tmp_path / "one" / "step_4.pth", tmp_path / "two" / "step_4.pth")
