"""A fine-tuning step never makes the host wait for a GPU."""

from functools import partial
from pathlib import Path

import pytest
from counting import waits_of_step

from convmae.classification.config import FinetuningConfig
from convmae.classification.train import finetune
from convmae.engine.config import load_config


def test_a_step_has_no_wait(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = [
        f"data.root={folders}", "model.img_size=32", "data.batch_size=8", "data.workers=0", "augment.mixup=0.8",
        "augment.cutmix=1.0", "augment.erase=0.9", "model.drop_path=0.2", "optim.average=0.9", "schedule.epochs=null",
        "schedule.steps=6", "schedule.warmup=0", "schedule.eval_every=0", "schedule.save_every=6", "runtime.log_every=6",
        "runtime.device=cpu", "runtime.precision=bf16",
    ]  # fmt: skip
    config = load_config(FinetuningConfig, "finetune_tiny_96px.yaml", options)
    (tmp_path / "run").mkdir()
    assert waits_of_step(partial(finetune, config, tmp_path / "run", resume=False), monkeypatch) == []
