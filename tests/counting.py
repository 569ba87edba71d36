"""Counts the host waits of a step as the runner does it, hooks and optimiser included."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from convmae.benchmarks.counting.host_waits import Wait, host_waits
from convmae.engine.training.hooks import LogHook
from convmae.engine.training.loops import TrainLoop


class _Event:
    """Stands for a CUDA event, which a machine without a GPU can't record."""

    def record_event(self) -> "_Event":
        return self

    def synchronize(self) -> None:
        """What is copied here is there at once."""


def waits_of_step(run: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> list[Wait]:
    """Calls ``run``, a training of four steps or more, and returns the waits of its fourth.

    That one should write no log line and no checkpoint, which wait.
    """
    found: list[list[Wait]] = []
    plain = TrainLoop.run_step

    def counted(loop: TrainLoop, parts: list[dict[str, Any]]) -> None:
        runner = loop.runner
        if loop.iter != 2:
            plain(loop, parts)
            return
        steps = [parts, copy.deepcopy(parts)]  # the counter does a step before the one it counts
        read, rest = [part for step in steps for part in step], iter(steps)
        logs = [hook.sums for hook in runner.hooks if isinstance(hook, LogHook)]
        averages = runner.average.values if runner.average else []
        there = [runner.model, runner.optim_wrapper.optimizer, logs, averages]
        with monkeypatch.context() as patch:
            patch.setattr(torch.cuda, "current_stream", _Event)
            found.append(host_waits(lambda: plain(loop, next(rest)), device=there, pinned=read))

    monkeypatch.setattr(TrainLoop, "run_step", counted)
    run()
    (waits,) = found
    return waits
