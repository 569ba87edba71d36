"""How fast pictures reach the model, how long it waits for them, and how much memory that takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from convmae.engine.machine.memory import peak_bytes
from convmae.engine.machine.processes import from_all
from convmae.engine.options import DataOptions

MOST_WAITING = 0.1  # of a step, beyond which the log says what to change
SETTLING = 10  # steps after a start in which loader processes begin and caches fill


class Pace:
    """Counts what a training process waits for data; all processes of a run ask together.

    On a GPU that is the time in which it stands still while the host reads, by events that nobody waits for.
    """

    def __init__(self, data: DataOptions, workers: int, cores: int, device: torch.device) -> None:
        self.data, self.workers, self.cores, self.device = data, workers, cores, device
        self.seconds = 0.0
        self.idle: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self.advised = False

    def describe(self) -> str:
        """Returns how pictures are loaded, for the log's opening lines."""
        ways = (
            f"by {self.workers} loader process{'es' * (self.workers > 1)}"
            if self.workers
            else "in the training process"
        )
        chosen = f" (data.workers={self.data.workers}: {self.cores} core{'s' * (self.cores > 1)} for it)"
        return f"loading: {ways}" + chosen * isinstance(self.data.workers, str)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Counts its block, in which the batches of a step are read."""
        if self.device.type == "cuda":
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record()
            yield
            after.record()
            self.idle.append((before, after))
        else:
            began = time.perf_counter()
            yield
            self.seconds += time.perf_counter() - began

    def row(self, seconds: float, steps: int) -> dict[str, float]:
        """Returns what the last ``steps``, which took ``seconds``, have for a row of scalars.

        They are pictures a second over all processes, the part of the time that the process waited which did so most, and this
        one's peak in GiB. The steps have to be done, on a GPU too.
        """
        waited = self.seconds + sum(before.elapsed_time(after) for before, after in self.idle) / 1000
        self.seconds = 0.0
        self.idle.clear()
        return {
            "pictures_per_second": steps * self.data.batch_size / seconds,
            "waiting": min(1.0, max(from_all(waited)) / seconds),
            "memory_gib": peak_bytes(self.device) / 2**30,
        }

    def advise(self, waiting: float, steps: int) -> str:
        """Returns what to change where too much of the time was waited, once in a run, else an empty text.

        ``steps``: how many the run had done before those of which it tells.
        """
        if self.advised or waiting <= MOST_WAITING or steps < SETTLING:
            return ""
        self.advised = True
        ways = [
            *["data.keep=memory, if the set fits in memory decoded"] * (self.data.keep == "none"),
            *[f"more loader processes (data.workers, now {self.workers})"] * (self.workers < self.cores),
            "smaller picture files, no larger than the crops need",
        ]
        return f"{waiting:.0%} of a step is spent on waiting for data. What helps: {'; '.join(ways)}."
