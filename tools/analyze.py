"""Print parameters, multiply-adds and activations by part, of one picture.

python tools/analyze.py fastconvmae --size base --img-size 224
python tools/analyze.py detection --size base --img-size 1024 --depth 2
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time to read
    import convmae.tools.starting  # noqa: F401

import argparse
import inspect
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from convmae.engine.commands.cli import read_size, run_tool
from convmae.engine.errors import UserError
from convmae.engine.machine.interrupts import reading_modules
from convmae.engine.options import SIZES
from convmae.pretraining.config import METHOD_NAMES

if TYPE_CHECKING:
    from convmae.benchmarks.counting.complexity import Part


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit status."""
    parser = argparse.ArgumentParser(
        description=inspect.cleandoc(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tasks = (*METHOD_NAMES, "encoder", "classifier", "detection_backbone", "detection", "cascade_detection")
    parser.add_argument("task", choices=(*tasks, "segmentation_backbone", "segmentation"), help="what to count")
    parser.add_argument("--size", choices=SIZES, default="base", help="size of the encoder (default base)")
    parser.add_argument(
        "--img-size", nargs="+", default=["224"], metavar="SIZE", help="pixels, as 224 or 480x640 (height x width)"
    )
    parser.add_argument("--in-chans", type=int, default=3, help="channels of the pictures (default 3, RGB)")
    parser.add_argument("--mask-ratio", type=float, default=0.75, help="of pretraining (default 0.75)")
    parser.add_argument("--depth", type=int, default=2, help="levels of names that are shown (default 2)")
    args = parser.parse_args(argv)

    def run() -> None:
        sides = [read_size(given) for given in args.img_size]
        with reading_modules():
            from convmae.benchmarks.counting.complexity import analyze
            from convmae.benchmarks.counting.whole_models import build

        for height, width in sides:
            try:
                model, inputs = build(args.task, args.size, height, width, args.mask_ratio, args.in_chans)
                parts, uncounted = analyze(model, inputs, args.depth)
            except ValueError as error:
                raise UserError(str(error)) from None
            print(f"\n{args.task}, {args.size}, one picture of {height} x {width} pixels")
            print(table(parts))
            if uncounted:
                print("not counted: " + ", ".join(f"{count} x {name}" for name, count in uncounted.items()))

    return run_tool(run)


def table(parts: Sequence[Part]) -> str:
    """Returns the counts as text, millions and billions (G) of them, parts set in by their depth."""
    wrapped = any(part.name == "model" for part in parts)
    rows = []
    for part in parts:
        name = part.name.removeprefix("model").removeprefix(".") if wrapped else part.name
        if wrapped and part.name == "model":
            continue
        label = "  " * (name.count(".") + 1) + name if name else "whole"
        rows.append(
            (
                label,
                f"{part.parameters / 1e6:.2f} M",
                f"{part.multiply_adds / 1e9:.3f} G",
                f"{part.activations / 1e6:.2f} M",
            )
        )
    head = ("part", "parameters", "multiply-adds", "activations")
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(4)]
    lines = [
        "  ".join(
            text.ljust(wide) if column == 0 else text.rjust(wide)
            for column, (text, wide) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *rows)
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
