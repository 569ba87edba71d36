"""Runs in processes of their own: none twice, so many at a time, stopped with a checkpoint and gone on from it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from convmae.engine.errors import UserError
from convmae.studies.runs import Ended, Run, finish

Called = Callable[[Path], list[str]]


def run(
    folder: Path, *options: str, tool: str = "train_det", kept: tuple[str, ...] = (), needs: Path | None = None
) -> Run:
    words = (tool, "--config", "some.yaml", "--work-dir", str(folder), "--cfg-options", "a=b", *options)
    return Run(folder, words, kept, needs)


def test_each_is_run_once_and_tells_what_it_took(tmp_path: Path, stand_ins: Called) -> None:
    runs = [run(tmp_path / "study" / "arm" / name) for name in ("one", "two")]
    assert [one.run for one in finish(runs[:1])] == runs[:1]
    assert list(finish(runs, jobs=2)) == [Ended(runs[0]), Ended(runs[1])]
    assert stand_ins(tmp_path / "study") == ["arm/one -", "arm/two -"]
    assert runs[0].metrics["mIoU"] > 0
    assert 0 < runs[0].spent.processor < 60
    assert 0 < runs[0].spent.clock < 60


def test_a_run_with_other_options_is_not_taken_for_this_one(tmp_path: Path, stand_ins: Called) -> None:
    list(finish([run(tmp_path / "study" / "arm" / "one")]))
    other = run(tmp_path / "study" / "arm" / "one", "c=d")
    with pytest.raises(UserError, match="a run with other options"):
        list(finish([other]))
    other.renew()
    assert [one.failure for one in finish([other])] == [""]


def test_weights_are_removed_and_numbers_stay(tmp_path: Path, stand_ins: Called) -> None:
    folder = tmp_path / "study" / "arm"
    runs = [run(folder / "training"), run(folder / "pretraining", tool="pretrain", kept=("encoder.pth",))]
    list(finish(runs[:1]))
    assert (folder / "training" / "model.pth").is_file()
    list(finish(runs, shed=True))  # of one that was finished before, too
    kept = {"command.txt", "config.yaml", "log.txt", "metrics.json", "output.txt", "scalars.jsonl", "spent.json"}
    assert {path.name for path in (folder / "training").iterdir()} == kept
    assert {path.name for path in (folder / "pretraining").iterdir()} == kept | {"encoder.pth"}


def test_a_failure_is_told_and_the_others_go_on(
    tmp_path: Path, stand_ins: Called, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_FAILS", "bad")
    folder = tmp_path / "study" / "arm"
    bad, good = run(folder / "bad"), run(folder / "good")
    needy = run(folder / "needy", needs=folder / "bad" / "model.pth")
    ended = {one.run: one.failure for one in finish([needy, bad, good])}
    assert ended[good] == ""
    assert "train_det ended with 2: the gradient was not finite" in ended[bad]
    assert "model.pth is missing" in ended[needy]


def test_a_run_waits_for_what_it_needs(tmp_path: Path, stand_ins: Called) -> None:
    folder = tmp_path / "study" / "arm"
    runs = [run(folder / "last", needs=folder / "first" / "model.pth"), run(folder / "between"), run(folder / "first")]
    assert [one.run.folder.name for one in finish(runs)] == ["between", "first", "last"]


def test_runs_at_a_time_have_a_gpu_each(tmp_path: Path, stand_ins: Called) -> None:
    runs = [run(tmp_path / "study" / "arm" / str(number)) for number in range(4)]
    list(finish(runs, 2, ["4", "7"]))
    assert {line.split()[1] for line in stand_ins(tmp_path / "study")} == {"4", "7"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_with_a_checkpoint_and_the_next_call_goes_on(
    tmp_path: Path, stand_ins: Called, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setenv("STAND_IN_WAITS", "slow")
    folder = tmp_path / "study" / "arm"
    runs = [run(folder / "quick"), run(folder / "slow"), run(folder / "slow_too"), run(folder / "later")]

    def interrupt() -> None:
        while not all((one.folder / "waits").is_file() for one in runs[1:3]):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt, daemon=True).start()
    done = []
    with pytest.raises(KeyboardInterrupt), closing(finish(runs, jobs=2)) as ended:
        done += [one.run.folder.name for one in ended]
    assert not runs[3].folder.exists()
    assert [(one.folder / "step_1.pth").is_file() for one in runs[1:3]] == [True, True]
    assert [one.failure for one in finish(runs, jobs=2)] == [""] * 4
    assert stand_ins(tmp_path / "study").count("arm/quick -") == 1


def test_leaving_early_stops_what_goes_on_whether_it_has_ended_or_not(
    tmp_path: Path, stand_ins: Called, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_WAITS", "slow")
    folder = tmp_path / "study" / "arm"
    runs = [run(folder / name) for name in ("first", "ended", "slow")]
    with closing(finish(runs, jobs=3)) as ended:
        next(ended)
        while not ((folder / "slow" / "waits").is_file() and all(one.is_finished for one in runs[:2])):
            time.sleep(0.02)
        time.sleep(0.2)  # the second has ended, and nobody has looked
    assert (folder / "slow" / "step_1.pth").is_file()
    assert all((one.folder / "spent.json").is_file() for one in runs)
