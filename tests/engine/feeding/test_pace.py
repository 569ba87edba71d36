"""What the log, the curves and the report say of loading: counted by a clock of the test's own."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import Config, Noise, Regression

from convmae.engine.feeding import pace as pace_module
from convmae.engine.feeding.pace import Pace
from convmae.engine.log import log
from convmae.engine.options import DataOptions
from convmae.engine.training.train import train

CPU = torch.device("cpu")


class Clock:
    """Time as the test has it pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    for level in ("info", "warning"):
        monkeypatch.setattr(log, level, lines.append)
    return lines


def test_the_part_of_the_time_that_reading_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    pace = Pace(DataOptions(batch_size=6), 0, 2, CPU)
    for _ in range(4):
        with pace.reading():
            clock.now += 0.5
        clock.now += 1.5
    row = pace.row(8.0, 4)
    assert row["waiting"] == 0.25
    assert row["pictures_per_second"] == 3
    assert 0.05 < row["memory_gib"] < 50
    assert pace.row(8.0, 4)["waiting"] == 0
    monkeypatch.setattr(pace_module, "from_all", lambda waited: [waited, 0.4, 2.0])
    assert pace.row(8.0, 4)["waiting"] == 0.25  # of the process that waits most


def test_on_a_gpu_the_time_that_it_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    busy_until = 100.0

    class Event:
        """Is done once the GPU has done what was asked of it before."""

        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.done = max(clock.now, busy_until)

        def elapsed_time(self, later: "Event") -> float:
            return 1000 * (later.done - self.done)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(pace_module, "peak_bytes", lambda device: 3 * 2**29)
    pace = Pace(DataOptions(batch_size=2), 1, 8, torch.device("cuda"))
    for work in (3.0, 0.5):  # seconds that the GPU still has to do when the host begins to read for one
        busy_until = clock.now + work
        with pace.reading():
            clock.now += 1.0
    row = pace.row(10.0, 2)
    assert row["waiting"] == pytest.approx(0.05)
    assert row["memory_gib"] == 1.5


@pytest.mark.parametrize(
    ("data", "workers", "cores", "found"),
    [
        (DataOptions(workers="auto"), 7, 8, "loading: by 7 loader processes (data.workers=auto: 8 cores for it)"),
        (DataOptions(workers="auto"), 0, 1, "loading: in the training process (data.workers=auto: 1 core for it)"),
        (DataOptions(workers=1), 1, 8, "loading: by 1 loader process"),
    ],
)
def test_the_opening_lines_say_how_pictures_are_loaded(data: DataOptions, workers: int, cores: int, found: str) -> None:
    assert Pace(data, workers, cores, CPU).describe() == found


@pytest.mark.parametrize(
    ("keep", "workers", "named"), [("none", 1, {"keep", "workers"}), ("none", 2, {"keep"}), ("memory", 0, {"workers"})]
)
def test_advice_is_given_once_and_names_what_can_be_changed(keep: str, workers: int, named: set[str]) -> None:
    pace = Pace(DataOptions(workers=workers, keep=keep), workers, 2, CPU)
    assert not pace.advise(0.5, 9)  # loader processes begin
    assert not pace.advise(0.1, 10)
    told = pace.advise(0.12, 10)
    assert told.startswith("12% of a step is spent on waiting for data")
    assert {name for name in ("keep", "workers") if f"data.{name}" in told} == named
    assert not pace.advise(0.5, 20)


class Slow(Noise):
    """Samples that take a quarter of a second each by the test's clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.clock.now += 0.25
        return super().__getitem__(index)


class Worked(Regression):
    """A model whose step takes three seconds by it."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def forward(self, x: torch.Tensor, mode: str = "loss") -> Any:
        self.clock.now += 3.0
        return super().forward(x, mode)


def test_a_run_counts_says_and_advises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = said(monkeypatch)
    clock, config = Clock(monkeypatch), Config()
    config.schedule.steps, config.runtime.log_every = 16, 2
    train(Worked(clock), Slow(clock), config=config, work_dir=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "scalars.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(2, 17, 2))
    for row in rows:
        assert row["waiting"] == pytest.approx(0.25)
        assert row["seconds_per_step"] == pytest.approx(4)
        assert row["pictures_per_second"] == pytest.approx(1)
    assert "loading: in the training process" in lines
    assert "1.0 pictures/s  waiting 25%  memory" in next(line for line in lines if line.startswith("step 4/16"))
    assert sum("data.keep=memory" in line for line in lines) == 1
    told = next(number for number, line in enumerate(lines) if "data.keep=memory" in line)
    assert lines[told - 1].startswith("step 12/16")


def test_an_evaluation_is_no_part_of_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from small_run import Mean

    clock, config = Clock(monkeypatch), Config()
    config.schedule.steps, config.schedule.eval_every, config.runtime.log_every = 8, 2, 4
    train(Worked(clock), Slow(clock), config=config, work_dir=tmp_path, val_set=Slow(clock), metrics=[Mean()])
    rows = [json.loads(line) for line in (tmp_path / "scalars.jsonl").read_text().splitlines()]
    assert [row["seconds_per_step"] for row in rows if row["step"] == 8 and "lr" in row] == [pytest.approx(4)]
