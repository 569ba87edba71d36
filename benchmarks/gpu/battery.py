"""Runs measurements one after another within a time, and keeps every row as soon as it is made."""

from __future__ import annotations

import gc
import json
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from convmae.benchmarks.gpu.device_timing import clear, wait
from convmae.engine.errors import UserError
from convmae.engine.files import write_whole

Row = dict[str, Any]
SLOWER = 3.0  # a case that takes so many times what was expected, and `GRACE` seconds, is ended
GRACE = 30.0


@dataclass
class Setting:
    """What the measurements read."""

    device: torch.device
    tiny: bool = False  # sizes at which all of it runs on a CPU in seconds
    repeats: int = 5  # timed regions, of which the median is taken
    data: Path | None = None  # a folder of real data sets
    fixtures: Path | None = None  # the outputs of the published code, tests/data
    scratch: Path = Path()  # a folder for files that nobody keeps
    ceilings: dict[str, float] = field(default_factory=dict)  # bf16 products a second times two, bytes copied a second

    def share(self, name: str, rate: float) -> float | None:
        """Returns what part of a ceiling a rate is, None where that was not measured."""
        return rate / self.ceilings[name] if self.ceilings.get(name) else None


class Case(NamedTuple):
    """One measurement: ``run(seconds)`` yields its rows, in about the seconds that it is given."""

    name: str
    seconds: float  # on an H200, by model until it is measured
    run: Callable[[float], Iterable[Row]]


class Item(NamedTuple):
    """A group of measurements; ``cases`` imports what they need, so that an item that can't be imported is its own loss."""

    name: str
    title: str
    cases: Callable[[Setting], Iterable[Case]]


class Overrun(BaseException):
    """Ends a case that takes far longer than expected; not an Exception, for libraries catch those."""


class DeviceLost(Exception):
    """After a fault in a kernel a process can do nothing more on its GPU."""


