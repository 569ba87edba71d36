"""Draw what a pretrained model makes of pictures: reconstructions (by default), features or attention.

python tools/visualize.py work_dirs/pretrain/pretrained.pth data/images --mask-ratio 0.5 0.75 0.9
python tools/visualize.py work_dirs/pretrain/encoder.pth data/images --features --whole --size 448
python tools/visualize.py work_dirs/pretrain/encoder.pth picture.jpg --attention --query 3,4 8,2
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time to read
    import convmae.tools.starting  # noqa: F401

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from convmae.engine.commands.cli import run_tool
from convmae.engine.commands.parsers import add_overrides
from convmae.engine.errors import UserError
from convmae.engine.files import check_is_file
from convmae.engine.machine.interrupts import reading_modules
from convmae.pretraining.config import METHOD_NAMES

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from convmae.backbones import ConvViT, ViT

    Draw = Callable[[Tensor], list[Image.Image]]

# Options that mean nothing for the other kinds of pictures.
OWN = {
    "reconstructions": ("mask_ratio", "method", "raw_pixels", "seed"),
    "attention": ("block", "query"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit status."""
    parser = argparse.ArgumentParser(
        description=inspect.cleandoc(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "checkpoint",
        type=Path,
        help="for reconstructions pretrained.pth or a published file that holds the decoder too, else any encoder's weights",
    )
    parser.add_argument("pictures", type=Path, nargs="+", help="pictures, or folders of them")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument(
        "--features",
        dest="kind",
        action="store_const",
        const="features",
        default="reconstructions",
        help="three principal components of E1, E2 and E3 as red, green and blue",
    )
    kinds.add_argument(
        "--attention", dest="kind", action="store_const", const="attention", help="where a block of stage 3 attends"
    )
    parser.add_argument(
        "--output", type=Path, help="the picture to write (default reconstructions.png, features.png, ...)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it is there")
    parser.add_argument("--limit", type=int, default=12, help="at most so many pictures (default 12)")
    parser.add_argument("--size", type=int, help="shorter side to show pictures at, in pixels (default: the model's)")
    parser.add_argument("--whole", action="store_true", help="show all of each picture, not its centre square")

    own = parser.add_argument_group("reconstructions")
    own.add_argument(
        "--mask-ratio", type=float, nargs="+", help="parts of the patches to remove (default: the run's, else 0.75)"
    )
    own.add_argument(
        "--method", choices=METHOD_NAMES, help="how the model masks (default: the run's, else by its names)"
    )
    own.add_argument(
        "--raw-pixels", action="store_true", help="the model was trained on pixels that were not normalised"
    )
    own.add_argument("--seed", type=int, default=0, help="seed of the mask (default 0)")
    own = parser.add_argument_group("attention")
    own.add_argument(
        "--query", nargs="+", metavar="ROW,COLUMN", help="patches that attend, from 0,0 (default: five, spread evenly)"
    )
    own.add_argument("--block", type=int, help="which block attends, from 0 (default: the last)")
    add_overrides(parser, "data.range=[0,4095] or data.max_pixels=500000000")
    args = parser.parse_args(argv)

    def run() -> None:
        for kind, names in OWN.items():
            for name in names:
                if kind != args.kind and getattr(args, name) != parser.get_default(name):
                    raise UserError(f"--{name.replace('_', '-')} is for {kind}, not for {args.kind}: leave it out.")
        if args.limit < 1:
            raise UserError(f"--limit is {args.limit}; expected at least 1.")
        output = args.output or Path(f"{args.kind}.png")
        if output.is_dir() or output.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
            raise UserError(f"--output is {output}; expected the name of a picture to write, such as {args.kind}.png.")
        if output.exists() and not args.overwrite:
            raise UserError(f"{output} is there already: give another --output, or --overwrite.")
        check_is_file(args.checkpoint)
        with reading_modules():
            from convmae.engine.commands.given_pictures import kept_reading, save_picture, say
            from convmae.engine.pictures.folders import list_images
            from convmae.engine.shards.places import place
            from convmae.pretraining.evaluation.reconstructions import load_picture
            from convmae.pretraining.patches import PATCH
            from convmae.reports.drawing import column

        if args.size is not None and args.size < PATCH:
            raise UserError(f"--size is {args.size}; expected at least {PATCH}, the side of a patch.")
        paths = [
            path
            for given in map(place, args.pictures)
            for path in (list_images(given, say) if given.is_dir() else [given])
        ]
        draw, usual_size, channels = {"reconstructions": reconstructions, "features": features, "attention": attention}[
            args.kind
        ](args)
        size = args.size or usual_size
        reading = kept_reading(args.checkpoint, args.cfg_options, channels)
        paths = paths[: args.limit]
        print(f"{args.checkpoint}: {args.kind}, {len(paths)} pictures at {size} px")
        sheets = []
        for path in paths:
            image = load_picture(path, size, args.whole, reading)
            try:
                sheets.append(column(draw(image), path.name))
            except ValueError as error:
                raise UserError(f"{path} at {size} px: {error}.") from None
        save_picture(column(sheets), output)
        print(f"written: {output}")

    return run_tool(run)


def reconstructions(args: argparse.Namespace) -> tuple[Draw, int, int]:
    """Returns what draws a picture's reconstructions at each ratio, the model's side, and its channels."""
    from convmae.pretraining import FastConvMAE
    from convmae.pretraining.evaluation.reconstructions import group_sheet, reconstruct, reconstruction_strip
    from convmae.pretraining.weights import load_pretrained

    model, options = load_pretrained(args.checkpoint, False if args.raw_pixels else None, args.method or "")
    if args.mask_ratio and isinstance(model, FastConvMAE):
        model.groups = None  # the ratios say how many

    def draw(image: Tensor) -> list[Image.Image]:
        ratios = args.mask_ratio or [options.mask_ratio]
        views = [reconstruct(model, image, ratio, args.seed) for ratio in ratios]
        return [group_sheet(of_one) if len(of_one.mask) > 1 else reconstruction_strip(of_one) for of_one in views]

    return draw, options.img_size, model.in_chans


def features(args: argparse.Namespace) -> tuple[Draw, int, int]:
    """Returns what draws a picture's feature maps, the side that the encoder was trained at, and its channels."""
    from convmae.pretraining.evaluation.features import feature_maps, feature_strip
    from convmae.pretraining.patches import PATCH

    encoder = read_encoder(args.checkpoint)

    def draw(image: Tensor) -> list[Image.Image]:
        return [feature_strip(image, feature_maps(encoder, image))]

    return draw, PATCH * encoder.grid_size[0], encoder.in_chans


def attention(args: argparse.Namespace) -> tuple[Draw, int, int]:
    """Returns what draws a block's attention on a picture, the side that the encoder was trained at, and its channels."""
    from convmae.pretraining.evaluation.attention import attention_maps, attention_sheet
    from convmae.pretraining.patches import PATCH

    queries = [read_patch(text) for text in args.query or ()]
    encoder = read_encoder(args.checkpoint)

    def draw(image: Tensor) -> list[Image.Image]:
        return [attention_sheet(image, attention_maps(encoder, image, queries, args.block))]

    return draw, PATCH * encoder.grid_size[0], encoder.in_chans


def read_encoder(path: Path) -> ConvViT | ViT:
    """Returns the encoder in a file. Raises CheckpointError where it is not whole."""
    from convmae.backbones import load_encoder

    return cast("ConvViT | ViT", load_encoder(path))


def read_patch(text: str) -> tuple[int, int]:
    """Returns row and column of "3,4". Raises UserError for anything else."""
    match = re.fullmatch(r"(\d+),(\d+)", text)
    if match is None:
        raise UserError(f"--query is {text!r}; expected a patch's row and column, as 3,4.")
    return int(match[1]), int(match[2])


if __name__ == "__main__":
    sys.exit(main())
