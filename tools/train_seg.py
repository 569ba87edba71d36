"""Train UPerNet on ADE20K-format data from a pretrained encoder.

python tools/train_seg.py --config upernet_convmae_160k_ade20k.yaml --cfg-options model.init=encoder.pth
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time to read
    import convmae.tools.starting  # noqa: F401

import sys
from collections.abc import Sequence

from convmae.engine.commands.cli import train_tool
from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.train import train


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit status."""
    return train_tool(
        argv, SegmentationConfig, train, description=__doc__ or "", recipe="upernet_convmae_160k_ade20k.yaml"
    )


if __name__ == "__main__":
    sys.exit(main())
