"""A recipe's options as Python's keyword arguments."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from convmae.engine.errors import UserError


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
