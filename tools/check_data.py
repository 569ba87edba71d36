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
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from convmae.engine.commands.cli import run_tool
from convmae.engine.commands.next_command import next_command
from convmae.engine.commands.parsers import add_overrides
from convmae.engine.commands.work_dirs import prepare_report_dir
from convmae.engine.config import load_config
from convmae.engine.errors import UserError
from convmae.engine.machine.interrupts import reading_modules

if TYPE_CHECKING:
    from convmae.reports.data_report import Split


class Checked(NamedTuple):
    """The splits with their faults, the files that were written, the data folder, and what training pictures it has.

    ``sizes``, width and height, are of those that were looked at and are in order.
    """

    splits: Sequence[Split]
    files: list[Path]
    root: str
    pictures: int
    sizes: Collection[tuple[int, int]]


class Format(NamedTuple):
    """How data of a kind are laid out, what trains on them, the recipe that is taken, an example of options, the check.

    ``check(arguments, work_dir)`` looks at the data and writes a report.
    """

    doc: str
    tool: str
    recipe: str
    example: str
    check: Callable[[argparse.Namespace, Path], Checked]


def _check_coco(args: argparse.Namespace, work_dir: Path) -> Checked:
    from convmae.detection.checks.data_check import check_data
    from convmae.detection.checks.data_report import write_data_report
    from convmae.detection.config import DetectionConfig

    config = _config(DetectionConfig, args)
    splits = check_data(config, args.pictures)
    training = splits[0]
    pictures = len(training.data.images) if training.data else 0
    sizes = [(image.width, image.height) for image in training.good]
    return Checked(splits, write_data_report(splits, work_dir), config.data.root, pictures, sizes)


def _check_seg(args: argparse.Namespace, work_dir: Path) -> Checked:
    from convmae.segmentation.checks.data_check import check_data
    from convmae.segmentation.checks.data_report import write_data_report
    from convmae.segmentation.config import SegmentationConfig
    from convmae.segmentation.data.class_list import read_class_list

    config = _config(SegmentationConfig, args)
    options = config.data
    classes = read_class_list(options)
    splits = check_data(options, classes, args.pictures, config.model.in_chans)
    files = write_data_report(splits, classes.names, options, work_dir)
    return Checked(splits, files, options.root, len(splits[0].pairs), splits[0].sizes)


def _check_cls(args: argparse.Namespace, work_dir: Path) -> Checked:
    from convmae.classification.config import FinetuningConfig
    from convmae.classification.data.data_check import check_data
    from convmae.reports.picture_report import write_data_report

    config = _config(FinetuningConfig, args)
    splits = check_data(config.data, args.pictures, config.model.in_chans)
    files = write_data_report(splits, config.data.root, work_dir)
    return Checked(splits, files, config.data.root, len(splits[0].paths), list(splits[0].sizes.elements()))


def _check_pictures(args: argparse.Namespace, work_dir: Path) -> Checked:
    from convmae.pretraining.config import PretrainingConfig
    from convmae.pretraining.data.data_check import check_data
    from convmae.reports.picture_report import write_data_report

    config = _config(PretrainingConfig, args)
    splits = check_data(config.data, args.pictures, config.model.in_chans)
    files = write_data_report(splits, config.data.root, work_dir)
    return Checked(splits, files, config.data.root, len(splits[0].paths), list(splits[0].sizes.elements()))


FORMATS = {
    "pictures": Format(
        "a folder of plain pictures, for pretraining",
        "pretrain",
        "fastconvmae_base_50e.yaml",
        "data.bad_share=0.01, or data.on_bad_image=stop",
        _check_pictures,
    ),
    "cls": Format(
        "a folder of pictures a class, for classification",
        "finetune",
        "finetune_convmae_base_100e.yaml",
        "data.train=training data.val=validation",
        _check_cls,
    ),
    "coco": Format(
        "COCO JSON files and folders of pictures, for detection",
        "train_det",
        "mask_rcnn_convmae_25e.yaml",
        "data.train_images=images, or model.masks=false for boxes alone",
        _check_coco,
    ),
    "seg": Format(
        "folders of pictures and of label maps, for segmentation",
        "train_seg",
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
        sub.add_argument("--config", help=f"the recipe to train with (default: data as in {one.recipe})")
        add_overrides(sub, one.example)
        sub.add_argument(
            "--pictures", type=int, default=0, help="open so many of each split, spread evenly (default: all)"
        )
        sub.add_argument("--work-dir", type=Path, help=f"where the report is written (default work_dirs/check_{name})")
        sub.add_argument(
            "--overwrite", action="store_true", help="replace the report of a test there, not only of a check"
        )
    args = parser.parse_args(argv)
    refused = False

    def run() -> None:
        nonlocal refused
        if args.pictures < 0:
            raise UserError(f"--pictures is {args.pictures}; expected a number from 1, or 0 for all.")
        work_dir = args.work_dir or Path("work_dirs") / f"check_{args.format}"
        # The report of an earlier check is of the same data before they were mended.
        prepare_report_dir(work_dir, args.overwrite or not (work_dir / "config.yaml").is_file())
        with reading_modules():
            from convmae.reports.data_report import stopping, summary

        one = FORMATS[args.format]
        found = one.check(args, work_dir)
        refused = bool(stopping(found.splits))
        lines = [*summary(found.splits), "written:", *(f"  {path}" for path in found.files)]
        if not refused:
            lines += next_command(one.tool, found.pictures, found.sizes, args.config, found.root, args.cfg_options)
        print("\n".join(lines))

    return run_tool(run) or int(refused)


def _config(schema: type, args: argparse.Namespace) -> Any:
    config: Any = load_config(schema, args.config or FORMATS[args.format].recipe, args.cfg_options)
    if args.root is not None:
        config.data.root = args.root
    return config


if __name__ == "__main__":
    sys.exit(main())
