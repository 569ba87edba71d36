"""A job that torchrun starts again (--max-restarts) goes on with the run that it began."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from convmae.engine.files import write_whole
from convmae.engine.machine.processes import tell_all

_MARK = "job.txt"


def goes_on(work_dir: Path) -> bool:
    """Whether this is a new start of the torchrun that began the run in a folder; every process asks, all hear the same."""
    return bool(tell_all(int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0 and _is_marked(work_dir)))


def mark(work_dir: Path) -> None:
    """Writes from the first process which torchrun begins a run, if one does."""
    if os.environ.get("TORCHELASTIC_RUN_ID") and os.environ.get("RANK") == "0":
        write_whole(work_dir / _MARK, f"{_job()}\n")


def _is_marked(work_dir: Path) -> bool:
    path = work_dir / _MARK
    return path.is_file() and path.read_text(encoding="utf-8", errors="replace").strip() == _job()


def _job() -> str:
    """Returns what tells this torchrun from all others: its name, machine, process and the moment when that began."""
    parent = os.getppid()
    began = Path(f"/proc/{parent}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    return f"{os.environ.get('TORCHELASTIC_RUN_ID')} on {socket.gethostname()}, process {parent} of {began}"
