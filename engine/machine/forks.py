"""Libraries whose threads a fork doesn't take along: in the forked process a call into one would wait for them without end."""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
_started: set[str] = set()  # libraries whose threads this process started
_lost: set[str] = set()  # those whose threads were started before it was forked


def _forget() -> None:
    _lost.update(_started)


os.register_at_fork(after_in_child=_forget)


def threads_of(library: str) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Returns a decorator for a module's function that uses a library's threads: where they are lost, a new process runs it.

    Its arguments and its result then have to be such as can be pickled.
    """

    def decorate(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        @functools.wraps(function)
        def call(*args: Arguments.args, **options: Arguments.kwargs) -> Result:
            if library in _lost:
                with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
                    return fresh.submit(call, *args, **options).result()
            _started.add(library)
            return function(*args, **options)

        return call

    return decorate
