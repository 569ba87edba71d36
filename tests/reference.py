"""The reference outputs in tests/data."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from convmae.benchmarks.gpu.agreement.reference import (
    OWN_VALUES,
    difference,
    image,
    normal,
    read_reference,
    seeded_model,
    seeded_state,
)

__all__ = ["OWN_VALUES", "difference", "image", "normal", "reference", "seeded_model", "seeded_state"]


def reference(name: str) -> tuple[dict[str, list[int]], dict[str, np.ndarray]]:
    """Returns the public model's names with shapes, and its outputs with the seeds."""
    return read_reference(Path(__file__).resolve().parent / "data", name)
