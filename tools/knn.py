"""Classify by the nearest neighbours of a frozen encoder's features.

python tools/knn.py --config probe_224px.yaml --cfg-options model.init=encoder.pth data.root=path/to/imagenet
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time to read
    import convmae.tools.starting  # noqa: F401

import sys
from collections.abc import Callable, Sequence
from typing import Any

from convmae.classification.config import ProbeConfig
from convmae.engine.commands.cli import probe_tool


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit status."""
    return probe_tool(argv, ProbeConfig, read, description=__doc__ or "", recipe="probe_224px.yaml")


def read() -> Callable[..., Any]:
    """Imports what does it, and PyTorch with it."""
    from convmae.classification.train import knn

    return knn


if __name__ == "__main__":
    sys.exit(main())
