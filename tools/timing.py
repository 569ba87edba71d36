"""What benchmarks share: times taken in turn, and peak memory in a process of its own."""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

Step = Callable[[], Any]


def alternate(steps: Mapping[str, Step], repeats: int, device: torch.device) -> dict[str, float]:
    """Returns the median seconds of each step, which take turns (A B C A B C ...), after one round that isn't counted.

    What slows a machine down for a while then slows all of them down, so their ratios hold where their times don't.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            _wait(device)
            started = time.perf_counter()
            step()
            _wait(device)
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def peak_memory(device: torch.device, prepare: Callable[..., Step], *args: Any) -> int:
    """Returns how many bytes two runs of ``prepare(*args)`` need at most above what is held before the first.

    Measured in a new process, so that nothing counts that another step has left: on a CPU as the growth of its largest
    resident size (kernels' scratch memory counts), on a GPU as PyTorch allocates it.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_growth, device, torch.get_num_threads(), prepare, *args).result()


def _growth(device: torch.device, threads: int, prepare: Callable[..., Step], *args: Any) -> int:
    torch.set_num_threads(threads)
    step = prepare(*args)
    before = _peak(device)
    for _ in range(2):
        step()
    return _peak(device) - before


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "linux":  # where ru_maxrss begins with the parent's
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    import resource  # which Windows lacks

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
