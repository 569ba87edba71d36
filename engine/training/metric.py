"""The base of the tasks' metrics."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from mmengine.dist import get_world_size, is_main_process
from mmengine.evaluator import BaseMetric

from convmae.engine.machine.processes import gather_samples, tell_all


class PictureMetric(BaseMetric):
    """A metric from one result a picture: over several processes each counts once, and all of them learn the numbers.

    A task gives ``measure``, from a sample to its result, and ``compute_metrics``, which runs on the first process. A result
    may be a Future: then threads measure while the model computes the next pictures.
    """

    AHEAD = 16  # pictures that the model may be ahead of the threads, so that what waits for them stays little
    default_prefix = ""  # metrics are called mIoU, not prefix/mIoU

    def __init__(self) -> None:
        super().__init__()
        self.numbers: dict[str, float] = {}  # of the last evaluation
        self.speed: float | None = None  # pictures a second over all processes, None for a single batch
        self._ends: list[tuple[float, int]] = []

    @abstractmethod
    def measure(self, sample: Any) -> Any:
        """Returns what counts of one picture."""

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        for sample in data_samples:
            self.results.append(self.measure(sample))
            if len(self.results) > self.AHEAD:
                _settled(self.results[-1 - self.AHEAD])
        self._ends.append((time.perf_counter(), len(data_samples)))

    def evaluate(self, size: int) -> dict[str, float]:
        """Returns the numbers of ``size`` pictures and forgets their results."""
        measured = [_settled(result) for result in self.results]
        if self._ends:
            self._ends[-1] = time.perf_counter(), self._ends[-1][1]
        # The first batch pays for starting up, so that time counts from its end.
        timed = sum(count for _, count in self._ends[1:])
        self.speed = get_world_size() * timed / (self._ends[-1][0] - self._ends[0][0]) if timed else None
        self._ends.clear()
        results = gather_samples(measured, size)
        self.results.clear()
        self.numbers = tell_all(self.compute_metrics(results) if is_main_process() else None)
        return self.numbers

    def pace(self) -> str:
        """Returns the speed as a report says it."""
        return f"{self.speed:.3g} pictures a second" if self.speed else "a single batch"


def _settled(result: Any) -> Any:
    """Returns a result, waiting for it where it is to come; raises what its thread raised."""
    return result.result() if isinstance(result, Future) else result
