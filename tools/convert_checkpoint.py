"""Turn weights of another framework's layout into this project's, or back; or weights of any task into half their size.
What layout a file has is seen from its names.

python tools/convert_checkpoint.py mask_rcnn_detectron2.pth convmae_mask_rcnn.pth --to convmae
python tools/convert_checkpoint.py work_dirs/det/model.pth detectron2.pth --to detectron2
python tools/convert_checkpoint.py work_dirs/det/model.pth mmdet.pth --to mmdet
python tools/convert_checkpoint.py work_dirs/pretrain/pretrained.pth encoder_half.safetensors --to half
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time to read
    import convmae.tools.starting  # noqa: F401

import argparse
import inspect
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from convmae.detection.config import MMDET, PORT, PUBLISHED
from convmae.engine.commands.cli import run_tool
from convmae.engine.commands.parsers import add_overrides
from convmae.engine.errors import UserError
from convmae.engine.files import check_is_file, file_of
from convmae.engine.machine.interrupts import reading_modules

HALF = "half"
LAYOUTS = ("convmae", "detectron2", "mmdet", HALF)
SUFFIXES = (".pth", ".pt", ".safetensors")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit status."""
    parser = argparse.ArgumentParser(
        description=inspect.cleandoc(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=Path, help="the file to convert (.pth, .pkl, .safetensors)")
    parser.add_argument("output", type=Path, help="the file to write (.pth or .safetensors)")
    parser.add_argument(
        "--to", choices=LAYOUTS, required=True, help="the layout to write; half: the same one, in half precision"
    )
    parser.add_argument(
        "--annotations", type=Path, help="COCO JSON file with the classes of a detector (default: COCO's own 80)"
    )
    parser.add_argument(
        "--config",
        help=f"the recipe of the weights, for --to convmae (default {PUBLISHED}, or {PORT}; of mmdet's {MMDET}); for "
        "--to mmdet where they have no batch norm and carry none",
    )
    add_overrides(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it is there")
    args = parser.parse_args(argv)

    def run() -> None:
        check_output(args.weights, args.output, args.overwrite)
        check_is_file(args.weights)
        with reading_modules():
            from convmae.detection.convert_file import convert
        if args.to == HALF:
            halve(args.weights, args.output)
        else:
            convert(args)

    return run_tool(run)


def halve(weights: Path, output: Path) -> None:
    """Writes a file's weights in half precision, with what stands beside them, and prints how large both files are.

    Raises UserError for values that half precision can't hold, and for what are no weights.
    """
    from convmae.detection.convert_file import read_tensors
    from convmae.engine.files import read_config, read_meta, save_weights

    state, others, source = read_tensors(weights)
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    save_weights(half, output, read_config(weights), read_meta(weights))
    left = f", left behind, as they are no tensors: {', '.join(others)}" if others else ""
    print(f"{source}: {len(half)} tensors{left}")
    print(f"{file_of(weights).stat().st_size / 1e6:.1f} MB to {output.stat().st_size / 1e6:.1f} MB")


def check_output(weights: Path, path: Path, overwrite: bool) -> None:
    """Raises UserError before any work if the output can't be written, or is the weights' file."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}.")
    if not path.parent.is_dir():
        raise UserError(f"There is no folder {path.parent}: make it, or give another output.")
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file in it.")
    if os.path.realpath(path) == os.path.realpath(file_of(weights)):
        raise UserError(f"{path} holds the weights: give another output.")
    if path.exists() and not overwrite:
        raise UserError(f"{path} is there already: give another output, or --overwrite.")


if __name__ == "__main__":
    sys.exit(main())
