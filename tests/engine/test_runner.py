"""The promises of a run: it can be stopped, continued, split and loaded in any way, with the same result."""

import json
import os
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import Dataset

from convmae.engine.errors import UserError
from convmae.engine.log import duration
from convmae.engine.options import DataOptions, OptimOptions, RuntimeOptions, ScheduleOptions
from convmae.engine.runner import Interrupted, latest_checkpoint
from convmae.engine.train import train


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


class StopAt(Hook):
    def __init__(self, step: int) -> None:
        self.step = step

    def after_train_iter(
        self, runner: object, batch_idx: int, data_batch: object = None, outputs: object = None
    ) -> None:
        if batch_idx + 1 == self.step:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)


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


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", Config())
    with pytest.raises(Interrupted, match="after step 4 of 6"):
        run(tmp_path / "parts", Config(), hooks=[StopAt(4)])
    assert latest_checkpoint(tmp_path / "parts").name == "step_4.pth"
    assert_same(whole, run(tmp_path / "parts", Config(), resume=True))


def test_the_number_of_loader_processes_changes_nothing(tmp_path: Path) -> None:
    config = Config()
    config.data.workers = 2
    assert_same(run(tmp_path / "none", Config()), run(tmp_path / "two", config))


def test_accumulated_parts_equal_the_whole_batch_without_dropout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: x)
    config = Config()
    config.data.accumulate = 2
    assert_same(run(tmp_path / "whole", Config()), run(tmp_path / "parts", config), 1e-6)


def test_files_of_a_run(tmp_path: Path) -> None:
    config = Config()
    config.schedule.eval_every = 3
    metrics = [Mean()]
    run(tmp_path / "run", config, val_set=Noise(), metrics=metrics, best="mean")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"config.yaml", "scalars.jsonl", "tensorboard", "step_3.pth", "step_6.pth", "best.pth"}
    rows = [json.loads(line) for line in (tmp_path / "run" / "scalars.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5, 6]
    assert [(row["step"], row["count"]) for row in rows if "mean" in row] == [(3, 10), (6, 10)]


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    config = Config()
    config.schedule.save_every, config.schedule.keep_checkpoints = 1, 2
    run(tmp_path / "run", config)
    assert sorted(path.name for path in (tmp_path / "run").glob("*.pth")) == ["step_5.pth", "step_6.pth"]


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    torch.save({"state_dict": {"other": torch.zeros(1)}, "optimizer": {}, "meta": {}}, tmp_path / "run" / "step_3.pth")
    with pytest.raises(UserError, match=r"step_3\.pth does not continue this run"):
        run(tmp_path / "run", Config(), resume=True)


def test_a_checkpoint_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple:
            return (os.mkdir, (str(tmp_path / "harm"),))

    (tmp_path / "run").mkdir()
    torch.save({"state_dict": Attack(), "meta": {}}, tmp_path / "run" / "step_3.pth")
    with pytest.raises(UserError):
        run(tmp_path / "run", Config(), resume=True)
    assert not (tmp_path / "harm").exists()


def test_a_batch_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    config = Config()
    config.data.accumulate = 3
    with pytest.raises(UserError, match="a batch of 4 does not divide"):
        run(tmp_path / "run", config)


def test_runs_in_a_thread_leave_signals_alone(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=run, args=(tmp_path / "run", Config()))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before
    assert (tmp_path / "run" / "step_6.pth").is_file()


def test_bf16_runs_on_a_cpu(tmp_path: Path) -> None:
    config = Config()
    config.runtime.precision = "bf16"
    exact, rough = run(tmp_path / "fp32", Config()), run(tmp_path / "bf16", config)
    assert rough["model.weight"].dtype is torch.float32
    assert not torch.equal(exact["model.weight"], rough["model.weight"])
    assert_same(exact, rough, 0.03)


@pytest.mark.parametrize(("seconds", "text"), [(7, "7 s"), (250, "4 min 10 s"), (7385, "2 h 03 min")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
