"""Train Mask R-CNN on COCO-format data from a pretrained encoder.

python tools/train_det.py --config mask_rcnn_convmae_25e.yaml --cfg-options model.init=encoder.pth data.root=path/to/coco
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time to read
    import convmae.tools.starting  # noqa: F401

import sys
from collections.abc import Callable, Sequence
from typing import Any

from convmae.detection.config import DetectionConfig
from convmae.engine.commands.cli import train_tool


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit status."""
    return train_tool(argv, DetectionConfig, read, description=__doc__ or "", recipe="mask_rcnn_convmae_25e.yaml")


def read() -> Callable[..., Any]:
    """Imports what does it, and PyTorch with it."""
    from convmae.detection.train import train

    return train


if __name__ == "__main__":
    sys.exit(main())
