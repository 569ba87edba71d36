"""Evaluate UPerNet weights on ADE20K-format data and write a report.

python tools/test_seg.py work_dirs/upernet_convmae_160k_ade20k/model.pth
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from convmae.engine.cli import test_tool
from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.train import test


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit status."""
    return test_tool(
        argv, SegmentationConfig, test, description=__doc__ or "", recipe="upernet_convmae_160k_ade20k.yaml"
    )


if __name__ == "__main__":
    sys.exit(main())
