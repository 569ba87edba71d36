"""A job that torchrun starts again (--max-restarts) goes on with the run that it began, unless it is to end or can't but."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from convmae.engine.errors import Interrupted, UserError
from convmae.engine.files import write_whole

_MARK = "job.txt"
_TORCHRUN = "TORCHELASTIC_RUN_ID" in os.environ
_PARENT = os.getppid()


def is_orphan() -> bool:
    """Whether the torchrun that started this process is gone: what goes on would keep the folder from the next start."""
    return _TORCHRUN and os.getppid() != _PARENT


def goes_on(work_dir: Path) -> bool:
    """Whether this is a new start of the torchrun that began the run in a folder; every process asks, all hear the same.

    Raises UserError, from the first of them, where a mistake of input or SIGUSR1 ended the start before.
    """
    from convmae.engine.machine.failures import EndedElsewhereError
    from convmae.engine.machine.processes import tell_all

    again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    job, _, reason = tell_all(_marked(work_dir) if again else "").partition("\n")
    if reason and os.environ.get("RANK") != "0":
        raise EndedElsewhereError
    if reason:
        raise UserError(f"Not started again: {reason.strip()}")
    return bool(job)


def mark(work_dir: Path) -> None:
    """Writes from the first process which torchrun begins a run, if one does."""
    if os.environ.get("TORCHELASTIC_RUN_ID") and os.environ.get("RANK") == "0":
        write_whole(work_dir / _MARK, f"{_job()}\n")


@contextmanager
def end_noted(work_dir: Path) -> Iterator[None]:
    """Writes beside the mark why the block ends, on whichever process, where no new start is to follow: torchrun can't tell."""
    try:
        yield
    except (UserError, Interrupted) as error:
        path = work_dir / _MARK
        if os.environ.get("TORCHELASTIC_RUN_ID") and path.is_file() and not error.passes:
            job = path.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
            write_whole(path, f"{job}\n{error}\n")
        raise


def _marked(work_dir: Path) -> str:
    """Returns a folder's mark if it is of this torchrun, else an empty text."""
    path = work_dir / _MARK
    found = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return found if found.partition("\n")[0] == _job() else ""


def _job() -> str:
    """Returns what tells this torchrun from all others: its name, machine, process and the moment when that began."""
    parent = os.getppid()
    began = Path(f"/proc/{parent}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    return f"{os.environ.get('TORCHELASTIC_RUN_ID')} on {socket.gethostname()}, process {parent} of {began}"
