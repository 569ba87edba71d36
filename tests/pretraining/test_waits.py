"""A pretraining step never makes the host wait for a GPU."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from counting import waits_of_step
from PIL import Image

from convmae.engine.config import load_config
from convmae.pretraining.config import PretrainingConfig
from convmae.pretraining.train import train


@pytest.mark.parametrize(
    ("method", "targets"),
    [("convmae", ""), ("fastconvmae", ""), ("fastconvmae", "targets=[{teacher: ema}, {teacher: pixels}]"), ("mae", "")],
)
def test_a_step_has_no_wait(method: str, targets: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pictures").mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
    options = [
        f"data.root={tmp_path / 'pictures'}", "model.img_size=64", "data.batch_size=4", "data.workers=0", "optim.average=0.9",
        "schedule.epochs=null", "schedule.steps=6", "schedule.warmup=1", "schedule.save_every=6", "runtime.log_every=6",
        "runtime.device=cpu", "runtime.precision=bf16", *([targets] if targets else []),
    ]  # fmt: skip
    config = load_config(PretrainingConfig, f"{method}_tiny_96px.yaml", options)
    (tmp_path / "run").mkdir()
    assert waits_of_step(partial(train, config, tmp_path / "run", resume=False), monkeypatch) == []
