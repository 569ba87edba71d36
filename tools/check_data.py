"""Look for all that is wrong with a data set, and show what is in it. Training refuses at the first fault.

python tools/check_data.py pictures data/pictures
python tools/check_data.py cls data/imagenet
python tools/check_data.py coco data/coco
python tools/check_data.py coco data/mine --cfg-options data.train_images=images data.train_annotations=train.json
python tools/check_data.py seg data/ade20k
python tools/check_data.py seg data/mine --cfg-options data.classes=names.txt data.reduce_zero_label=false

The exit status is 0 if training would take the data (what is left out or skipped and other remarks aside), else 1.
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time to read
    import convmae.tools.starting  # noqa: F401

import argparse
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from convmae.engine.commands.cli import add_overrides, prepare_report_dir, run_tool
from convmae.engine.config import load_config
from convmae.engine.errors import UserError
from convmae.reports.data_report import Split, stopping, summary


class Format(NamedTuple):
    """How data of a kind are laid out, the recipe that is taken, options to name in the help, and what looks at them.

    ``check(arguments, work_dir)`` returns the splits with their faults and the files that it wrote.
    """

    doc: str
    recipe: str
    example: str
    check: Callable[[argparse.Namespace, Path], tuple[Sequence[Split], list[Path]]]


def _check_coco(args: argparse.Namespace, work_dir: Path) -> tuple[Sequence[Split], list[Path]]:
    from convmae.detection.checks.data_check import check_data
    from convmae.detection.checks.data_report import write_data_report
    from convmae.detection.config import DetectionConfig

    splits = check_data(_config(DetectionConfig, args), args.pictures)
    return splits, write_data_report(splits, work_dir)


def _check_seg(args: argparse.Namespace, work_dir: Path) -> tuple[Sequence[Split], list[Path]]:
    from convmae.segmentation.checks.data_check import check_data
    from convmae.segmentation.checks.data_report import write_data_report
    from convmae.segmentation.config import SegmentationConfig
    from convmae.segmentation.data.class_list import read_class_list

    config = _config(SegmentationConfig, args)
    options = config.data
    classes = read_class_list(options)
    splits = check_data(options, classes, args.pictures, config.model.in_chans)
    return splits, write_data_report(splits, classes.names, options, work_dir)


def _check_cls(args: argparse.Namespace, work_dir: Path) -> tuple[Sequence[Split], list[Path]]:
    from convmae.classification.config import FinetuningConfig
    from convmae.classification.data.data_check import check_data
    from convmae.reports.picture_report import write_data_report

    config = _config(FinetuningConfig, args)
    splits = check_data(config.data, args.pictures, config.model.in_chans)
    return splits, write_data_report(splits, config.data.root, work_dir)


def _check_pictures(args: argparse.Namespace, work_dir: Path) -> tuple[Sequence[Split], list[Path]]:
    from convmae.pretraining.config import PretrainingConfig
    from convmae.pretraining.data.data_check import check_data
    from convmae.reports.picture_report import write_data_report

    config = _config(PretrainingConfig, args)
    splits = check_data(config.data, args.pictures, config.model.in_chans)
    return splits, write_data_report(splits, config.data.root, work_dir)


FORMATS = {
    "pictures": Format(
        "a folder of plain pictures, for pretraining",
        "fastconvmae_base_50e.yaml",
        "data.bad_share=0.01, or data.on_bad_image=stop",
        _check_pictures,
    ),
    "cls": Format(
        "a folder of pictures a class, for classification",
        "finetune_convmae_base_100e.yaml",
        "data.train=training data.val=validation",
        _check_cls,
    ),
    "coco": Format(
        "COCO JSON files and folders of pictures, for detection",
        "mask_rcnn_convmae_25e.yaml",
        "data.train_images=images, or model.masks=false for boxes alone",
        _check_coco,
    ),
    "seg": Format(
        "folders of pictures and of label maps, for segmentation",
        "upernet_convmae_160k_ade20k.yaml",
        "data.train_images=images, or data.reduce_zero_label=false if label 0 is a class",
        _check_seg,
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit status."""
    parser = argparse.ArgumentParser(
        description=inspect.cleandoc(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    formats = parser.add_subparsers(dest="format", required=True, metavar="FORMAT")
    for name, one in FORMATS.items():
        sub = formats.add_parser(name, help=one.doc)
        sub.add_argument("root", nargs="?", help="the data folder (default: the recipe's data.root)")
        sub.add_argument("--config", default=one.recipe, help=f"the recipe to train with (default {one.recipe})")
        add_overrides(sub, one.example)
        sub.add_argument(
            "--pictures", type=int, default=0, help="open so many of each split, spread evenly (default: all)"
        )
        sub.add_argument("--work-dir", type=Path, help=f"where the report is written (default work_dirs/check_{name})")
        sub.add_argument("--overwrite", action="store_true", help="replace an earlier report there")
    args = parser.parse_args(argv)
    refused = False

    def run() -> None:
        nonlocal refused
        if args.pictures < 0:
            raise UserError(f"--pictures is {args.pictures}; expected a number from 1, or 0 for all.")
        work_dir = args.work_dir or Path("work_dirs") / f"check_{args.format}"
        prepare_report_dir(work_dir, args.overwrite)
        splits, files = FORMATS[args.format].check(args, work_dir)
        print("\n".join([*summary(splits), "written:", *(f"  {path}" for path in files)]))
        refused = bool(stopping(splits))

    return run_tool(run) or int(refused)


def _config(schema: type, args: argparse.Namespace) -> Any:
    config: Any = load_config(schema, args.config, args.cfg_options)
    if args.root is not None:
        config.data.root = args.root
    return config


if __name__ == "__main__":
    sys.exit(main())
