"""A process's memory: how much it has needed, and how much training needs at least."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from convmae.engine.errors import UserError


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


def training_bytes(model: nn.Module, averaged: bool) -> int:
    """Returns what training by AdamW holds whatever the batch.

    That is weights and buffers, and of the weights that are trained a gradient, two moments and, where they are averaged, the
    average.
    """
    held = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    trained = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    return held + trained * (4 if averaged else 3)


def check_memory(model: nn.Module, averaged: bool, device: torch.device, split: int = 1) -> None:
    """Raises UserError for a GPU that can't hold what training needs before any picture, ``split`` over so many processes."""
    if device.type != "cuda":
        return
    needed = training_bytes(model, averaged) // split
    free, total = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device)  # by this process, the model perhaps
    if needed > free:
        raise UserError(
            f"Weights, gradients and AdamW's moments of this model take {needed / 2**30:.1f} GiB, before any picture; "
            f"{torch.cuda.get_device_name(device)} has {free / 2**30:.1f} GiB free of {total / 2**30:.1f}. "
            + ("Take a smaller model.size" if needed > total else "End what else runs on it, take a smaller model.size")
            + (", optim.average=0" if averaged else "")
            + " or a larger GPU; a smaller batch would not help."
        )
