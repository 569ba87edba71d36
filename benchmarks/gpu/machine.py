"""What the machine is, and how fast it is at best: the ceilings that shares are of."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator
from typing import Any

import torch

from convmae.benchmarks.gpu.battery import Case, Row, Setting
from convmae.benchmarks.gpu.device_timing import Step, take_turns

PACKAGES = ("torchvision", "timm", "triton", "onedl-mmengine", "onedl-mmsegmentation", "numpy")


def cases(setting: Setting) -> list[Case]:
    """Returns the cases of this item."""
    return [
        Case("versions", 0.5, lambda seconds: [{**describe(setting.device), **versions()}]),
        Case("ceilings", 5.0, lambda seconds: ceilings(setting, seconds)),
    ]


def describe(device: torch.device) -> dict[str, Any]:
    """Returns what tells one machine and its PyTorch from another."""
    found: dict[str, Any] = {"torch": torch.__version__, "cores": os.cpu_count()}
    if device.type != "cuda":
        return {"device": f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}", **found}
    card = torch.cuda.get_device_properties(device)
    return {
        "device": card.name,
        "capability": f"{card.major}.{card.minor}",
        "multiprocessors": card.multi_processor_count,
        "GiB": round(card.total_memory / 2**30, 1),
        "CUDA": torch.version.cuda,
        "cuDNN": torch.backends.cudnn.version(),
        **found,
    }


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that are there."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name.removeprefix("onedl-")] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name.removeprefix("onedl-")] = "absent"
    return found


def ceilings(setting: Setting, seconds: float) -> Iterator[Row]:
    """Yields the rate of a large bf16 product and of a copy, which counts bytes read and written."""
    device = setting.device
    side = 128 if setting.tiny else 8192
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    product = torch.empty_like(a)
    source = torch.randn((2**16 if setting.tiny else 2**31) // 4, device=device)
    target = torch.empty_like(source)
    small = torch.zeros(1, device=device)
    steps: dict[str, Step] = {
        "product": lambda: torch.mm(a, b, out=product),
        "copy": lambda: target.copy_(source),
        "launch": lambda: small.add_(1),
    }
    found = take_turns(steps, device, setting.repeats, seconds)
    operations, copied = 2 * side**3 / found["product"].seconds, 8 * source.numel() / found["copy"].seconds
    setting.ceilings |= {"product": operations, "copy": copied}
    yield {
        "product TFLOP/s": operations / 1e12,
        "copy TB/s": copied / 1e12,
        "launch us": found["launch"].seconds * 1e6,
        "ceilings": dict(setting.ceilings),
    }
