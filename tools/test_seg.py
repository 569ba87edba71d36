"""Evaluate UPerNet weights on ADE20K-format data and write a report, or put two such runs side by side.

python tools/test_seg.py work_dirs/upernet_convmae_160k_ade20k/model.pth
python tools/test_seg.py --compare work_dirs/one work_dirs/other
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time to read
    import convmae.tools.starting  # noqa: F401

import sys
from collections.abc import Sequence

from convmae.engine.commands.cli import test_tool
from convmae.segmentation.compare import compare
from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.train import test


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit status."""
    description, recipe = __doc__ or "", "upernet_convmae_160k_ade20k.yaml"
    return test_tool(argv, SegmentationConfig, test, description=description, recipe=recipe, compare=compare)


if __name__ == "__main__":
    sys.exit(main())
