"""Evaluate UPerNet weights on ADE20K-format data and write a report, or put two such runs side by side.

python tools/test_seg.py work_dirs/upernet_convmae_160k_ade20k/model.pth
python tools/test_seg.py --compare work_dirs/one work_dirs/other
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time to read
    import convmae.tools.starting  # noqa: F401

import sys
from collections.abc import Callable, Sequence
from typing import Any

from convmae.engine.commands.cli import test_tool
from convmae.segmentation.config import SegmentationConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit status."""
    description, recipe = __doc__ or "", "upernet_convmae_160k_ade20k.yaml"
    return test_tool(argv, SegmentationConfig, read, description=description, recipe=recipe, read_compare=read_compare)


def read() -> Callable[..., Any]:
    """Imports what does it, and PyTorch with it."""
    from convmae.segmentation.train import test

    return test


def read_compare() -> Callable[..., Any]:
    """Imports what puts two runs side by side."""
    from convmae.segmentation.compare import compare

    return compare


if __name__ == "__main__":
    sys.exit(main())
