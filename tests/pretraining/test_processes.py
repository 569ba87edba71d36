"""Two processes pretrain as one does, in parts."""

from functools import partial
from pathlib import Path

import numpy as np
from equality import assert_processes_equal_one
from PIL import Image

from convmae.engine.config import load_config
from convmae.pretraining.config import PretrainingConfig
from convmae.pretraining.train import train


def test_two_processes_equal_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for number in range(6):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(tmp_path / "pictures" / f"{number}.png")
    options = [
        f"data.root={tmp_path / 'pictures'}", "data.workers=0", "data.batch_size=4", "data.accumulate=2", "model.img_size=32",
        "model.groups=2", "schedule.epochs=null", "schedule.steps=3", "schedule.warmup=1", "runtime.log_every=1",
        "runtime.precision=fp32", "runtime.device=cpu",
    ]  # fmt: skip
    config = load_config(PretrainingConfig, "fastconvmae_tiny_96px.yaml", options)
    assert_processes_equal_one(partial(train, config, resume=False), tmp_path)
