"""Look for all that is wrong with a data set, and show what is in it. Training refuses at the first fault.

python tools/check_data.py coco data/coco
python tools/check_data.py coco data/mine --cfg-options data.train_images=images data.train_annotations=train.json

The exit status is 0 if training would take the data (objects left out and other remarks aside), else 1.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path

from convmae.detection.config import DetectionConfig
from convmae.detection.data_check import check_data
from convmae.detection.data_report import write_data_report
from convmae.engine.cli import add_overrides, prepare_work_dir, run_tool
from convmae.engine.config import load_config
from convmae.engine.data_report import stopping, summary
from convmae.engine.errors import UserError

RECIPE = "mask_rcnn_convmae_25e.yaml"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit status."""
    parser = argparse.ArgumentParser(
        description=inspect.cleandoc(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    formats = parser.add_subparsers(dest="format", required=True, metavar="FORMAT")
    coco = formats.add_parser("coco", help="COCO JSON files and folders of pictures, for detection")
    coco.add_argument("root", nargs="?", help="the data folder (default: the recipe's data.root)")
    coco.add_argument("--config", default=RECIPE, help=f"the recipe to train with (default {RECIPE})")
    add_overrides(coco, "data.train_images=images, or model.masks=false for boxes alone")
    coco.add_argument(
        "--pictures", type=int, default=0, help="open so many of each split, spread evenly (default: all)"
    )
    coco.add_argument("--work-dir", type=Path, help="where the report is written (default work_dirs/check_coco)")
    coco.add_argument("--overwrite", action="store_true", help="replace an earlier report there")
    args = parser.parse_args(argv)
    refused = False

    def run() -> None:
        nonlocal refused
        if args.pictures < 0:
            raise UserError(f"--pictures is {args.pictures}; expected a number from 1, or 0 for all.")
        config = load_config(DetectionConfig, args.config, args.cfg_options)
        if args.root is not None:
            config.data.root = args.root
        work_dir = args.work_dir or Path("work_dirs") / "check_coco"
        prepare_work_dir(work_dir, False, args.overwrite)
        splits = check_data(config, args.pictures)
        files = write_data_report(splits, work_dir)
        print("\n".join([*summary(splits), "written:", *(f"  {path}" for path in files)]))
        refused = bool(stopping(splits))

    return run_tool(run) or int(refused)


if __name__ == "__main__":
    sys.exit(main())
