"""Train UPerNet on ADE20K-format data from a pretrained encoder.

python tools/train_seg.py --config upernet_convmae_160k_ade20k.yaml --cfg-options model.init=encoder.pth
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time to read
    import convmae.tools.starting  # noqa: F401

import sys
from collections.abc import Callable, Sequence
from typing import Any

from convmae.engine.commands.cli import train_tool
from convmae.segmentation.config import SegmentationConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit status."""
    return train_tool(
        argv, SegmentationConfig, read, description=__doc__ or "", recipe="upernet_convmae_160k_ade20k.yaml"
    )


def read() -> Callable[..., Any]:
    """Imports what does it, and PyTorch with it."""
    from convmae.segmentation.train import train

    return train


if __name__ == "__main__":
    sys.exit(main())
