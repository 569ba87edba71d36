"""The errors that end a run and are no defects."""

from __future__ import annotations

from pathlib import Path


class UserError(Exception):
    """A mistake of input: says what was found, what was expected and what to do.

    Tools print its message without a traceback and exit with status 2.
    """


class Interrupted(Exception):
    """The run was asked to stop (Ctrl-C, SIGTERM) and did, after its step, with a checkpoint written."""


def unwritable(path: Path, error: OSError) -> UserError:
    """Returns what is said of a file of a run that can't be written."""
    if not path.parent.is_dir():
        return UserError(
            f"The folder {path.parent} is gone: it was removed or renamed while the run went on. Where it is now, its newest "
            "checkpoint goes on with --resume."
        )
    return UserError(f"{path} can't be written ({error.strerror or error}); give another place or make room.")
