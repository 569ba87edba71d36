"""Evaluate Mask R-CNN weights on COCO-format data and write a report.

python tools/test_det.py work_dirs/mask_rcnn_convmae_25e/model.pth
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from convmae.detection.config import DetectionConfig
from convmae.detection.train import test
from convmae.engine.cli import test_tool


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit status."""
    return test_tool(argv, DetectionConfig, test, description=__doc__ or "", recipe="mask_rcnn_convmae_25e.yaml")


if __name__ == "__main__":
    sys.exit(main())
