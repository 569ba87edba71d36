"""What fails in reading, a step, beside it or an evaluation leaves a checkpoint from which the run continues bit for bit."""

import errno
import itertools
import json
import os
import shutil
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from small_run import Config, Mean, Noise
from torch import nn
from torch.utils.data import Dataset

from convmae.engine.errors import UserError
from convmae.engine.log import start_log
from convmae.engine.options import OptimOptions, ScheduleOptions
from convmae.engine.training.checkpoints import list_checkpoints
from convmae.engine.training.runner import Runner
from convmae.engine.training.train import train
from convmae.engine.training.whole_steps import WholeStepHook

STEPS = 6


class Failing(Dataset):
    """The samples of ``Noise``, of which the n-th that is drawn raises."""

    def __init__(self, fails_at: int = 0, error: Exception | None = None) -> None:
        self.noise, self.drawn, self.fails_at, self.error = Noise(), itertools.count(1), fails_at, error

    def __len__(self) -> int:
        return len(self.noise)

    def __getitem__(self, index: int) -> dict:
        if next(self.drawn) == self.fails_at and self.error:
            raise self.error
        return self.noise[index]


class Normed(BaseModel):
    """A model with a batch norm, whose forward fails after it at the n-th part of a step."""

    def __init__(self, fails_at: int = 0, error: Exception | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.model = nn.BatchNorm1d(3), nn.Linear(3, 3)
        self.dropout = nn.Dropout(0.3)
        self.done, self.fails_at, self.error = itertools.count(1), fails_at, error

    def forward(self, x: torch.Tensor, mode: str = "loss") -> dict | list:
        y = self.model(self.norm(x))
        if mode == "predict":
            return [{"value": row.sum()} for row in y]
        if next(self.done) == self.fails_at and self.error:
            raise self.error
        return {"loss": (self.dropout(y) - 1).square().mean()}


class Beside(Hook):
    """Calls something after a step, once it is done and before it is logged."""

    priority = "LOW"

    def __init__(self, step: int, act: Callable[[Runner], object]) -> None:
        self.step, self.act = step, act

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: object = None
    ) -> None:
        if batch_idx + 1 == self.step:
            self.act(runner)


def config_of(**schedule: object) -> Config:
    config = Config(optim=OptimOptions(lr=0.01, average=0.9))
    config.data.accumulate = 2
    config.schedule = ScheduleOptions(steps=STEPS, **{"save_every": 100, **schedule})
    return config


def go(work_dir: Path, model: BaseModel | None = None, data: Dataset | None = None, **options: object) -> None:
    work_dir.mkdir(exist_ok=True)
    options = {"config": config_of(), **options}
    train(model or Normed(), data or Failing(), work_dir=work_dir, **options)


def content(path: Path) -> dict:
    """Returns what a checkpoint holds but for the rate, which each step sets before it does anything."""
    found: dict = torch.load(path, weights_only=True)
    for group in found["optimizer"]["param_groups"]:
        del group["lr"]
    return found


