"""`torch.compile` for the parts of a model that see the same shapes in every training step."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from textwrap import shorten
from typing import Any

import torch
from torch import nn

from convmae.engine.errors import UserError

# A method of a module, whose training calls are compiled.
Method = Callable[..., Any]


def compile_methods(methods: Sequence[Method], mode: str, backend: str = "inductor", *, always: bool = False) -> None:
    """Compiles methods of modules in place, one graph each; while a module is in evaluation mode they run as they were.

    Parameters keep their names, and random draws are those of the uncompiled methods. Pictures of an evaluation have many
    sizes, each of which would be compiled anew; with ``always`` they are, as for a model that only predicts.

    Args:
        methods: bound methods, which the modules call by their names.
        mode: `default`, or `reduce-overhead` captures CUDA graphs, whose outputs `torch.compiler.cudagraph_mark_step_begin`
            gives up, to be called before each forward pass of the model.
        backend: of `torch.compile`; only the default one generates code.

    Raises:
        UserError: at the first call, if there is no compiling it.
    """
    # Otherwise a graph would be cut for each bucket of gradients, which activation checkpointing does not allow.
    torch._dynamo.config.optimize_ddp = False
    # Blocks of one class share their code, and each rate of drop path makes another graph of it; 8 are allowed by default.
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, len(methods) + 8)
    for method in methods:
        module: nn.Module = method.__self__  # type: ignore[attr-defined]
        setattr(module, method.__name__, _called(module, method, _compiled(method, mode, backend), always))


@functools.cache
def check_compiler(device: torch.device) -> None:
    """Compiles a line for a device. Raises UserError where that fails, as without a C++ compiler, or with a GPU too old."""
    new = time.time()  # a line that was compiled before would be found in PyTorch's cache, compiler or not

    def line(x: torch.Tensor) -> torch.Tensor:
        return x.sin() * new

    try:
        torch.compile(line, fullgraph=True, dynamic=False)(torch.ones(2, device=device))
    except Exception as error:  # whatever stands between a compiler and its code
        raise UserError(_failed(f"a line for {_named(device)}", error)) from error


def _compiled(method: Method, mode: str, backend: str) -> Method:
    if backend != "inductor":
        return torch.compile(method, fullgraph=True, dynamic=False, backend=backend)
    # By default the generated code draws other numbers than PyTorch.
    options = {**torch._inductor.list_mode_options(mode), "fallback_random": True}
    return torch.compile(method, fullgraph=True, dynamic=False, options=options)


def _called(module: nn.Module, plain: Method, compiled: Method, always: bool) -> Method:
    @functools.wraps(plain)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not (always or module.training):
            return plain(*args, **kwargs)
        try:
            return compiled(*args, **kwargs)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise UserError(_failed(f"{type(module).__name__}.{plain.__name__}", error)) from error

    return call


def _failed(what: str, error: Exception) -> str:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return (
        f"runtime.compile: PyTorch can't compile {what} ({shorten(reason, 300).rstrip('.')}); expected a C++ compiler (g++ or "
        "what CXX names), and on a GPU Triton and a card that it knows. Install them, or set "
        "runtime.compile=false."
    )


def _named(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
