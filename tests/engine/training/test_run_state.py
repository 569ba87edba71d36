"""A checkpoint with a part that no run writes is refused by name, and the run that it lies in stays as it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import Dataset

from convmae.engine.errors import UserError
from convmae.engine.options import DataOptions, OptimOptions, RuntimeOptions, ScheduleOptions
from convmae.engine.training.train import train

Content = dict[str, Any]


@dataclass
class Config:
    data: DataOptions = field(default_factory=lambda: DataOptions(batch_size=4, workers=0))
    optim: OptimOptions = field(default_factory=lambda: OptimOptions(lr=0.01, average=0.9))
    schedule: ScheduleOptions = field(default_factory=lambda: ScheduleOptions(steps=2))
    runtime: RuntimeOptions = field(default_factory=lambda: RuntimeOptions(device="cpu", precision="fp32"))


class Numbers(Dataset):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> dict:
        return {"x": torch.full((300,), index / 10)}


class Regression(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Linear(300, 3)
        self.dataset_meta = {"classes": ["cat", "dog"]}

    def forward(self, x: torch.Tensor, mode: str = "loss") -> dict:
        return {"loss": (self.model(x) - 1).square().mean()}


def run(work_dir: Path, **options: Any) -> None:
    train(Regression(), Numbers(), config=Config(), work_dir=work_dir, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Content:
    folder = tmp_path_factory.mktemp("run")
    run(folder)
    return torch.load(folder / "step_2.pth", weights_only=True)


def put(*place: Any, value: Any) -> Callable[[Content], Content]:
    def change(content: Content) -> Content:
        holder = content
        for key in place[:-1]:
            holder = holder[key]
        holder[place[-1]] = value
        return content

    return change


def take(*place: Any) -> Callable[[Content], Content]:
    def change(content: Content) -> Content:
        holder = content
        for key in place[:-1]:
            holder = holder[key]
        del holder[place[-1]]
        return content

    return change


WEIGHT = ("state_dict", "model.weight")
MOMENT = ("optimizer", "state", 0, "exp_avg")
HOSTILE: dict[str, tuple[Callable[[Content], Content], str]] = {
    **{
        f"step {value!r:.20}": (put("meta", "step", value=value), r"its meta\.step is ")
        for value in (-1, 1.5, 1 << 60, True, "2", None, math.nan, [2], torch.tensor(2))
    },
    "no step": (take("meta", "step"), r"its meta\.step is missing; expected a number of steps"),
    "meta number": (put("meta", value=3), "its meta is 3"),
    "meta list": (put("meta", value=[1]), "its meta is a list of 1"),
    **{
        f"samples {value!r:.20}": (put("meta", "samples", value=value), r"its meta\.samples is ")
        for value in (3, [1], [1, 2, 3], [-1, 4], [1.5, 4], ["10", "4"], {"a": 1}, torch.ones(2))
    },
    "classes": (put("meta", "dataset_meta", value={"classes": 3}), r"its class list \(classes\) is a int"),
    "folders": (put("meta", "dataset_meta", value=[3]), "its dataset_meta is a list"),
    "weights number": (put("state_dict", value=3), "its state_dict is 3"),
    "weights list": (put("state_dict", value=[torch.ones(2)]), "its state_dict is a list of 1"),
    "weight text": (put(*WEIGHT, value="a"), r"its state_dict, model\.weight: is 'a'; expected float32 of shape \[3, 300\]"),
    "weight of bytes": (put(*WEIGHT, value=torch.ones(3, 300, dtype=torch.int8)), r"model\.weight: is int8"),
    "weight complex": (put(*WEIGHT, value=torch.ones(3, 300, dtype=torch.complex64)), r"model\.weight: is complex64"),
    "weight of doubles": (put(*WEIGHT, value=torch.ones(3, 300).double()), r"model\.weight: is float64"),
    "weight of one": (put(*WEIGHT, value=torch.tensor(1.0)), r"model\.weight: is \[1\.0\]"),
    "weight without values": (put(*WEIGHT, value=torch.empty(3, 300, device="meta")), "without values"),
    "a weight more": (put("state_dict", 3, value=torch.ones(2)), "its state_dict has 3, which this run's model has not"),
    "a weight less": (take(*WEIGHT), r"its state_dict lacks model\.weight"),
    "optimizer number": (put("optimizer", value=3), "its optimizer is 3"),
    "optimizer nothing": (put("optimizer", value={}), r"its optimizer\.param_groups is missing"),
    "groups number": (put("optimizer", "param_groups", value=5), r"its optimizer\.param_groups is 5"),
    "groups of numbers": (put("optimizer", "param_groups", value=[5, 6]), r"its optimizer\.param_groups is a list"),
    "fewer groups": (take("optimizer", "param_groups", 0), r"its optimizer\.param_groups is a list"),
    "other parameters": (put("optimizer", "param_groups", 0, "params", value=[7]), r"its optimizer\.param_groups is a list"),
    "parameters a tensor": (put("optimizer", "param_groups", 0, "params", value=torch.ones(1)), r"its optimizer\.param_groups"),
    "moments number": (put("optimizer", "state", value=1), r"its optimizer\.state is 1"),
    "moments nothing": (put("optimizer", "state", value={}), r"its optimizer\.state is a dict of 0"),
    "moments of others": (put("optimizer", "state", value={"a": 1}), r"its optimizer\.state is a dict of 1"),
    "moments number of one": (put("optimizer", "state", 0, value=1), r"exp_avg of 0: is 1"),
    "moment other shape": (put(*MOMENT, value=torch.ones(2)), r"exp_avg of 0: is float32 of shape \[2\]; expected finite"),
    "moment other dtype": (put(*MOMENT, value=torch.ones(3, dtype=torch.int64)), "exp_avg of 0: is int64"),
    "moment text": (put(*MOMENT, value="a"), "exp_avg of 0: is 'a'"),
    "moment missing": (take(*MOMENT), "exp_avg of 0: is missing"),
    "moment not finite": (put(*MOMENT, value=torch.full((3, 300), math.inf)), "exp_avg of 0: is"),
    "moment's step number": (put("optimizer", "state", 0, "step", value=2), "step of 0: is 2"),
    "moment's step negative": (put("optimizer", "state", 0, "step", value=torch.tensor(-1.0)), r"step of 0: is \[-1\.0\]"),
    "moment's step no number": (put("optimizer", "state", 0, "step", value=torch.tensor(math.nan)), r"step of 0: is \[nan\]"),
    "scale text": (put("optimizer", "loss_scaler", value="a"), r"its optimizer\.loss_scaler is 'a'"),
    "scale of texts": (put("optimizer", "loss_scaler", value={"scale": "a"}), r"its optimizer\.loss_scaler is a dict"),
    "no average": (take("average"), r"its average is missing; expected the average that optim\.average asks for"),
    "average number": (put("average", value=3), "its average is 3"),
    "average's steps": (put("average", "steps", value=-3), "its average is a dict"),
    "average's values": (put("average", "values", value=[1]), "its average is a dict"),
    "average of others": (put("average", "values", value={"a": torch.ones(2)}), r"its average lacks model\.weight"),
    "average not finite": (
        put("average", "values", "model.bias", value=torch.full((3,), math.nan)),
        r"average, model\.bias: is float32 of shape \[3\]; expected finite values",
    ),
    "average other shape": (put("average", "values", "model.bias", value=torch.ones(2)), r"average, model\.bias: is float32"),
}  # fmt: skip


def copied(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: copied(value) for key, value in content.items()}
    return [copied(value) for value in content] if isinstance(content, list) else content


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_part_that_no_run_writes_is_named_and_nothing_is_changed(
    kind: str, finished: Content, tmp_path: Path
) -> None:
    change, words = HOSTILE[kind]
    torch.save(change(copied(finished)), tmp_path / "step_2.pth")
    (tmp_path / "scalars.jsonl").write_text('{"step": 1}\n')
    before = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=words) as said:
        run(tmp_path, resume=True)
    assert "\n" not in str(said.value)
    assert "step_2.pth" in str(said.value)
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_unchanged_checkpoint_is_continued(finished: Content, tmp_path: Path) -> None:
    torch.save(copied(finished), tmp_path / "step_2.pth")
    run(tmp_path, resume=True)
