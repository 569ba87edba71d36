"""Signals that ask a run to stop after its step, or what else is under way."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.dist import is_main_process


@contextmanager
def stop_signals(after: str = "this step and its checkpoint") -> Iterator[threading.Event]:
    """Yields an event that Ctrl-C or SIGTERM sets; ``after`` is said to end first. A second signal has its usual effect."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # One of a C library's, which is None here, could not be put back.
    previous = {number: handler for number, handler in found.items() if handler is not None}

    def handle(number: int, frame: Any) -> None:
        stop.set()
        if is_main_process():  # by the system's own call: the signal may have come in the middle of a print
            os.write(2, f"\nStops after {after}; once more: at once.\n".encode())
        signal.signal(number, previous[signal.Signals(number)])

    for number in previous:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
