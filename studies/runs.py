"""Runs of the project's own tools, each in a process and a folder of its own: so many at a time, and none done twice."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from convmae.engine.errors import UserError
from convmae.engine.files import write_whole

TOOLS = "convmae.tools"  # the package whose modules are started
RESUMING = ("pretrain", "finetune", "train_det", "train_seg")  # tools that go on where they were interrupted
_COMMAND, _OUTPUT, _SPENT = "command.txt", "output.txt", "spent.json"
_HEAVY = ("*.pth", "*.safetensors", "detections.json", "predictions.zip", "tensorboard/*", "report/*")


@dataclass(frozen=True)
class Run:
    """A call of a tool that writes ``metrics.json`` into its folder.

    ``words``: the tool's name and its options, but for how it begins; ``kept``: weights that outlast the run; ``needs``: a file
    without which it can't start, as another run makes it.
    """

    folder: Path
    words: tuple[str, ...]
    kept: tuple[str, ...] = ()
    needs: Path | None = None

    @property
    def is_finished(self) -> bool:
        """Whether it has its numbers."""
        return (self.folder / "metrics.json").is_file()

    @property
    def metrics(self) -> dict[str, Any]:
        """The numbers of a finished run. Raises UserError where its file is broken."""
        path = self.folder / "metrics.json"
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path} is broken ({error}).") from None
        return found

    @property
    def spent(self) -> Spent:
        """What it took so far, over all its starts."""
        path = self.folder / _SPENT
        return Spent(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else Spent(0.0, 0.0)

    def check(self) -> None:
        """Raises UserError where the folder holds a run of other words."""
        kept = self.folder / _COMMAND
        if kept.is_file() and kept.read_text(encoding="utf-8") != " ".join(self.words):
            raise UserError(f"{self.folder} holds a run with other options ({kept} has them); give another --work-dir.")

    def reopen(self) -> None:
        """Has a finished run, whose numbers can't be used, done again by the next call."""
        (self.folder / "metrics.json").unlink(missing_ok=True)

    def renew(self) -> None:
        """Removes a run of other words from the folder, where it is worth no question."""
        kept = self.folder / _COMMAND
        if kept.is_file() and kept.read_text(encoding="utf-8") != " ".join(self.words):
            shutil.rmtree(self.folder)

    def shed(self) -> None:
        """Removes what a study has no use for: all weights but those that are ``kept``, pictures, copies of the curves."""
        for pattern in _HEAVY:
            for path in self.folder.glob(pattern):
                if path.name not in self.kept:
                    path.unlink()
        for folder in (self.folder / "tensorboard", self.folder / "report"):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


class Spent(NamedTuple):
    """Seconds by the clock, and of processor time."""

    clock: float
    processor: float


class Ended(NamedTuple):
    """A run that has ended, and why it failed; empty where it is finished."""

    run: Run
    failure: str = ""


class _Going(NamedTuple):
    run: Run
    process: subprocess.Popen
    slot: int
    since: float


def gpus(device: str) -> list[str]:
    """Returns the GPUs as CUDA_VISIBLE_DEVICES names them, where runs with that ``runtime.device`` compute on them.

    Raises UserError for a device that isn't there.
    """
    import torch  # which takes seconds, and not all that is done with runs needs it

    from convmae.engine.machine.precision import resolve_device

    if resolve_device(device).type != "cuda":
        return []
    named = [one for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one.strip()]
    return named or [str(number) for number in range(torch.cuda.device_count())]


def finish(runs: Sequence[Run], jobs: int = 1, devices: Sequence[str] = (), shed: bool = False) -> Generator[Ended]:
    """Does all runs in their order, ``jobs`` at a time, and yields each as it ends; those that are finished come first.

    Each has one thread, or one of the GPUs named by ``devices``. With ``shed`` a finished run keeps its numbers, not its
    weights. Ctrl-C and SIGTERM have those that are going stop with a checkpoint, from which the next call continues; so does
    leaving the iteration. Raises UserError where a folder holds another run.
    """
    for run in runs:
        run.check()
    waiting = []
    for run in runs:
        if run.is_finished:
            if shed:
                run.shed()
            yield Ended(run)
        else:
            waiting.append(run)
    going: list[_Going] = []
    with _terminable():
        try:
            while waiting or going:
                while len(going) < jobs and (ready := _next(waiting)):
                    waiting.remove(ready)
                    slot = min(set(range(jobs)) - {one.slot for one in going})
                    going.append(_start(ready, slot, devices))
                for one in list(going):
                    if (failure := _look(one)) is not None:
                        going.remove(one)
                        if shed and not failure:
                            one.run.shed()
                        yield Ended(one.run, failure)
                if waiting and not going and _next(waiting) is None:
                    yield from (Ended(run, f"{run.needs} is missing, as what makes it failed") for run in waiting)
                    return
                time.sleep(0.05)
        finally:
            _stop(going)


def _next(waiting: Sequence[Run]) -> Run | None:
    """Returns the first run that can start."""
    return next((run for run in waiting if run.needs is None or run.needs.is_file()), None)


def _start(run: Run, slot: int, devices: Sequence[str]) -> _Going:
    run.folder.mkdir(parents=True, exist_ok=True)
    write_whole(run.folder / _COMMAND, " ".join(run.words))
    tool, *options = run.words
    begins = "--resume" if tool in RESUMING else "--overwrite"
    own = {"CUDA_VISIBLE_DEVICES": devices[slot % len(devices)]} if devices else {"OMP_NUM_THREADS": "1"}
    with open(run.folder / _OUTPUT, "a", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", f"{TOOLS}.{tool}", *options[:2], begins, *options[2:]],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **own},
            start_new_session=True,  # a terminal's Ctrl-C comes to us alone, who hand it on once
        )
    return _Going(run, process, slot, time.monotonic())


def _look(one: _Going, wait: bool = False) -> str | None:
    """Returns why a run failed, "" where it didn't, None while it goes on; adds up what it took."""
    number, status, used = os.wait4(one.process.pid, 0 if wait else os.WNOHANG)
    if not number:
        return None
    code = one.process.returncode = os.waitstatus_to_exitcode(status)
    before = one.run.spent
    spent = Spent(before.clock + time.monotonic() - one.since, before.processor + used.ru_utime + used.ru_stime)
    write_whole(one.run.folder / _SPENT, json.dumps(spent._asdict()))
    if code == 0 and one.run.is_finished:
        return ""
    output = one.run.folder / _OUTPUT
    lines = output.read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "nothing was said")
    return f"{one.run.words[0]} ended with {code}: {last} ({output} says all)"


def _stop(going: Sequence[_Going]) -> None:
    """Has runs stop after their step; once more interrupted, at once."""
    # Not by Popen's own methods, which look whether the process has ended and then keep from us what it took.
    waiting = list(going)
    _signal(waiting, signal.SIGTERM)
    while waiting:
        try:
            with contextlib.suppress(ChildProcessError):  # it had ended, and we were interrupted as we looked
                _look(waiting[0], wait=True)
            waiting.pop(0)
        except KeyboardInterrupt:
            _signal(waiting, signal.SIGKILL)


def _signal(going: Sequence[_Going], number: signal.Signals) -> None:
    for one in going:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one.process.pid, number)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Has SIGTERM raise KeyboardInterrupt, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
