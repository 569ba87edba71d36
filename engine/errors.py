"""The errors that end a run and are no defects."""

from __future__ import annotations

import os
from pathlib import Path

STOPPED = 130  # what a tool exits with after Ctrl-C or SIGTERM
START_AGAIN = os.EX_TEMPFAIL  # 75: after SIGUSR1, which asks a run to make room and to be started again


class UserError(Exception):
    """A mistake of input: says what was found, what was expected and what to do.

    Tools print its message without a traceback and exit with status 2.
    """

    passes = False  # whether the same command may do better at another time


class Interrupted(Exception):
    """The run was asked to stop (Ctrl-C, SIGTERM, SIGUSR1) and did, after its step, with a checkpoint written.

    ``status`` is what a tool then exits with.
    """

    def __init__(self, message: str, status: int = STOPPED) -> None:
        super().__init__(message)
        self.status = status
        self.passes = status == STOPPED  # torchrun ends processes by SIGTERM, too, to start them with others


def unwritable(path: Path, error: OSError) -> UserError:
    """Returns what is said of a file of a run that can't be written."""
    if not path.parent.is_dir():
        return UserError(
            f"The folder {path.parent} is gone: it was removed or renamed while the run went on. Where it is now, its newest "
            "checkpoint goes on with --resume."
        )
    return UserError(f"{path} can't be written ({error.strerror or error}); give another place or make room.")
