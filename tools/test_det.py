"""Evaluate Mask R-CNN weights on COCO-format data and write a report, or put two such runs side by side.

python tools/test_det.py work_dirs/mask_rcnn_convmae_25e/model.pth
python tools/test_det.py --compare work_dirs/one work_dirs/other
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time to read
    import convmae.tools.starting  # noqa: F401

import sys
from collections.abc import Callable, Sequence
from typing import Any

from convmae.detection.config import DetectionConfig
from convmae.engine.commands.cli import test_tool


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit status."""
    description, recipe = __doc__ or "", "mask_rcnn_convmae_25e.yaml"
    return test_tool(argv, DetectionConfig, read, description=description, recipe=recipe, read_compare=read_compare)


def read() -> Callable[..., Any]:
    """Imports what does it, and PyTorch with it."""
    from convmae.detection.train import test

    return test


def read_compare() -> Callable[..., Any]:
    """Imports what puts two runs side by side."""
    from convmae.detection.compare import compare

    return compare


if __name__ == "__main__":
    sys.exit(main())
