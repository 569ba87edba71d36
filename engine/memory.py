"""A process's memory: how much it has needed, and when garbage is looked for."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch


def peak_bytes(device: torch.device) -> int:
    """Returns the most that this process has held at once: allocated by PyTorch on a GPU, else its largest resident size."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "linux":  # where ru_maxrss begins with the parent's
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    import resource  # which Windows lacks

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def begin_peak(device: torch.device) -> None:
    """Has `peak_bytes` count from what is held now, on a GPU and where Linux lets it; else it keeps what was held before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        with suppress(OSError):  # a sandbox may lack the file; proc(5) says what 5 does
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def describe_peak(device: torch.device) -> str:
    """Returns the peak as a report says it."""
    whose = "of PyTorch on the GPU" if device.type == "cuda" else "of the whole process"
    return f"{peak_bytes(device) / 1e9:.2f} GB, {whose}"


@contextmanager
def collector_paused() -> Iterator[None]:
    """Holds back the search for cycles, which would pass through millions of new objects again and again as they are made."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()
