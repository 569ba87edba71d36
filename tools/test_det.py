"""Evaluate Mask R-CNN weights on COCO-format data and write a report, or put two such runs side by side.

python tools/test_det.py work_dirs/mask_rcnn_convmae_25e/model.pth
python tools/test_det.py --compare work_dirs/one work_dirs/other
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time to read
    import convmae.tools.starting  # noqa: F401

import sys
from collections.abc import Sequence

from convmae.detection.compare import compare
from convmae.detection.config import DetectionConfig
from convmae.detection.train import test
from convmae.engine.commands.cli import test_tool


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit status."""
    description, recipe = __doc__ or "", "mask_rcnn_convmae_25e.yaml"
    return test_tool(argv, DetectionConfig, test, description=description, recipe=recipe, compare=compare)


if __name__ == "__main__":
    sys.exit(main())
