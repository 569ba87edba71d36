"""A training picture that can't be read: skipped alike by any number of processes, named once, and not too often."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from small_run import Mean, Regression
from torch.utils.data import Dataset

from convmae.engine.errors import UserError
from convmae.engine.faults import UNREADABLE, Effect, Fault
from convmae.engine.log import start_log
from convmae.engine.options import DataOptions, OptimOptions, RuntimeOptions, ScheduleOptions
from convmae.engine.pictures.reading import reading_picture
from convmae.engine.seeding import SampleKey
from convmae.engine.training.checkpoints import latest_checkpoint
from convmae.engine.training.train import train
from convmae.engine.training.unreadable import DRAWS, SkippingDataset


@dataclass
class Config:
    data: DataOptions = field(
        default_factory=lambda: DataOptions(batch_size=4, workers=0, on_bad_image="skip", bad_share=0.2)
    )
    optim: OptimOptions = field(default_factory=lambda: OptimOptions(lr=0.01))
    schedule: ScheduleOptions = field(default_factory=lambda: ScheduleOptions(steps=8, save_every=3))
    runtime: RuntimeOptions = field(default_factory=lambda: RuntimeOptions(device="cpu", precision="fp32"))


class Pictures(Dataset):
    """Ten pictures, of which some can't be read; ``wrong`` has no label, ``other`` is not as options ask."""

    def __init__(self, *unread: int, wrong: int = -1, other: int = -1) -> None:
        self.unread, self.wrong, self.other = set(unread), wrong, other

    def __len__(self) -> int:
        return 10

    def name(self, index: int) -> str:
        return f"{index}.jpg"

    def __getitem__(self, index: int) -> dict:
        with reading_picture():
            if index in self.unread:
                raise UserError(f"{index}.jpg is cut off.")
            if index == self.other:
                raise Fault("pictures of other bands", f"{index}.jpg has 4 bands.")
        if index == self.wrong:
            raise UserError(f"{index}.jpg has no label.")
        return {"x": torch.randn(3) + index}


class Killed(BaseException):
    """Ends a run as SIGKILL does, without a last checkpoint."""


class KillAt(Hook):
    priority = "LOWEST"

    def __init__(self, step: int) -> None:
        self.step = step

    def after_train_iter(self, runner: object, batch_idx: int, **_: object) -> None:
        if batch_idx + 1 == self.step:
            raise Killed


def run(work_dir: Path, pictures: Pictures, config: Config | None = None, **kwargs: object) -> dict[str, torch.Tensor]:
    """Returns the weights that a run ends with."""
    work_dir.mkdir(exist_ok=True)
    start_log(work_dir)
    runner = train(Regression(), pictures, config=config or Config(), work_dir=work_dir, **kwargs)
    return {name: value.clone() for name, value in runner.bare_model.state_dict().items()}


def checkpoint(work_dir: Path) -> dict:
    path = latest_checkpoint(work_dir)
    assert path is not None
    return torch.load(path, weights_only=True)


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left)


