"""What a run says and sets before it starts, and what it refuses."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import Dataset, TensorDataset, default_collate

from convmae.engine.errors import UserError
from convmae.engine.log import start_log
from convmae.engine.options import DataOptions, OptimOptions, RuntimeOptions, ScheduleOptions
from convmae.engine.training import train as engine_train
from convmae.engine.training.schedule import Schedule
from convmae.engine.training.train import announce_run, train


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


class Points(Dataset):
    """Samples from a list."""

    def __init__(self, samples: list[dict[str, torch.Tensor]]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.samples[index]


@pytest.mark.parametrize("fixed_shapes", [True, False])
def test_cudnn_looks_for_its_fastest_way_in_steps_of_fixed_shapes_alone(
    fixed_shapes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    seen: list[tuple[str, bool, bool]] = []

    class Squares(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, x: torch.Tensor, mode: str = "loss") -> dict | list:
            seen.append((mode, self.training, torch.backends.cudnn.benchmark))
            return {"loss": self.layer(x).square().mean()} if mode == "loss" else [{}]

    class Nothing(BaseMetric):
        def process(self, data_batch: dict, data_samples: list) -> None:
            self.results.append(0)

        def compute_metrics(self, results: list) -> dict:
            return {"count": len(results)}

    config = Config()
    config.data.batch_size, config.data.workers, config.runtime.device = 2, 0, "cpu"
    config.schedule = ScheduleOptions(steps=4, eval_every=2)
    points = [{"x": torch.ones(1)}, {"x": torch.zeros(1)}]
    train(
        Squares(), Points(points), config=config, work_dir=tmp_path, val_set=Points(points[:1]), metrics=[Nothing()],
        fixed_shapes=fixed_shapes,
    )  # fmt: skip
    step, evaluation = ("loss", True, fixed_shapes), ("predict", False, False)
    assert seen == [step, step, evaluation, step, step, evaluation]


def test_a_model_too_large_for_the_gpu_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convmae.engine.training.train.set_up", lambda runtime: (torch.device("cuda"), None))
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda *_: (10, 10))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda *_: 0)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda *_: "Small Card")
    with pytest.raises(UserError, match="a smaller batch would not help"):
        train(nn.Linear(100, 100), Points([]), config=Config(), work_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_cuda_graphs_of_steps_in_parts_are_refused(tmp_path: Path) -> None:
    config = Config()
    config.runtime.compile, config.runtime.compile_mode, config.data.accumulate = True, "reduce-overhead", 2
    with pytest.raises(UserError, match="CUDA graph writes each part"):
        train(nn.Linear(1, 1), Points([]), config=config, work_dir=tmp_path)
