"""A run's processes, as /proc tells of them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from runs import MARK

GONE = (FileNotFoundError, ProcessLookupError, PermissionError)  # it ended while it was looked at


def environment(pid: int) -> dict[str, str]:
    """Returns what a process was started with; nothing once it has ended."""
    with suppress(*GONE):
        words = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
        return dict(word.split("=", 1) for word in words if "=" in word)
    return {}


def parent(pid: int) -> int:
    """Returns a process's parent; 0 once it has ended."""
    with suppress(*GONE):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def marked(mark: str) -> list[int]:
    """Returns the living processes of a run, whoever their parent is now."""
    pids = sorted(int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
    return [pid for pid in pids if environment(pid).get(MARK) == mark]


def roles(mark: str, first: int) -> dict[str, list[int]]:
    """Returns a run's processes as ``agent`` (torchrun), ``rank`` (those that train) and ``loader``."""
    found: dict[str, list[int]] = {"agent": [], "rank": [], "loader": []}
    pids = marked(mark)
    agent = first if any("RANK" in environment(pid) for pid in pids) else None
    for pid in pids:
        if pid == agent:
            found["agent"].append(pid)
        elif pid == first or parent(pid) == agent:
            found["rank"].append(pid)
        else:
            found["loader"].append(pid)
    return found


def kill(pids: list[int]) -> None:
    """Ends processes at once."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def wait_until(holds: Callable[[], bool], seconds: float, pause: float = 0.05) -> bool:
    """Waits until something holds, for a time at most, and returns whether it does."""
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(pause)
    return True
