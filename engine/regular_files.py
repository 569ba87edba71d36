"""What is opened as a file must be one: reading from a pipe or a device waits, or goes on without end."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from convmae.engine.errors import UserError

_KINDS = (
    (stat.S_ISDIR, "folder"),
    (stat.S_ISFIFO, "pipe"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
)


def kind_of_file(path: str | Path) -> str:
    """Returns what a path leads to, links followed: "folder", "pipe", "socket" or "device"; "" for a file.

    Raises OSError where nothing is there, and UserError for what can't be a path.
    """
    try:
        mode = (path.stat() if isinstance(path, Path) else os.stat(path)).st_mode  # a picture in shards has its own
    except ValueError as error:
        raise UserError(f"{str(path)!r} is no name of a file ({error}); give another path.") from None
    return next((name for test, name in _KINDS if test(mode)), "")


def check_regular(path: str | Path) -> None:
    """Raises UserError for a folder, pipe, socket or device, and OSError where nothing is there."""
    if kind := kind_of_file(path):
        raise UserError(f"{path} is a {kind}; expected a file. Give another path, or put a file in its place.")
