"""A recipe's options as Python's keyword arguments, and messages in their words."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from convmae.backbones import CheckpointError
from convmae.engine.errors import UserError

_ARGUMENTS = {  # of tools, in Python
    "--config": "config=",
    "--work-dir": "work_dir=",
    "--resume": "resume=True",
    "--resume auto": "resume='auto'",
    "--overwrite": "overwrite=True",
    "--amp": "runtime__precision='bf16'",
    "--cfg-options": "keyword arguments",
}


@contextmanager
def in_python() -> Iterator[None]:
    """Has what is wrong be a UserError that names the arguments of Python's functions, not a tool's."""
    try:
        yield
    except UserError as error:
        error.args = (_said(str(error)), *error.args[1:])
        raise
    except CheckpointError as error:
        raise UserError(_said(str(error))) from None


def _said(message: str) -> str:
    message = re.sub(r"--cfg-options (\w+(?:\.\w+)*)=", lambda found: found[1].replace(".", "__") + "=", message)
    return re.sub(r"(?<![\w-])--(?:resume auto|[a-z-]+)", lambda found: _ARGUMENTS.get(found[0], found[0]), message)


def as_overrides(values: Mapping[str, Any]) -> list[str]:
    """Returns options as ``--cfg-options`` takes them, of names with ``__`` (or dots) for the dots and Python's own values.

    Raises UserError for a value that no recipe can hold.
    """
    return [f"{name.replace('__', '.')}={_written(name, value)}" for name, value in values.items()]


def _written(name: str, value: Any) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    try:
        return json.dumps(value)
    except (TypeError, ValueError):
        raise UserError(
            f"{name.replace('__', '.')} is a {type(value).__name__}; expected a number, a text, True, False, None, or a list "
            "or dict of these."
        ) from None
