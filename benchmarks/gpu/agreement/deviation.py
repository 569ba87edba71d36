"""How far a function's output and gradients are from what they should be, on any device and in any precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from convmae.benchmarks.gpu.attention_forms import Form
from convmae.benchmarks.gpu.battery import Setting
from convmae.benchmarks.gpu.device_timing import wait
from convmae.engine.machine.precision import autocast

DTYPES = {"fp32": None, "bf16": torch.bfloat16}
LIMIT = {"fp32": 1e-5, "bf16": 1e-2}  # relative


class Deviation(NamedTuple):
    """How far an output is from what it should be, and how far it may be."""

    what: str
    found: float
    allowed: float


Check = Callable[[Setting], Iterator[Deviation]]


@contextmanager
def exact_fp32() -> Iterator[None]:
    """Computes fp32 products and convolutions in fp32, without TF32's shorter factors."""
    products, convolutions = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = products, convolutions


def relative(found: Tensor, wanted: Tensor, least: float = 0.0) -> float:
    """Returns the norm of the difference over that of what is wanted, or ``least``; infinite where something is not finite."""
    off = (found.detach().cpu().double() - wanted).norm() / wanted.norm().clamp(min=least or 1e-300)
    return off.item() if off.isfinite() else float("inf")


def errors(
    form: Form,
    reference: Form,
    leaves: Sequence[Tensor],
    device: torch.device,
    dtype: torch.dtype | None,
    least: float = 0.01,
) -> list[float]:
    """Returns the relative errors of a function's output and of the gradients of its leaves, on a device.

    The leaves lie among NaNs, and what was freed before holds NaNs: what is read beyond them or never written shows.

    Args:
        form: takes the leaves.
        reference: the same, computed plainly; in fp64 on the CPU, of the leaves as the device has them.
        leaves: fp64; those of the first one's shape are rounded to the dtype, tables and weights to fp32.
        device: where `form` runs, under autocast.
        dtype: None for fp32.
        least: part of the largest gradient's norm that a small one's errors are relative to; some are zero.
    """
    kept = [x.to(dtype or torch.float32) if index < _tokens(leaves) else x.float() for index, x in enumerate(leaves)]
    exact = [x.double().requires_grad_() for x in kept]
    wanted = reference(*exact)
    cotangent = torch.randn_like(wanted).to(dtype or torch.float32)
    inputs = [_guarded(x, device).requires_grad_() for x in kept]
    _poison([*kept, wanted], device)
    with exact_fp32():
        with autocast(device, dtype):
            output = form(*inputs)
        grads = torch.autograd.grad(output, inputs, _guarded(cotangent.to(output.dtype), device))
    wait(device)
    expected = torch.autograd.grad(wanted, exact, cotangent.double())
    smallest = least * max(x.norm().item() for x in expected)
    off = [relative(x, y, smallest) for x, y in zip(grads, expected, strict=True)]
    return [relative(output, wanted.detach()), *off]


def _tokens(leaves: Sequence[Tensor]) -> int:
    """How many of the leaves are activations, all of one shape."""
    return sum(1 for x in leaves if x.shape == leaves[0].shape)


def _guarded(x: Tensor, device: torch.device, margin: int = 4096) -> Tensor:
    """A copy between NaNs."""
    flat = torch.full((x.numel() + 2 * margin,), torch.nan, device=device, dtype=x.dtype)
    flat[margin:-margin] = x.flatten().to(device)
    return flat[margin:-margin].view(x.shape)


def _poison(like: Sequence[Tensor], device: torch.device) -> None:
    """Fills memory of these sizes with NaNs and gives it back."""
    junk = [
        torch.full((x.numel(),), torch.nan, device=device, dtype=dtype)
        for x in like
        for dtype in (torch.float32, torch.bfloat16)
        for _ in range(4)
    ]
    del junk