class Battery:
    """Runs items, and writes rows, times, errors and what was left out to one JSON file as they come.

    Args:
        setting: what the cases read.
        output: the JSON file, or None.
        budget: seconds from now.
        head: what the file says beside the rows: ``comparison``, ``options``, ``machine``.
        times: seconds that cases took in an earlier run, by name; the others' are modelled.
        resume: goes on with the file: what it holds is not run again.
    """

    def __init__(
        self,
        setting: Setting,
        output: Path | None,
        budget: float,
        head: dict[str, Any],
        times: Mapping[str, float] | None = None,
        resume: bool = False,
    ) -> None:
        self.setting, self.output, self.times = setting, output, times or {}
        self.started = time.monotonic()
        self.budget = budget
        self.expected = self.taken = 0.0
        self.content: dict[str, Any] = {**head, "rows": [], "cases": {}, "left_out": {}, "running": None}
        if resume and output and output.is_file():
            self._take_up(output, head)

    @property
    def rows(self) -> list[Row]:
        """All rows so far."""
        return self.content["rows"]

    @property
    def left(self) -> float:
        """Seconds left."""
        return self.budget - (time.monotonic() - self.started)

    def run(
        self, item: Item, judge: Callable[[list[Row]], list[Row]], wanted: Callable[[str], bool] = lambda case: True
    ) -> None:
        """Runs the wanted cases of an item that fit, and adds what ``judge`` makes of all its rows. Raises DeviceLost."""
        try:
            cases = list(item.cases(self.setting))
        except Exception as error:  # a missing package, say
            cases = [Case("all of it", 0.0, _raising(error))]
            wanted = lambda case: True  # noqa: E731
        for case in cases:
            if wanted(case.name):
                self._run_case(item.name, case)
        self._drop(lambda row: row["item"] == item.name and "aim" in row)
        for row in judge([row for row in self.rows if row["item"] == item.name]):
            self.add({"item": item.name, **row})

    def add(self, row: Row) -> None:
        """Prints a row and writes it to the file."""
        self.rows.append(row)
        print(f"[{self.budget - self.left:6.1f} s] {row['item']}: {_line(row)}", flush=True)
        self.write()

    def close(self) -> None:
        """Says what was left out, what failed and what was missed."""
        for key, reason in self.content["left_out"].items():
            print(f"left out: {key} ({reason})")
        for row in self.rows:
            if "error" in row:
                print(f"failed: {row['item']}/{row['case']}: {row['error']}")
            elif row.get("met") is False:
                print(f"missed: {row['item']}: {_line(row)}")
        print(f"{len(self.rows)} rows in {self.budget - self.left:.0f} s", flush=True)

    def write(self) -> None:
        """Writes the file anew, whole."""
        if self.output:
            write_whole(self.output, json.dumps(self.content, indent=1, default=str) + "\n")

    def _run_case(self, item: str, case: Case) -> None:
        key = f"{item}/{case.name}"
        if key in self.content["cases"]:
            return
        pace = min(SLOWER, max(1.0, self.taken / self.expected)) if self.expected > GRACE else 1.0
        seconds = self.times.get(key, case.seconds * (0.01 if self.setting.tiny else 1.0))
        if seconds * pace > self.left or self.left <= 0:
            self._leave_out(key, f"needs about {seconds * pace:.2g} s, {max(0.0, self.left):.2g} s are left")
            return
        self._drop(lambda row: (row["item"], row.get("case")) == (item, case.name))  # of a run that ended in it
        self.content["left_out"].pop(key, None)
        self.content["running"] = key
        self.write()
        began = time.monotonic()
        limit = min(self.left, SLOWER * seconds * pace + GRACE)
        error: BaseException | None = None
        try:
            with _alarm(limit):
                for row in case.run(seconds):
                    self.add({"item": item, "case": case.name, **row})
        except (Exception, Overrun) as found:
            error = found
        took = time.monotonic() - began
        self.expected, self.taken = self.expected + seconds, self.taken + took
        self.content["running"] = None
        if isinstance(error, Overrun) and self.left < 1:
            self._leave_out(key, f"the time was up after {took:.0f} s of it")
        else:
            self.content["cases"][key] = round(took, 2)
        if error is not None:
            self._note(item, case.name, error)
            del error  # it holds the frames, and they the tensors
        self.write()
        self._tidy(key)

    def _leave_out(self, key: str, reason: str) -> None:
        self.content["left_out"][key] = reason
        print(f"[{self.budget - self.left:6.1f} s] {key} left out: {reason}", flush=True)
        self.write()

    def _drop(self, which: Callable[[Row], bool]) -> None:
        self.content["rows"] = [row for row in self.rows if not which(row)]

    def _note(self, item: str, case: str, error: BaseException) -> None:
        """Adds a row of what went wrong, and prints where."""
        lines = traceback.format_exception(error)
        print("".join(lines), flush=True)
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        text = f"{type(error).__name__}: {first}".rstrip(": ")
        self.add({"item": item, "case": case, "error": text[:500], "traceback": "".join(lines)[-4000:]})
        traceback.clear_frames(error.__traceback__)

    def _tidy(self, key: str) -> None:
        try:
            if "torch._dynamo" in sys.modules:
                torch.compiler.reset()  # compiled code holds weights
            clear(self.setting.device)
            wait(self.setting.device)
        except RuntimeError as error:
            gc.collect()
            raise DeviceLost(f"after {key}: {error}") from error

    def _take_up(self, path: Path, head: dict[str, Any]) -> None:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            same = all(found[name] == json.loads(json.dumps(head[name])) for name in ("comparison", "machine"))
            rows, cases, running = found["rows"], found["cases"], found["running"]
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"--resume: {path} is no file of this command; give another --output.") from None
        if not same:
            raise UserError(f"--resume: {path} was measured on another machine or version; give another --output.")
        if running:  # the process ended in the middle of it
            cases[running] = 0.0
            item, _, case = running.partition("/")
            rows.append({"item": item, "case": case, "error": "the process ended while it ran"})
        self.content |= {"rows": rows, "cases": cases, "left_out": found.get("left_out", {})}
        for row in rows:
            self.setting.ceilings |= row.get("ceilings", {})


def _line(row: Row) -> str:
    return "  ".join(f"{name} {shown(value)}" for name, value in row.items() if name not in ("item", "traceback"))


def shown(value: Any) -> str:
    """Returns a number to three digits, anything else as it is."""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def _raising(error: Exception) -> Callable[[float], Iterable[Row]]:
    def run(seconds: float) -> Iterator[Row]:
        raise error
        yield {}

    return run


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raises Overrun after so many seconds, where the system has such an alarm and this is the main thread."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: Any) -> None:
        raise Overrun(f"ended after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    # Again and again, as one that is raised in a destructor is lost.
    signal.setitimer(signal.ITIMER_REAL, max(0.01, seconds), 5.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
