"""What a run says before it starts."""

import subprocess
import sys
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset, default_collate

from convmae.engine import train as engine_train
from convmae.engine.log import start_log
from convmae.engine.options import DataOptions, OptimOptions, RuntimeOptions, ScheduleOptions
from convmae.engine.schedule import Schedule
from convmae.engine.train import announce_run

ABANDONED = """
from torch.utils.data import DataLoader
from convmae.engine.options import DataOptions
from convmae.engine.train import _workers

batches = iter(DataLoader(range(1000), **_workers(DataOptions(workers=1))))
next(batches)
batches._shutdown_workers = lambda: None  # as where the interpreter exits with the iterator alive
"""


def test_a_process_that_leaves_its_loader_behind_ends_all_the_same() -> None:
    done = subprocess.run([sys.executable, "-c", ABANDONED], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@dataclass
class Config:
    data: DataOptions = field(default_factory=DataOptions)
    optim: OptimOptions = field(default_factory=lambda: OptimOptions(lr=8e-5, lr_batch=32))
    schedule: ScheduleOptions = field(default_factory=lambda: ScheduleOptions(epochs=25, warmup=0.125))
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)


@pytest.mark.parametrize(
    ("batch", "accumulate", "world", "said"),
    [
        (32, 1, 1, "2500 steps of 32 (25 epochs), learning rate 8e-05 (8e-05 for 32 pictures)"),
        (32, 8, 2, "2500 steps of 32 (25 epochs), each in 16 parts of 2, learning rate 8e-05 (8e-05 for 32 pictures)"),
        (8, 1, 1, "10000 steps of 8 (25 epochs), learning rate 2e-05 (8e-05 for 32 pictures)"),
    ],
)
def test_batch_parts_and_learning_rate_are_said(
    batch: int, accumulate: int, world: int, said: str, capsys: pytest.CaptureFixture
) -> None:
    start_log(None)
    config = Config(DataOptions(batch_size=batch, accumulate=accumulate))
    schedule = Schedule.build(config.schedule, pictures=3200, batch_size=batch)
    announce_run(nn.Linear(2, 1), config, schedule, 3200, torch.device("cpu"), None, world)
    assert f"training: 3200 pictures, {said}" in capsys.readouterr().out


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_evaluation_pins_its_batches_where_they_go_to_a_gpu(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_train, "resolve_device", torch.device)
    pictures = TensorDataset(torch.zeros(5, 3))
    parts = engine_train._evaluation(pictures, [], Config(runtime=RuntimeOptions(device=device)), default_collate, 2)
    loader = parts["val_dataloader"]
    assert (loader.batch_size, loader.pin_memory) == (2, device == "cuda")
