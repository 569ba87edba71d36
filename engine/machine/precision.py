"""Where a run computes and in which precision."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch

from convmae.engine.errors import UserError
from convmae.engine.log import log
from convmae.engine.options import RuntimeOptions

_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def set_up(runtime: RuntimeOptions) -> tuple[torch.device, torch.dtype | None]:
    """Returns a run's device and autocast dtype, and sets for the whole process whether fp32 may be multiplied as TF32.

    Raises UserError as ``resolve_device`` and ``resolve_precision`` do.
    """
    device = resolve_device(runtime.device)
    dtype = resolve_precision(runtime.precision, device)
    # PyTorch's own defaults are neither: exact products, TF32 convolutions. Its newer names for these break the getters of
    # the older ones, which its compiler reads.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = runtime.tf32
    return device, dtype


def resolve_device(name: str) -> torch.device:
    """Returns the device of ``auto``, ``cpu`` or ``cuda``.

    Raises UserError if CUDA is asked for and absent, and if this build of PyTorch has no code for the GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("runtime.device is cuda, but PyTorch finds no CUDA device here; set it to cpu or auto.")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    capability, built = torch.cuda.get_device_capability(), torch.cuda.get_arch_list()
    if not has_code_for(capability, built):
        major, minor = capability
        raise UserError(
            f"This build of PyTorch, {torch.__version__}, has no code for {torch.cuda.get_device_name()} (sm_{major}{minor}), "
            f"only for {', '.join(built)}. Install a build for the GPU (https://pytorch.org/get-started/locally), or set "
            "runtime.device=cpu."
        )
    return torch.device("cuda")


def has_code_for(capability: tuple[int, int], built: Sequence[str]) -> bool:
    """Whether one of the architectures of a CUDA build (sm_86, sm_90a, compute_120, ...) runs on a GPU.

    ``sm`` is machine code, which runs on the same major version from its minor one on; ``compute`` is compiled for any newer
    GPU as it loads. With the suffix a each is for that version alone, with f for that major one. Of builds for other makers'
    GPUs nothing is known: True.
    """
    known = [found for name in built if (found := re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", name))]
    for kind, major, minor, suffix in (found.groups() for found in known):
        version = int(major), int(minor)
        same = version == capability
        portable = kind == "compute" and suffix != "f"
        older = version <= capability and (portable or version[0] == capability[0])
        if same or (older and suffix != "a"):
            return True
    return not known


def resolve_precision(name: str, device: torch.device) -> torch.dtype | None:
    """Returns the autocast dtype of a precision, None for fp32. ``auto`` takes bf16 where the hardware multiplies it fast."""
    if name == "auto":
        fast = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else _multiplies_bf16()
        return torch.bfloat16 if fast else None
    if name == "fp16" and device.type == "cpu":
        raise UserError("runtime.precision is fp16, which needs a CUDA device; on a CPU take bf16 or fp32.")
    if name == "bf16" and device.type == "cpu" and not _multiplies_bf16():
        log.warning("bf16 is slower than fp32 on this CPU, which has no fast instructions for its products.")
    return _DTYPES[name]


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager:
    """Returns the autocast context of a dtype from ``resolve_precision``."""
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def precision_name(dtype: torch.dtype | None) -> str:
    """Returns the name that a recipe would use for a dtype from ``resolve_precision``."""
    return next(name for name, known in _DTYPES.items() if known is dtype)


def _multiplies_bf16() -> bool:
    """Whether the CPU multiplies bf16 faster than fp32: by AMX, or by AVX-512 BF16 where the maker is not Intel.

    On an Intel Xeon with AVX-512 BF16 but without AMX, products took 1.7 times as long as in fp32, on an AMD EPYC half as long
    (docs/results.md).
    """
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    intel = str(known.get("cpu_name", "")).startswith("Intel")
    return bool(known.get("amx_bf16") or (known.get("avx512_bf16") and not intel))
