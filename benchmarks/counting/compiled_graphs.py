"""How many graphs `runtime.compile` makes of a training step, and whether later steps make more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._dynamo.utils import counters

from convmae.engine.machine.compilation import Method, compile_methods


def count_graphs(
    methods: Sequence[Method], step: Callable[[], Any], steps: int, backend: str = "aot_eager"
) -> list[int]:
    """Compiles the methods and returns how many graphs there were after each step.

    backend: "aot_eager" traces all that the default one would compile, gradients included, and generates no code.
    """
    torch._dynamo.reset()
    before = counters["stats"]["unique_graphs"]
    compile_methods(methods, "default", backend)
    made = []
    for _ in range(steps):
        step()
        made.append(counters["stats"]["unique_graphs"] - before)
    return made
