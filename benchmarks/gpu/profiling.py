"""What one step is made of: kernels, how busy the device is, where the host waits, and what takes longest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from convmae.benchmarks.gpu.battery import Row
from convmae.benchmarks.gpu.device_timing import Step, wait

LONGEST = 10
_NO_KERNELS = ("Memcpy", "Memset")
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")


def profiled(name: str, step: Step, device: torch.device, seconds: float) -> Iterator[Row]:
    """Yields a row of one step and one for each of the kernels that take longest; on a CPU operators take their place.

    seconds: what the step takes without a profiler, which the device's busy time is a share of.
    """
    on_gpu = device.type == "cuda"
    step()
    wait(device)
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as found:
        step()
        wait(device)
    events: list[Any] = list(found.events() or [])
    if on_gpu:
        work = [e for e in events if e.device_type == DeviceType.CUDA and not getattr(e, "is_user_annotation", False)]
    else:
        work = [e for e in events if e.name.startswith("aten::")]
    busy = _covered([(e.time_range.start, e.time_range.end) for e in work]) / 1e6
    waits = sum(e.name in _WAITS for e in events) - on_gpu  # the last one is of this function
    yield {
        "profile": name,
        "kernels": sum(not e.name.startswith(_NO_KERNELS) for e in work),
        "copies": sum(e.name.startswith(_NO_KERNELS) for e in work),
        "host waits": waits,
        "busy ms": busy * 1e3,
        "busy share": min(1.0, busy / seconds),
    }
    times: dict[str, list[float]] = defaultdict(list)
    for event in work:
        inside = 0 if on_gpu else sum(child.time_range.elapsed_us() for child in event.cpu_children)
        times[event.name].append((event.time_range.elapsed_us() - inside) / 1e3)
    total = sum(map(sum, times.values()))
    for kernel, taken in sorted(times.items(), key=lambda pair: -sum(pair[1]))[:LONGEST]:
        yield {
            "profile": name,
            "kernel": _short(kernel),
            "calls": len(taken),
            "ms": sum(taken),
            "part": sum(taken) / total,
        }


def _covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union of spans."""
    length, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        length += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return length


def _short(kernel: str, limit: int = 110) -> str:
    name = kernel.removeprefix("void ").replace("at::native::", "").replace("(anonymous namespace)::", "")
    return name if len(name) <= limit else name[: limit - 3] + "..."