def assert_equal(left: object, right: object) -> None:
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_equal(left[key], right[key])
    else:
        assert left == right


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing befell, with the checkpoints of all its steps."""
    folder = tmp_path_factory.mktemp("whole")
    go(folder, config=config_of(save_every=1, keep_checkpoints=-1))
    return folder


def assert_continues(work_dir: Path, whole: Path, step: int) -> None:
    """The newest checkpoint is that of a step of the whole run, bit for bit, and continues to its end."""
    assert list_checkpoints(work_dir)[-1].name == f"step_{step}.pth"
    assert_equal(content(work_dir / f"step_{step}.pth"), content(whole / f"step_{step}.pth"))
    go(work_dir, resume=True)
    assert_equal(content(work_dir / f"step_{STEPS}.pth"), content(whole / f"step_{STEPS}.pth"))
    assert not list(work_dir.glob("*.part")) + list(work_dir.glob(".*.part"))


ERRORS = [
    UserError("a.png can't be read"),
    OSError(errno.EIO, "Input/output error"),
    MemoryError(),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 80000000000 bytes."),
    torch.OutOfMemoryError("CUDA out of memory."),
    ZeroDivisionError("a defect"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_what_fails_in_reading_leaves_the_last_step(error: Exception, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as raised:
        go(tmp_path, data=Failing(4 * 3 + 3, error))  # in the second part of the fourth step
    assert raised.value is error
    assert_continues(tmp_path, whole, 3)


def test_what_fails_in_a_loader_process_leaves_the_last_step(whole: Path, tmp_path: Path) -> None:
    config = config_of()
    config.data.workers = 1
    with pytest.raises(MemoryError):
        go(tmp_path, data=Failing(4 * 3 + 3, MemoryError()), config=config)
    assert_continues(tmp_path, whole, 3)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_what_fails_in_a_step_leaves_the_one_before_with_its_batch_norms(
    error: Exception, whole: Path, tmp_path: Path
) -> None:
    with pytest.raises(type(error)):
        go(tmp_path, Normed(2 * 3 + 2, error))
    assert_continues(tmp_path, whole, 3)


def test_a_failure_leaves_no_loader_process_though_its_error_is_kept(tmp_path: Path) -> None:
    config = config_of()
    config.data.workers = 1
    with pytest.raises(MemoryError) as kept:
        go(tmp_path, Normed(4, MemoryError()), config=config)
    assert kept.tb
    assert active_children() == []


def test_a_device_that_fails_again_hides_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = WholeStepHook.put_back

    def put_back(self: WholeStepHook, skipped: torch.Tensor | None = None) -> None:
        if skipped is None:
            raise RuntimeError("CUDA error: device-side assert triggered")
        plain(self, skipped)

    monkeypatch.setattr(WholeStepHook, "put_back", put_back)
    with pytest.raises(ZeroDivisionError, match="a defect"):
        go(tmp_path, Normed(2 * 3 + 2, ZeroDivisionError("a defect")))
    assert "no checkpoint of step 3 could be written: CUDA error" in caplog.text
    assert not list_checkpoints(tmp_path)


def test_a_failure_in_the_first_step_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(MemoryError):
        go(tmp_path, Normed(2, MemoryError()))
    with pytest.raises(MemoryError):
        go(tmp_path, data=Failing(2, MemoryError()))
    assert not list_checkpoints(tmp_path)


def test_weights_that_were_half_moved_are_not_written(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain, done = torch.optim.AdamW.step, itertools.count(1)

    def step(self: torch.optim.AdamW, closure: None = None) -> None:
        plain(self, closure)
        if next(done) == 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        with pytest.raises(torch.OutOfMemoryError):
            go(tmp_path, config=config_of(save_every=2))
    assert "step_2.pth continues with --resume" in caplog.text
    assert_continues(tmp_path, whole, 2)


@pytest.mark.parametrize("error", [ZeroDivisionError(), MemoryError(), UserError("no such class")])
def test_what_fails_in_an_evaluation_loses_no_step_and_doubles_no_row(
    error: Exception, whole: Path, tmp_path: Path
) -> None:
    class Bad(Mean):
        done = itertools.count(1)

        def compute_metrics(self, results: list) -> dict:
            if next(self.done) == 2:
                raise error
            return super().compute_metrics(results)

    options = {"val_set": Failing(), "metrics": [Bad()], "config": config_of(eval_every=2)}
    with pytest.raises(type(error)):
        go(tmp_path, **options)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_2.pth", "step_4.pth"]
    assert_equal(content(tmp_path / "step_4.pth"), content(whole / "step_4.pth"))  # not the average, which is evaluated
    go(tmp_path, resume=True, **options)
    assert_equal(content(tmp_path / "step_6.pth"), content(whole / "step_6.pth"))
    rows = [json.loads(line) for line in (tmp_path / "scalars.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if "mean" in row] == [2, 4, 6]


def test_checkpoints_come_by_time_and_none_twice(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    plain = Runner.write_checkpoint
    monkeypatch.setattr(Runner, "write_checkpoint", lambda self, step: (written.append(step), plain(self, step))[1])
    now = itertools.count(0, 60 * 10)  # ten minutes from one look at the clock to the next
    monkeypatch.setattr("convmae.engine.training.loops.time.monotonic", lambda: next(now))
    evaluated = {"val_set": Failing(), "metrics": [Mean()]}
    go(tmp_path / "seldom", config=config_of(save_minutes=1000, eval_every=4), **evaluated)
    assert written == [4, 6]
    written.clear()
    go(tmp_path / "never", config=config_of(save_minutes=0, save_every=3))
    assert written == [3, 6]
    written.clear()
    go(tmp_path / "often", config=config_of(save_minutes=5, eval_every=2, keep_checkpoints=-1), **evaluated)
    assert written == [1, 2, 3, 4, 5, 6]
    for step in written:  # a checkpoint changes nothing in the run
        assert_equal(content(tmp_path / "often" / f"step_{step}.pth"), content(whole / f"step_{step}.pth"))
    assert ScheduleOptions().save_minutes == 30


@pytest.mark.parametrize("fate", ["removed", "renamed"])
def test_a_work_directory_that_vanishes_is_said_and_the_step_kept(fate: str, whole: Path, tmp_path: Path) -> None:
    work_dir = tmp_path / "run"
    act = {
        "removed": lambda runner: shutil.rmtree(work_dir),
        "renamed": lambda runner: work_dir.rename(tmp_path / "elsewhere"),
    }[fate]
    with pytest.raises(UserError, match=r"The folder .*run is gone: it was removed or renamed while the run went on"):
        go(work_dir, hooks=[Beside(4, act)])
    assert [path.name for path in list_checkpoints(work_dir)] == ["step_4.pth"]
    assert_continues(work_dir, whole, 4)


def test_a_checkpoint_makes_no_second_folder_for_one_that_vanished(tmp_path: Path) -> None:
    work_dir = tmp_path / "run"
    config = config_of(save_every=1)
    config.runtime.log_every = 100
    (tmp_path / "no").touch()

    def act(runner: Runner) -> None:
        shutil.rmtree(work_dir)
        work_dir.symlink_to(tmp_path / "no" / "way")  # where none can be made

    with pytest.raises(UserError, match="is gone"):
        go(work_dir, hooks=[Beside(4, act)], config=config)


FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no device here that is always full")


@needs_full
def test_a_disk_that_is_full_for_the_scalars_is_one_message_and_a_checkpoint(whole: Path, tmp_path: Path) -> None:
    def act(runner: Runner) -> None:
        (tmp_path / "scalars.jsonl").unlink()
        (tmp_path / "scalars.jsonl").symlink_to(FULL)

    with pytest.raises(UserError, match=r"scalars\.jsonl can't be written \(No space left on device\)"):
        go(tmp_path, hooks=[Beside(4, act)])
    (tmp_path / "scalars.jsonl").unlink()
    assert_continues(tmp_path, whole, 4)


@needs_full
def test_a_log_that_is_full_ends_the_run_once_and_the_console_goes_on(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "log.txt").symlink_to(FULL)
    start_log(tmp_path)
    with pytest.raises(UserError, match=r"log\.txt can't be written \(No space left on device\)"):
        go(tmp_path)
    start_log(None)
    go(tmp_path, config=config_of(save_every=2))
    said = capsys.readouterr()
    assert "step 6/6" in said.out
    assert "Traceback" not in said.err + said.out
    assert "Logging error" not in said.err


def test_a_disk_that_is_full_for_a_checkpoint_names_the_last_one(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain, done = os.fsync, itertools.count(1)

    def fsync(place: int) -> None:
        if next(done) > 3:  # the recipe and two checkpoints
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(place)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(UserError, match=r"step_3\.pth can't be written \(No space left on device\)"):
            go(tmp_path, config=config_of(save_every=1))
    assert "step_2.pth continues with --resume" in caplog.text
    assert caplog.text.count("No space") == 0  # that is the error's own
    assert_continues(tmp_path, whole, 2)


def test_tensorboards_file_that_can_not_be_written_is_one_message(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(UserError, match="tensorboard is gone"):
        go(tmp_path, hooks=[Beside(STEPS, lambda runner: shutil.rmtree(tmp_path / "tensorboard"))])
    assert "Traceback" not in capsys.readouterr().err
    assert_equal(content(tmp_path / "step_6.pth"), content(whole / "step_6.pth"))
