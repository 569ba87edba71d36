"""What it takes to write a part of a model as a graph, and to tell whether the graph is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from convmae.engine.export.graphs import Ports


class Plan(NamedTuple):
    """A part of a model to write: what is traced on which pictures, what its file says, how it is compared and measured."""

    module: nn.Module
    example: Tensor
    ports: Ports
    meta: dict[str, Any]
    compare: Callable[[Any, Path], tuple[list[str], dict[str, float]]]  # of the written graph's session and file
    evaluate: Callable[[Any], dict[str, float]] | None = None
    compared: Sequence[Any] = ()  # arrays that the graph takes, to compare on
    calibration: Sequence[Any] = ()  # and to calibrate int8 on
