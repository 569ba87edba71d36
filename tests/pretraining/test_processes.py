"""Two processes pretrain as one does, in parts."""

from functools import partial
from pathlib import Path

import numpy as np
from equality import assert_processes_equal_one
from PIL import Image

from convmae.engine.config import load_config
from convmae.pretraining.config import PretrainingConfig
from convmae.pretraining.train import train


def test_two_processes_equal_one_and_look_at_the_encoder_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(9):
        folder = tmp_path / "pictures" / ("val" if number > 5 else "train") / f"class {number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(folder / f"{number}.png")
    options = [
        f"data.root={tmp_path / 'pictures' / 'train'}", "data.workers=0", "data.batch_size=4",
        "data.accumulate=2", "model.img_size=32",
        "model.groups=2", "schedule.epochs=null", "schedule.steps=3", "schedule.warmup=1", "runtime.log_every=1",
        "runtime.precision=fp32", "runtime.device=cpu", "probe.every=2", f"probe.root={tmp_path / 'pictures'}",
        "probe.neighbours=2",
    ]  # fmt: skip
    config = load_config(PretrainingConfig, "fastconvmae_tiny_96px.yaml", options)
    assert_processes_equal_one(partial(train, config, resume=False), tmp_path)
