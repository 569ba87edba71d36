"""What benchmarks share: times taken in turn, peak memory, and the rate of matrix products."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import torch

from convmae.engine.errors import UserError
from convmae.engine.machine.memory import begin_peak, peak_bytes

Step = Callable[[], Any]
Name = TypeVar("Name", bound=Hashable)


def alternate(steps: Mapping[Name, Step], repeats: int, device: torch.device) -> dict[Name, float]:
    """Returns the median seconds of each step, of ``rounds``."""
    return {name: statistics.median(taken) for name, taken in rounds(steps, repeats, device).items()}


def rounds(steps: Mapping[Name, Step], repeats: int, device: torch.device) -> dict[Name, list[float]]:
    """Returns the seconds of each step in each round; they take turns (A B C A B C ...), after one round that isn't counted.

    What slows a machine down for a while then slows all of them down, so their ratios hold where their times don't.
    """
    seconds: dict[Name, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            _wait(device)
            started = time.perf_counter()
            step()
            _wait(device)
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def peak_memory(device: torch.device, prepare: Callable[..., Step], *args: Any) -> int:
    """Returns how many bytes two runs of ``prepare(*args)`` need at most above what is held before the first.

    On a GPU as PyTorch allocates it; on a CPU as the growth of the largest resident size (kernels' scratch memory counts) of
    a new process, so that nothing counts that another step has left. Raises UserError if there is too little.
    """
    if device.type == "cuda":
        return _growth(device, torch.get_num_threads(), prepare, *args)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_growth, device, torch.get_num_threads(), prepare, *args).result()
        except BrokenProcessPool:
            raise UserError(
                "The system ended the process whose memory is measured, most likely because there was too little of it; "
                "expected some 16 GB free for a base model at 1024 pixels. Free memory, or take a smaller size."
            ) from None


def mlp_products(
    shapes: Sequence[tuple[int, int, int]], dtype: torch.dtype | None, device: torch.device
) -> tuple[Step, int]:
    """Returns the products of linear layers and of their gradients, and how many multiply-adds they are.

    shapes: for each layer the number of its rows, of its inputs and of its outputs.
    """
    layers = []
    for rows, narrow, wide in shapes:
        x, weight, grad = (
            torch.randn(shape, device=device, dtype=dtype) for shape in ((rows, narrow), (wide, narrow), (rows, wide))
        )
        layers.append((x, weight, grad, *(torch.empty_like(found) for found in (x, weight, grad))))

    def step() -> None:
        for x, weight, grad, grad_x, grad_weight, y in layers:
            torch.mm(x, weight.t(), out=y)
            torch.mm(grad, weight, out=grad_x)
            torch.mm(grad.t(), x, out=grad_weight)

    return step, sum(3 * rows * narrow * wide for rows, narrow, wide in shapes)


def _growth(device: torch.device, threads: int, prepare: Callable[..., Step], *args: Any) -> int:
    torch.set_num_threads(threads)
    step = prepare(*args)
    begin_peak(device)  # what it took to prepare is none of the step's
    before = peak_bytes(device)
    for _ in range(2):
        step()
    return peak_bytes(device) - before


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
