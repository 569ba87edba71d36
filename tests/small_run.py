"""A training of a few milliseconds on numbers, for what is promised of every run."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import Dataset

from convmae.engine.options import DataOptions, OptimOptions, RuntimeOptions, ScheduleOptions
from convmae.engine.training.checkpoints import latest_checkpoint
from convmae.engine.training.train import train


@dataclass
class Config:
    data: DataOptions = field(default_factory=lambda: DataOptions(batch_size=4, workers=0))
    optim: OptimOptions = field(default_factory=lambda: OptimOptions(lr=0.01))
    schedule: ScheduleOptions = field(default_factory=lambda: ScheduleOptions(steps=6, save_every=3))
    runtime: RuntimeOptions = field(default_factory=lambda: RuntimeOptions(device="cpu", precision="fp32", log_every=1))


class Noise(Dataset):
    """Ten samples that draw from torch's global generator."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> dict:
        return {"x": torch.randn(3) + index}


class Regression(BaseModel):
    """A model that draws in its forward, as drop path does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Linear(3, 3)
        self.dropout = nn.Dropout(0.3)

    def forward(self, x: torch.Tensor, mode: str = "loss") -> dict | list:
        if mode == "predict":
            return [{"value": row.sum()} for row in self.model(x)]
        return {"loss": (self.dropout(self.model(x)) - 1).square().mean()}


class Mean(BaseMetric):
    def process(self, data_batch: dict, data_samples: list) -> None:
        self.results += [float(sample["value"]) for sample in data_samples]

    def compute_metrics(self, results: list) -> dict:
        return {"mean": sum(results) / len(results), "count": len(results)}


def weights(work_dir: Path) -> dict:
    path = latest_checkpoint(work_dir)
    assert path is not None
    return torch.load(path, weights_only=True)["state_dict"]


def run(work_dir: Path, config: Config, **kwargs: object) -> dict:
    work_dir.mkdir(exist_ok=True)
    train(Regression(), Noise(), config=config, work_dir=work_dir, **kwargs)
    return weights(work_dir)


def assert_same(left: dict, right: dict, tolerance: float = 0.0) -> None:
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=tolerance, atol=tolerance)