def test_another_picture_takes_the_place_whatever_the_number_of_loaders_and_after_a_kill(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", Pictures(2, 7))
    config = Config()
    config.data.workers = 2
    assert equal(whole, run(tmp_path / "loaders", Pictures(2, 7), config))
    with pytest.raises(Killed):
        run(tmp_path / "killed", Pictures(2, 7), hooks=[KillAt(5)])
    assert equal(whole, run(tmp_path / "killed", Pictures(2, 7), resume=True))
    assert not equal(whole, run(tmp_path / "mended", Pictures()))


def test_each_is_named_once_and_kept_in_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(Killed):  # after three checkpoints and two passes over the pictures
        run(tmp_path / "run", Pictures(2, 7), hooks=[KillAt(7)])
    run(tmp_path / "run", Pictures(2, 7), resume=True)
    log = (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")
    for number in (2, 7):
        assert log.count(f"so far): {number}.jpg is cut off.") == 1
    assert "2 of 2 pictures that could not be read still can't" in log
    assert checkpoint(tmp_path / "run")["meta"]["unreadable"] == {
        "2.jpg": "2.jpg is cut off.",
        "7.jpg": "7.jpg is cut off.",
    }


def test_too_many_stop_the_run_with_a_checkpoint_that_goes_on_once_they_are_mended(tmp_path: Path) -> None:
    found = r"3 of 10 training pictures can't be read, more than the share of data.bad_share=0.2.*--resume"
    with pytest.raises(UserError, match=found) as stop:
        run(tmp_path / "run", Pictures(0, 4, 9))
    assert all(f"{number}.jpg is cut off." in str(stop.value) for number in (0, 4, 9))
    step = checkpoint(tmp_path / "run")["meta"]["step"]
    assert 1 <= step <= 3  # all are met in the first pass
    with pytest.raises(UserError, match="3 of 10 training pictures"):
        run(tmp_path / "run", Pictures(0, 4, 9), resume=True)
    assert checkpoint(tmp_path / "run")["meta"]["step"] == step
    run(tmp_path / "run", Pictures(4), resume=True)
    meta = checkpoint(tmp_path / "run")["meta"]
    assert (meta["step"], list(meta["unreadable"])) == (8, ["4.jpg"])


def test_where_a_run_is_to_stop_the_first_one_stops_it(tmp_path: Path) -> None:
    config = Config()
    config.data.on_bad_image = "stop"
    with pytest.raises(UserError, match=r"4\.jpg is cut off"):
        run(tmp_path / "run", Pictures(4), config)


def test_what_labels_lack_is_not_skipped(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"4\.jpg has no label"):
        run(tmp_path / "run", Pictures(wrong=4))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_can_be_read_and_is_not_as_options_ask_stops_the_run(tmp_path: Path, workers: int) -> None:
    config = Config()
    config.data.workers = workers
    with pytest.raises(UserError, match=r"4\.jpg has 4 bands"):
        run(tmp_path / "run", Pictures(other=4), config)


def test_pictures_that_are_evaluated_are_not_skipped(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"4\.jpg is cut off"):
        run(tmp_path / "run", Pictures(), val_set=Pictures(4), metrics=[Mean()])


def test_a_set_of_which_nothing_can_be_read_ends_the_run() -> None:
    dataset = SkippingDataset(Pictures(*range(10)), 0, skip=True)
    with pytest.raises(UserError, match=rf"is cut off. It is the last of {DRAWS} in a row"):
        dataset[SampleKey(0, 3)]


def test_pictures_in_place_of_one_differ_by_pass_and_place() -> None:
    dataset = SkippingDataset(Pictures(2, 7), 0, skip=True)
    drawn = [dataset[SampleKey(epoch, index)] for epoch in range(8) for index in (2, 7)]
    taken = {round(float(one.sample["x"].mean())) for one in drawn}
    assert len(taken) > 3
    assert all(index in one.unread for one, index in zip(drawn, [2, 7] * 8, strict=True))
    assert dataset[SampleKey(0, 3)].unread == {}


@pytest.mark.parametrize(
    ("way", "count", "effect"),
    [("skip", 2, Effect.SKIPPED), ("skip", 3, Effect.STOPS), ("stop", 1, Effect.STOPS)],
)
def test_a_check_before_the_run_says_what_the_run_does(way: str, count: int, effect: Effect) -> None:
    faults = [Fault(UNREADABLE) for _ in range(count)]
    DataOptions(on_bad_image=way, bad_share=0.2).let_skip(faults, 10)
    assert {fault.effect for fault in faults} == {effect}


@pytest.mark.parametrize(("read", "doubted"), [(0, False), (5, True), (10, False), (20, False)])
def test_a_sample_of_which_many_cant_be_read_is_doubted(read: int, doubted: bool) -> None:
    """As 2 of 5 where a fifth may be; whether all have more is not known."""
    faults = [Fault(UNREADABLE) for _ in range(2)]
    DataOptions(on_bad_image="skip", bad_share=0.2).let_skip(faults, 10, read)
    assert [fault.effect for fault in faults] == [Effect.SKIPPED] * 2 + [Effect.DOUBTFUL] * doubted
    assert not doubted or "2 of 5 training pictures that were read can't be" in str(faults[-1])
