"""A run continues from its newest whole checkpoint, says which ones are damaged, and keeps them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import Dataset

from convmae.engine.commands.cli import prepare_report_dir, prepare_work_dir
from convmae.engine.errors import UserError
from convmae.engine.options import DataOptions, OptimOptions, RuntimeOptions, ScheduleOptions
from convmae.engine.training import checkpoints
from convmae.engine.training.checkpoints import find_whole, latest_checkpoint, list_checkpoints
from convmae.engine.training.train import train


@dataclass
class Config:
    data: DataOptions = field(default_factory=lambda: DataOptions(batch_size=4, workers=0))
    optim: OptimOptions = field(default_factory=lambda: OptimOptions(lr=0.01))
    schedule: ScheduleOptions = field(
        default_factory=lambda: ScheduleOptions(steps=4, save_every=1, keep_checkpoints=-1)
    )
    runtime: RuntimeOptions = field(default_factory=lambda: RuntimeOptions(device="cpu", precision="fp32", log_every=1))


class Numbers(Dataset):
    def __len__(self) -> int:
        return 10

    def name(self, index: int) -> str:
        return f"{index}.png"

    def __getitem__(self, index: int) -> dict:
        return {"x": torch.full((300,), index / 10)}


class Regression(BaseModel):
    def __init__(self, classes: list[str] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Linear(300, 3)
        if classes:
            self.dataset_meta = {"classes": [name.upper() for name in classes], "folders": classes}

    def forward(self, x: torch.Tensor, mode: str = "loss") -> dict:
        return {"loss": (self.model(x) - 1).square().mean()}


def run(work_dir: Path, steps: int = 4, keep: int = -1, classes: list[str] | None = None, **options: object) -> None:
    config = Config(schedule=ScheduleOptions(steps=steps, save_every=1, keep_checkpoints=keep))
    work_dir.mkdir(exist_ok=True)
    train(Regression(classes), Numbers(), config=config, work_dir=work_dir, **options)


def weights(path: Path) -> torch.Tensor:
    return torch.load(path, weights_only=True)["state_dict"]["model.weight"]


def flip(path: Path) -> None:
    """Changes one bit of the weights, of which no reader but an archive's sums takes notice."""
    content = bytearray(path.read_bytes())
    place = content.find(weights(path).numpy().tobytes()[:64])
    assert place > 0
    content[place + 1] ^= 4
    path.write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:3000]), "can't be read, it is damaged"),
    "empty": (lambda path: path.write_bytes(b""), "is an empty file"),
    "zeros": (lambda path: path.write_bytes(bytes(len(path.read_bytes()))), "is a file that begins with"),
    "one bit": (flip, "is not what was written"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_and_kept(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path / "run", 4)
    damage, words = DAMAGES[kind]
    path = tmp_path / "run" / "step_4.pth"
    damage(path)
    broken = path.read_bytes()
    run(tmp_path / "run", 6, resume=True)
    assert "step_4.pth is passed over: " in caplog.text
    assert words in caplog.text
    assert "step_4.pth is now step_4.pth.damaged" in caplog.text
    assert (tmp_path / "run" / "step_4.pth.damaged").read_bytes() == broken
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == [f"step_{n}.pth" for n in range(1, 7)]
    assert torch.load(tmp_path / "run" / "step_6.pth", weights_only=True)["meta"]["step"] == 6


def test_a_run_past_a_damaged_checkpoint_equals_one_that_was_never_stopped(tmp_path: Path) -> None:
    run(tmp_path / "whole", 4)
    run(tmp_path / "run", 4)
    for step in (4, 3):
        DAMAGES["cut off"][0](tmp_path / "run" / f"step_{step}.pth")
    run(tmp_path / "run", 4, resume=True)
    assert torch.equal(weights(tmp_path / "run" / "step_4.pth"), weights(tmp_path / "whole" / "step_4.pth"))


def test_damaged_checkpoints_do_not_count_among_those_that_are_kept(tmp_path: Path) -> None:
    run(tmp_path, 4)
    DAMAGES["empty"][0](tmp_path / "step_4.pth")
    (tmp_path / "step_3.pth").unlink()
    run(tmp_path, 5, keep=2, resume=True)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_4.pth", "step_5.pth"]
    assert (tmp_path / "step_4.pth.damaged").is_file()


def test_where_no_checkpoint_is_whole_all_are_named_and_kept(tmp_path: Path) -> None:
    run(tmp_path, 2)
    DAMAGES["empty"][0](tmp_path / "step_1.pth")
    DAMAGES["cut off"][0](tmp_path / "step_2.pth")
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.pth")}
    with pytest.raises(
        UserError, match=r"(?s)is whole:.*step_2\.pth can't be read.*step_1\.pth is an empty file"
    ) as said:
        run(tmp_path, 4, resume=True)
    assert "--overwrite" not in str(said.value)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.pth*")} == before


def test_a_whole_checkpoint_of_another_model_is_no_damage(tmp_path: Path) -> None:
    run(tmp_path, 2)
    content = torch.load(tmp_path / "step_2.pth", weights_only=True)
    content["state_dict"]["model.weight"] = torch.zeros(9, 9)
    torch.save(content, tmp_path / "step_2.pth")
    with pytest.raises(
        UserError,
        match=r"step_2\.pth does not continue .*model\.weight: is float32 of shape \[9, 9\]",
    ):
        run(tmp_path, 4, resume=True)
    torch.save({"model": {"a": torch.ones(3)}}, tmp_path / "step_2.pth")
    with pytest.raises(UserError, match=r"step_2\.pth is no checkpoint of a run"):
        run(tmp_path, 4, resume=True)


def test_files_that_resemble_checkpoints_are_left_alone(tmp_path: Path) -> None:
    others = ("step_20_copy.pth", "step_.pth", "step_3.pth.bak", "step_9.pth.damaged", "step_-1.pth", "step_٣.pth")
    for name in others:
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "step_30.pth").mkdir()
    assert latest_checkpoint(tmp_path) is None
    prepare_report_dir(tmp_path, overwrite=False)
    prepare_work_dir(tmp_path, resume=False, overwrite=False)
    run(tmp_path, 3, keep=1, resume=True)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_3.pth"]
    prepare_work_dir(tmp_path, resume=False, overwrite=True)
    left = {path.name for path in tmp_path.glob("step_*")}
    assert left == {*others, "step_30.pth"}


