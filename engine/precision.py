"""Where a run computes and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from convmae.engine.errors import UserError
from convmae.engine.log import log

_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(name: str) -> torch.device:
    """Returns the device of ``auto``, ``cpu`` or ``cuda``. Raises UserError if CUDA is asked for and absent."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("runtime.device is cuda, but PyTorch finds no CUDA device here; set it to cpu or auto.")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def resolve_precision(name: str, device: torch.device) -> torch.dtype | None:
    """Returns the autocast dtype of a precision, None for fp32. ``auto`` takes bf16 where the hardware multiplies it fast."""
    if name == "auto":
        fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else _multiplies_bf16()
        return torch.bfloat16 if fast else None
    if name == "fp16" and device.type == "cpu":
        raise UserError("runtime.precision is fp16, which needs a CUDA device; on a CPU take bf16 or fp32.")
    if name == "bf16" and device.type == "cpu" and not _multiplies_bf16():
        log.warning("bf16 is much slower than fp32 on this CPU, which has no instructions for its products.")
    return _DTYPES[name]


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager:
    """Returns the autocast context of a dtype from ``resolve_precision``."""
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def precision_name(dtype: torch.dtype | None) -> str:
    """Returns the name that a recipe would use for a dtype from ``resolve_precision``."""
    return next(name for name, known in _DTYPES.items() if known is dtype)


def _multiplies_bf16() -> bool:
    """Whether the CPU has instructions for bf16 products (AMX tiles, AVX-512 BF16); without them bf16 is slower than fp32."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
