"""The log of a run: plain lines on standard output and in a file."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from convmae.engine.errors import unwritable
from convmae.engine.run_files import claim
from convmae.engine.text import visible

log = logging.getLogger("convmae")


def start_log(work_dir: Path | None) -> None:
    """Sends the log to standard output and, from the main process, to ``log.txt`` with the time."""
    log.handlers.clear()
    log.propagate = False
    rank = process_rank()
    log.setLevel(logging.INFO if rank == 0 else logging.ERROR)
    console = _Console()
    console.setFormatter(_Lines("%(message)s"))
    log.addHandler(console)
    if work_dir is not None and rank == 0:
        claim(work_dir / "log.txt")
        file = _File(work_dir / "log.txt", encoding="utf-8")
        file.setFormatter(_Lines("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))
        log.addHandler(file)


def process_rank() -> int:
    """Returns this process's number among those that torchrun or Slurm started; 0 is the one that speaks."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))


class _Lines(logging.Formatter):
    """Lines without what would steer a terminal or can't be written, as names of files may hold it."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


class _File(logging.FileHandler):
    """A log's file, of which the first line that can't be written is an error; the console's lines go on."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            raise
        log.removeHandler(self)
        with suppress(OSError):  # what is left in its buffer has no place
            self.close()
        raise unwritable(Path(self.baseFilename), error) from None


class _Console(logging.Handler):
    """Writes lines to standard output, above the bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


def log_done(numbers: Mapping[str, float], files: Iterable[Path], seconds: float) -> None:
    """Ends the log of a run: its numbers, its time, and the files that it made."""
    if numbers:
        log.info("  ".join(f"{name} {value:.4f}" for name, value in numbers.items()))
    log.info(f"done in {duration(seconds)}; written:")
    for path in files:
        log.info(f"  {path}")


def duration(seconds: float) -> str:
    """Returns a time such as 2 h 03 min, 4 min 10 s or 7 s."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"
