"""Ctrl-C while a tool runs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Raises:
    """What Ctrl-C does while a tool runs, and what it did before."""

    def __init__(self, before: Any) -> None:
        self.before = before

    def __call__(self, *_: Any) -> None:
        raise KeyboardInterrupt


@contextmanager
def ctrl_c_raises() -> Iterator[None]:
    """Has Ctrl-C raise KeyboardInterrupt, so that what is open is closed; before and after, it may end the program at once."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before in (signal.SIG_IGN, None):
        yield
        return
    signal.signal(signal.SIGINT, _Raises(before))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def reading_modules() -> Iterator[None]:
    """Has Ctrl-C do what it did before `ctrl_c_raises`, which ends a program at once: for imports that take seconds.

    A KeyboardInterrupt would come out of someone else's module as another error, or be lost in it.
    """
    now = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not isinstance(now, _Raises):
        yield
        return
    signal.signal(signal.SIGINT, now.before)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, now)
