"""Signals that ask a run to stop after its step, or what else is under way."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from convmae.engine.errors import START_AGAIN, STOPPED
from convmae.engine.log import process_rank


class Stop(threading.Event):
    """Set by a signal; ``status`` is what the tool exits with."""

    status = STOPPED


@contextmanager
def stop_signals(after: str = "this step and its checkpoint") -> Iterator[Stop]:
    """Yields an event that Ctrl-C, SIGTERM or SIGUSR1 sets; ``after`` is said to end first. A second has its usual effect."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    # One of a C library's, which is None here, could not be put back.
    previous = {number: handler for number, handler in found.items() if handler is not None}

    def handle(number: int, frame: Any) -> None:
        if number == signal.SIGUSR1:
            stop.status = START_AGAIN
        stop.set()
        if process_rank() == 0:  # by the system's own call: the signal may have come in the middle of a print
            os.write(2, f"\nStops after {after}; once more: at once.\n".encode())
        signal.signal(number, previous[signal.Signals(number)])

    for number in previous:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def usr1_starts_again() -> Iterator[None]:
    """Has SIGUSR1 end a tool at once with START_AGAIN, where no step is under way: what it wrote is whole at any moment."""
    before = signal.getsignal(signal.SIGUSR1)
    if threading.current_thread() is not threading.main_thread() or before is None:
        yield
        return

    def end(*_: Any) -> None:
        if process_rank() == 0:
            os.write(2, b"\nStopped by SIGUSR1; the same command with --resume auto goes on.\n")
        os._exit(START_AGAIN)

    signal.signal(signal.SIGUSR1, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)
