"""What the engine does beside a step never makes the host wait for a GPU, and what does wait is counted."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import torch
from counting import waits_of_step
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import nn
from torch.utils.data import Dataset

from convmae.engine.options import DataOptions, OptimOptions, RuntimeOptions, ScheduleOptions
from convmae.engine.training.train import train


@dataclass
class Config:
    data: DataOptions = field(default_factory=lambda: DataOptions(batch_size=4, accumulate=2, workers=0))
    optim: OptimOptions = field(default_factory=lambda: OptimOptions(clip_grad=1.0, average=0.9))
    schedule: ScheduleOptions = field(default_factory=lambda: ScheduleOptions(steps=6, save_every=6))
    runtime: RuntimeOptions = field(default_factory=lambda: RuntimeOptions(device="cpu", log_every=10))


class Points(Dataset):
    """Ten points."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": torch.full((3,), float(index))}


class Normed(BaseModel):
    """A model with running statistics, which may look at its loss."""

    def __init__(self, looks: bool, non_blocking: bool) -> None:
        super().__init__(BaseDataPreprocessor(non_blocking=non_blocking))
        self.layers = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
        self.looks = looks

    def forward(self, x: torch.Tensor, mode: str = "loss") -> dict[str, torch.Tensor]:
        loss = self.layers(x).square().mean()
        if self.looks and loss > 1e9:
            raise ValueError("too large")
        return {"loss": loss, "size": x.abs().mean()}


@pytest.mark.parametrize(
    ("looks", "non_blocking", "ops"),
    [(False, True, set()), (True, True, {"aten::_local_scalar_dense"}), (False, False, {"to"})],
)
def test_the_runner_its_hooks_and_the_optimiser_do_not_wait(
    looks: bool, non_blocking: bool, ops: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = partial(train, Normed(looks, non_blocking), Points(), config=Config(), work_dir=tmp_path)
    waits = waits_of_step(run, monkeypatch)
    assert {wait.op for wait in waits} == ops, waits
    assert len(waits) == 2 * len(ops)  # once in each part
