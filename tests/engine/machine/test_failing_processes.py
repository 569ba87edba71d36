"""Of several processes one fails: its reason is said once, what was learnt is kept, and torchrun may start the job again."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_run import assert_same

from convmae.engine.commands.cli import prepare_work_dir
from convmae.engine.files import write_whole
from convmae.engine.machine.restarts import goes_on, mark
from convmae.engine.training.checkpoints import list_checkpoints

RUN = '''
"""A training tool on numbers, in which one process meets a fault."""

import itertools
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.hooks import Hook
from small_run import Config as Plain
from small_run import Mean, Noise, Regression

from convmae.engine.commands.cli import train_tool
from convmae.engine.errors import UserError
from convmae.engine.options import DataOptions, ScheduleOptions
from convmae.engine.training.train import train

FAULT, FIRST = os.environ["FAULT"], os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0"
FAILS = FAULT if os.environ.get("RANK") == "1" and FIRST else "none"


@dataclass
class Model:
    init: str = ""


@dataclass
class Numbers(DataOptions):
    root: str = "."


@dataclass
class Config(Plain):
    data: Numbers = field(default_factory=lambda: Numbers(batch_size=4, workers=0))
    model: Model = field(default_factory=Model)
    schedule: ScheduleOptions = field(default_factory=lambda: ScheduleOptions(steps=6, save_every=100, eval_every=3))


class Data(Noise):
    drawn = itertools.count(1)

    def __getitem__(self, index: int) -> dict:
        if next(self.drawn) == 10 and FAILS == "read":
            raise UserError("9.png is no picture")
        return super().__getitem__(index)


class Metric(Mean):
    def process(self, data_batch: dict, data_samples: list) -> None:
        if FAILS == "evaluate":
            raise ZeroDivisionError("no objects")
        super().process(data_batch, data_samples)


class Harm(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if batch_idx != 4:
            return
        if FAILS == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if FAILS == "make room":
            os.kill(os.getpid(), signal.SIGUSR1)
        if FAILS == "hang":
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # or torchrun would wait for half a minute
            time.sleep(600)
        if FAILS == "kill torchrun":
            parent = os.getppid()
            os.kill(parent, signal.SIGKILL)
            while os.getppid() == parent:
                time.sleep(0.01)


def start(config, work_dir: Path, resume: bool) -> None:
    data = {"val_set": Noise(), "metrics": [Metric()]}
    train(Regression(), Data(), config=config, work_dir=work_dir, resume=resume, hooks=[Harm()], **data)


sys.exit(train_tool(None, Config, lambda: start, description="", recipe="recipe.yaml"))
'''


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Starts the tool in two processes with a fault in the second one."""
    (tmp_path / "run.py").write_text(RUN)
    (tmp_path / "recipe.yaml").write_text("{}")

    def call(fault: str, *options: str, restarts: int = 0) -> subprocess.CompletedProcess:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        command = [*torchrun, f"--max-restarts={restarts}", "run.py", "--launcher", "pytorch", "--work-dir", "run"]
        paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        return subprocess.run(
            [*command, *options],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "FAULT": fault, "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return call


def of_the_run(text: str) -> str:
    """Returns what the processes say themselves, without torchrun and libraries that warn."""
    own = text[: text.find("torch/distributed/elastic")].rpartition("\n")[0]
    return re.sub(r"/\S*: \w*Warning:.*\n  .*\n?", "", own)


@pytest.mark.parametrize(
    ("fault", "step", "reason"),
    [("read", 4, "9.png is no picture"), ("evaluate", 3, "ZeroDivisionError: no objects"), ("kill", 4, "SIGKILL")],
)
def test_the_reason_of_one_process_is_said_and_what_was_learnt_kept(
    fault: str, step: int, reason: str, start: Callable[..., subprocess.CompletedProcess], tmp_path: Path
) -> None:
    failed = start(fault)
    assert failed.returncode != 0
    assert list_checkpoints(tmp_path / "run")[-1].name == f"step_{step}.pth"
    said = of_the_run(failed.stderr)
    if fault != "kill":
        assert said.count(f"error in process 1: {reason}") == 1, failed.stderr
    assert ("Traceback" in said) == (fault == "evaluate"), failed.stderr  # of a defect, one
    assert said.count("Traceback") <= 1, failed.stderr
    # The other one may still say, once and after it, that it lost the first: if torchrun's signal finds it writing.
    lost = [line for line in failed.stderr.splitlines() if "Connection" in line]
    assert [line.partition(" (")[0] for line in lost] in (
        [],
        ["error in process 0: Ended, because another process did or no longer answers; its message says why"],
    )
    root = failed.stderr.partition("Root Cause")[2]  # torchrun's summary
    assert re.search(r"rank +: 1", root), failed.stderr
    assert reason in root


def test_a_job_that_torchrun_starts_again_continues_what_it_began_and_ends_equal(
    start: Callable[..., subprocess.CompletedProcess], tmp_path: Path
) -> None:
    prepare_work_dir(tmp_path / "run", resume=False, overwrite=False)
    write_whole(tmp_path / "run" / "config.yaml", "an earlier run, which is to be replaced, but once")
    done = start("kill", "--overwrite", restarts=1)
    assert done.returncode == 0, done.stderr
    assert "continues from step_4.pth" in done.stdout
    whole = start("none", "--work-dir", "whole")
    assert whole.returncode == 0, whole.stderr
    assert_same(*(torch.load(tmp_path / name / "step_6.pth")["state_dict"] for name in ("run", "whole")))


def test_what_was_asked_to_stop_is_not_started_again_by_torchrun(
    start: Callable[..., subprocess.CompletedProcess], tmp_path: Path
) -> None:
    stopped = start("make room", restarts=1)
    assert stopped.returncode != 0
    assert stopped.stderr.count("error in process 0: Not started again: Stopped after step 5 of 6") == 1, stopped.stderr
    assert list_checkpoints(tmp_path / "run")[-1].name == "step_5.pth"


def test_a_mistake_of_input_is_not_tried_again(
    start: Callable[..., subprocess.CompletedProcess], tmp_path: Path
) -> None:
    failed = start("read", restarts=2)
    assert failed.returncode != 0
    assert failed.stderr.count("error in process 1: 9.png is no picture") == 1, failed.stderr
    again = "error in process 0: Not started again: 9.png is no picture"
    assert failed.stderr.count(again) == 2, failed.stderr
    assert "continues from" not in failed.stdout
    assert list_checkpoints(tmp_path / "run")[-1].name == "step_4.pth"
    done = start("none", "--resume")  # another job may have other input
    assert "continues from step_4.pth" in done.stdout
    assert done.returncode == 0, done.stderr


def test_a_process_that_hangs_ends_the_run_in_time_and_with_a_checkpoint(
    start: Callable[..., subprocess.CompletedProcess], tmp_path: Path
) -> None:
    failed = start("hang", "--cfg-options", "runtime.timeout=15")
    assert failed.returncode != 0
    said = "error in process 0: Ended, because another process has not answered in time"
    assert failed.stderr.count(said) == 1, failed.stderr
    assert "Timed out waiting 15000ms" in failed.stderr
    assert "runtime.timeout" in failed.stderr
    assert list_checkpoints(tmp_path / "run")[-1].name == "step_4.pth"


@pytest.mark.parametrize(
    ("fault", "status", "reason"), [("kill torchrun", -9, "torchrun is gone"), ("make room", 1, "exitcode  : 75")]
)
def test_what_stops_after_its_step_is_continued_by_the_same_command_and_ends_equal(
    fault: str, status: int, reason: str, start: Callable[..., subprocess.CompletedProcess], tmp_path: Path
) -> None:
    stopped = start(fault, "--resume", "auto")  # it returns once all that holds its output has ended
    assert stopped.returncode == status, stopped.stderr
    assert reason in stopped.stdout + stopped.stderr
    assert "Stopped after step 5 of 6" in stopped.stderr
    done = start("none", "--resume", "auto")
    assert done.returncode == 0, done.stderr
    assert "continues from step_5.pth" in done.stdout
    whole = start("none", "--work-dir", "whole")
    assert whole.returncode == 0, whole.stderr
    assert_same(*(torch.load(tmp_path / name / "step_6.pth")["state_dict"] for name in ("run", "whole")))


def test_only_the_job_that_began_a_run_goes_on_with_it_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    mark(tmp_path)
    assert not list(tmp_path.iterdir())  # no torchrun
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # as it is for all that have no name
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    mark(tmp_path)
    assert not goes_on(tmp_path)  # a first start keeps the rules
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert goes_on(tmp_path)
    assert not goes_on(tmp_path / "other")
    monkeypatch.setattr(os, "getppid", lambda: 1)  # another torchrun
    assert not goes_on(tmp_path)
