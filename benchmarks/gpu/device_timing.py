"""Times and memory on one device, measured in one process: CUDA's own events there, the clock elsewhere."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from convmae.backbones.attention import biased as _registers_operators  # noqa: F401
from convmae.engine.machine.memory import begin_peak, peak_bytes

Step = Callable[[], Any]
Name = TypeVar("Name", bound=Hashable)

WARM_UP, LEAST, MOST = 10, 20, 500  # steps before the timed ones, and in one timed region where time allows
REGION = 0.1  # seconds after which a region of `LEAST` steps is long enough


class Timing(NamedTuple):
    """Median over the regions."""

    seconds: float  # of one step
    spread: float  # (longest - shortest) / median, of the regions
    steps: int  # in each region


def take_turns(
    steps: Mapping[Name, Step], device: torch.device, repeats: int, allotted: float = 0.0
) -> dict[Name, Timing]:
    """Returns the times of steps whose regions take turns (A B C A B C ...), so that what slows the machine slows all.

    Args:
        steps: each runs one step.
        device: whose work is timed.
        repeats: regions of each step.
        allotted: seconds that all of it may take; long steps get fewer repetitions and regions, at least one of each.
    """
    counts, total = {}, 0.0
    for name, step in steps.items():
        step()  # compiles, chooses kernels, fills the allocator
        once = _region(step, 1, device)
        total += once
        fitting = allotted / len(steps) / (repeats + 1) / once
        wanted = min(MOST, max(LEAST, math.ceil(REGION / once)))
        counts[name] = max(1, min(wanted, int(fitting)))
        for _ in range(min(WARM_UP, counts[name]) if counts[name] > 1 else 0):
            step()
    if allotted:  # a region has two steps at least
        repeats = max(1, min(repeats, int(allotted / (2 * total))))
    found: dict[Name, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            step()  # the one before had the caches and the allocator
            found[name].append(_region(step, counts[name], device))
    timings = {}
    for name, seconds in found.items():
        median = statistics.median(seconds)
        timings[name] = Timing(median, (max(seconds) - min(seconds)) / median, counts[name])
    return timings


def with_peak(prepare: Callable[[], Step], device: torch.device) -> tuple[Step, float]:
    """Returns the step that ``prepare`` makes, and how many GiB it and two runs of it took at most above what was held before.

    Weights, inputs and gradients count. On a CPU it is what the process grew by, kernels' scratch memory included. On a GPU
    a first run does not count, in which libraries try kernels and compilers run.
    """
    wait(device)
    begin_peak(device)
    before = peak_bytes(device)
    step = prepare()
    if device.type == "cuda":
        step()
        wait(device)
        begin_peak(device)
    for _ in range(2):
        step()
    wait(device)
    return step, (peak_bytes(device) - before) / 2**30


def operations(step: Step) -> int:
    """Returns the floating-point operations of one run, two a multiply-add, of products, convolutions and attention."""
    ours: Any = torch.ops.convmae
    attention = {
        ours.fused_attention: _fused,
        ours.fused_attention_backward: lambda *given, **_: 5 * _fused(*given[:4], *given[7:]) // 2,
        ours.sliced_attention: _sliced,
        ours.sliced_attention_backward: lambda *given, **_: 5 * _sliced(*given[:4], *given[5:]) // 2,
    }
    with FlopCounterMode(display=False, custom_mapping=attention) as counter:
        step()
    return counter.get_total_flops()


def _fused(query: Any, key: Any, value: Any, table: Any, grid: Any, window: Any, **_: Any) -> int:
    return 4 * query[0] * query[1] * query[3] * pairs(grid, window)


def _sliced(query: Any, key: Any, value: Any, tensors: Any, kind: Any, grid: Any, max_scores: Any, **_: Any) -> int:
    return 4 * query[0] * query[1] * query[3] * pairs(grid, grid)


def pairs(grid: Sequence[int], window: Sequence[int]) -> int:
    """Returns how many pairs of tokens of a grid share a window; the last ones of a row or column may be smaller."""
    return math.prod(n // w * w**2 + (n % w) ** 2 for n, w in zip(grid, window, strict=True))


def spread(taken: Timing) -> dict[str, Any]:
    """Returns the columns that say how sure a time is."""
    return {"spread": taken.spread, "steps": taken.steps}


def clear(device: torch.device) -> None:
    """Gives back the memory that nothing holds."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def wait(device: torch.device) -> None:
    """Waits for the work that was given to a device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _region(step: Step, count: int, device: torch.device) -> float:
    """Seconds of one of ``count`` steps."""
    if device.type != "cuda":
        started = time.perf_counter()
        for _ in range(count):
            step()
        return (time.perf_counter() - started) / count
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(count):
        step()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000 / count