def test_checkpoints_are_in_order_of_steps(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        torch.save({"step": step}, tmp_path / f"step_{step}.pth")
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_9.pth", "step_10.pth", "step_100.pth"]
    assert find_whole(tmp_path) == (tmp_path / "step_100.pth", {})


def test_sums_that_were_left_out_are_not_missed(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"step": torch.ones(5)}, tmp_path / "step_1.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert find_whole(tmp_path).path == tmp_path / "step_1.pth"


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (["ant", "cat", "dog"], "was trained on class folders with 'cat' where the data has 'ant'"),
        (["dog", "cat"], "the same names in another order"),
        (["cat", "dog", "fox"], "without 'fox', which the data has"),
        (["cat", "dogs"], "with 'dog' where the data has 'dogs'"),
    ],
)
def test_a_run_on_other_classes_is_not_continued(classes: list[str], words: str, tmp_path: Path) -> None:
    run(tmp_path, 2, classes=["cat", "dog"])
    before = weights(tmp_path / "step_2.pth")
    with pytest.raises(UserError, match=r"step_2\.pth was trained on") as said:
        run(tmp_path, 3, classes=classes, resume=True)
    assert words in str(said.value)
    assert "another --work-dir" in str(said.value)
    assert torch.equal(weights(tmp_path / "step_2.pth"), before)
    run(tmp_path, 3, classes=["cat", "dog"], resume=True)
    assert (tmp_path / "step_3.pth").is_file()


def test_a_run_whose_weights_are_not_finite_writes_and_continues_none(tmp_path: Path) -> None:
    class Diverging(Regression):
        def forward(self, x: torch.Tensor, mode: str = "loss") -> dict:
            self.count = getattr(self, "count", 0) + 1
            if self.count == 3:
                with torch.no_grad():
                    self.model.weight[0, 0] = float("inf")
            return super().forward(x.detach(), mode) if self.count < 3 else {"loss": self.model.bias.sum()}

    with pytest.raises(UserError, match=r"After step 3 .* model\.weight holds values that are not finite.*step_2\.pth"):
        train(Diverging(), Numbers(), config=Config(), work_dir=tmp_path)
    assert latest_checkpoint(tmp_path) == tmp_path / "step_2.pth"
    content = torch.load(tmp_path / "step_2.pth", weights_only=True)
    content["state_dict"]["model.weight"][0, 0] = float("nan")
    torch.save(content, tmp_path / "step_2.pth")
    with pytest.raises(UserError, match=r"step_2\.pth can't be continued: model\.weight holds values"):
        run(tmp_path, 4, resume=True)


def test_a_recipe_that_can_not_be_read_stops_no_resumed_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path, 2)
    (tmp_path / "config.yaml").write_bytes(b"data: {root: [\xff\x00")
    run(tmp_path, 3, resume=True)
    assert "whether options have changed can't be told" in caplog.text
    assert (tmp_path / "step_3.pth").is_file()


def test_best_weights_that_are_damaged_are_said_to_be_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, 2)
    (tmp_path / "best.pth").write_bytes(b"PK\x03\x04abc")
    run(tmp_path, 3, resume=True, best="mean")
    assert "best.pth tells no mean, so the next evaluation replaces it" in caplog.text


def test_all_processes_continue_from_what_the_first_one_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"step": torch.ones(5)}, tmp_path / "step_7.pth")  # as another machine's stale view of the folder
    told = checkpoints.Found(tmp_path / "step_3.pth", {tmp_path / "step_4.pth": "step_4.pth is an empty file"})
    monkeypatch.setattr(checkpoints, "is_main_process", lambda: False)
    monkeypatch.setattr(checkpoints, "tell_all", lambda value: told if value is None else value)
    assert find_whole(tmp_path) == told
    checkpoints.set_aside(told.damaged)  # which the first process does
    monkeypatch.setattr(checkpoints, "tell_all", lambda value: told._replace(path=None))
    with pytest.raises(UserError, match=r"No checkpoint in .* is whole:\n  step_4\.pth is an empty file"):
        find_whole(tmp_path)
