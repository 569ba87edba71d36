"""Draw input, masked input and reconstruction of pictures side by side, from a full pretraining checkpoint.

python tools/visualize.py work_dirs/fastconvmae_base_50e/pretrained.pth picture.jpg folder/ --output reconstructions.png
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path

from convmae.engine.cli import run_tool
from convmae.engine.drawing import column
from convmae.engine.errors import UserError
from convmae.engine.images import list_images
from convmae.pretraining.report import load_square, reconstruct
from convmae.pretraining.weights import load_pretrained


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit status."""
    parser = argparse.ArgumentParser(
        description=inspect.cleandoc(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="pretrained.pth or a published file that holds the decoder too")
    parser.add_argument("pictures", type=Path, nargs="+", help="pictures, or folders of them")
    parser.add_argument("--output", type=Path, default=Path("reconstructions.png"), help="the picture to write")
    parser.add_argument("--limit", type=int, default=12, help="at most so many pictures (default 12)")
    parser.add_argument(
        "--mask-ratio", type=float, help="part of the patches to remove (default: the run's, else 0.75)"
    )
    parser.add_argument("--size", type=int, help="side of the square to show, in pixels (default: the run's, else 224)")
    parser.add_argument(
        "--raw-pixels", action="store_true", help="the model was trained on pixels that were not normalised"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the mask")
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it is there")
    args = parser.parse_args(argv)

    def run() -> None:
        paths = [path for given in args.pictures for path in (list_images(given) if given.is_dir() else [given])]
        if args.output.exists() and not args.overwrite:
            raise UserError(f"{args.output} is there already: give another --output, or --overwrite.")
        model, options = load_pretrained(args.checkpoint, norm_pix_loss=False if args.raw_pixels else None)
        ratio = options.mask_ratio if args.mask_ratio is None else args.mask_ratio
        size = args.size or options.img_size
        print(
            f"{args.checkpoint}: {options.method} {options.size}, {min(len(paths), args.limit)} pictures at {size} px"
        )
        try:
            strips = [reconstruct(model, load_square(path, size), ratio, args.seed) for path in paths[: args.limit]]
        except ValueError as error:
            raise UserError(str(error)) from None
        args.output.parent.mkdir(parents=True, exist_ok=True)
        column(strips).save(args.output)
        print(f"written: {args.output}")

    return run_tool(run)


if __name__ == "__main__":
    sys.exit(main())
