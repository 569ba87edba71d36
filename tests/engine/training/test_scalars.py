"""The rows of a run's losses and scores: torn lines, repeated steps, and none past the checkpoint that a run goes on from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_run import Config, Noise, Regression
from torch.distributed import DistError

from convmae.engine.errors import UserError
from convmae.engine.options import ScheduleOptions
from convmae.engine.training import hooks
from convmae.engine.training.checkpoints import list_checkpoints
from convmae.engine.training.scalars import append_row, cut_scalars, read_scalars
from convmae.engine.training.train import train


def test_scalars_of_a_resumed_run_take_the_later_values(tmp_path: Path) -> None:
    rows = [
        {"step": 10, "loss": 3.0, "lr": 0.1},
        {"step": 20, "loss": 2.0, "lr": 0.1},
        {"step": 20, "bbox_mAP": 0.4},
        {"step": 30, "loss": 9.0, "lr": 0.1},
        {"step": 20, "loss": 2.5, "lr": 0.1},
        {"step": 30, "loss": 1.5, "lr": 0.1},
    ]
    (tmp_path / "scalars.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert read_scalars(tmp_path) == [
        {"step": 10, "loss": 3.0, "lr": 0.1},
        {"step": 20, "loss": 2.5, "lr": 0.1, "bbox_mAP": 0.4},
        {"step": 30, "loss": 1.5, "lr": 0.1},
    ]


@pytest.mark.parametrize("cut", range(1, 28))
def test_a_line_torn_anywhere_costs_that_line_alone(tmp_path: Path, cut: int) -> None:
    """A killed run leaves the beginning of a line; a resumed one appends to it."""
    whole, torn, after = ('{"step": 10, "loss": 0.75}', '{"step": 20, "loss": 0.5}\n', '{"step": 20, "loss": 0.25}')
    path = tmp_path / "scalars.jsonl"
    path.write_text(f"{whole}\n{torn[:cut]}", encoding="utf-8")
    assert read_scalars(tmp_path)[0] == {"step": 10, "loss": 0.75}
    path.write_text(f"{whole}\n{torn[:cut]}{after}\n", encoding="utf-8")
    assert read_scalars(tmp_path) == [{"step": 10, "loss": 0.75}, {"step": 20, "loss": 0.25}]


@pytest.mark.parametrize("evaluated", [False, True])
def test_rows_past_a_step_are_cut_off(evaluated: bool, tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        append_row(tmp_path, step, {"loss": 1.0 / step, "lr": 0.1})
        append_row(tmp_path, step, {"mIoU": step / 10})
    with (tmp_path / "scalars.jsonl").open("a") as file:
        file.write('{"step": 5, "los')
    cut_scalars(tmp_path, 3, evaluated)
    rows = [json.loads(line) for line in (tmp_path / "scalars.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3]
    assert [row["step"] for row in rows if "mIoU" in row] == ([1, 2] if evaluated else [1, 2, 3])


def test_where_no_row_was_written_none_is_cut(tmp_path: Path) -> None:
    cut_scalars(tmp_path, 3, evaluated=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "error"),
    [("world_mean", DistError("Timed out waiting 30000ms for send operation")), ("append_row", UserError("no room"))],
)
def test_a_step_after_which_a_run_fails_has_its_line(
    name: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process hangs after the weights have moved, or the disk fails: the run goes on after this step."""

    def go(folder: Path, resume: bool = False) -> None:
        folder.mkdir(exist_ok=True)
        config = Config(schedule=ScheduleOptions(steps=5, save_every=100))
        train(Regression(), Noise(), config=config, work_dir=folder, resume=resume)

    def lines(folder: Path) -> list[dict[str, Any]]:
        rows = [json.loads(line) for line in (folder / "scalars.jsonl").read_text(encoding="utf-8").splitlines()]
        return [{key: row[key] for key in ("step", "loss", "lr")} for row in rows]

    go(tmp_path / "whole")
    calls, real = [], getattr(hooks, name)

    def fails(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(hooks, name, fails)
    with pytest.raises(type(error)):
        go(tmp_path / "failed")
    assert [path.name for path in list_checkpoints(tmp_path / "failed")] == ["step_3.pth"]
    assert lines(tmp_path / "failed") == lines(tmp_path / "whole")[:3]
    go(tmp_path / "failed", resume=True)
    assert lines(tmp_path / "failed") == lines(tmp_path / "whole")


def test_a_device_that_gives_nothing_more_hides_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> dict[str, float]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(hooks.LogHook, "_means", broken)
    with pytest.raises(RuntimeError, match="illegal memory access") as caught:
        train(Regression(), Noise(), config=Config(), work_dir=tmp_path)
    assert caught.value.__context__ is None  # it is the first, not one of its handling
