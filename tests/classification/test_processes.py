"""Two processes classify as one does: with mixed and erased pictures, dropped paths and an average of the weights."""

from functools import partial
from pathlib import Path

import pytest
from equality import assert_processes_equal_one

from convmae.classification.config import FinetuningConfig
from convmae.classification.train import finetune
from convmae.engine.config import load_config


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_equal_one(accumulate: int, folders: Path, tmp_path: Path) -> None:
    options = [
        f"data.root={folders}", "data.workers=0", "data.batch_size=8", f"data.accumulate={accumulate}", "model.img_size=32",
        "model.drop_path=0.2", "augment.erase=0.5", "optim.average=0.9", "optim.clip_grad=1.0", "schedule.epochs=null",
        "schedule.steps=3", "schedule.warmup=1", "runtime.log_every=1", "runtime.precision=fp32", "runtime.device=cpu",
    ]  # fmt: skip
    config = load_config(FinetuningConfig, "finetune_tiny_96px.yaml", options)
    assert_processes_equal_one(partial(finetune, config, resume=False), tmp_path)
