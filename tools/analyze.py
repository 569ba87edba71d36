"""Print parameters, multiply-adds and activations by part, of one picture.

python tools/analyze.py fastconvmae --size base --img-size 224
python tools/analyze.py detection --size base --img-size 1024 --depth 2
python tools/analyze.py mask_rcnn_tiny_256px.yaml
python tools/analyze.py work_dirs/det/model.pth
python tools/analyze.py fastconvmae --size base large --processes 8 64
python tools/analyze.py detection --size base huge --img-size 1024 --batch 1 4 --processes 8

A recipe, or weights of a run, say which model it is and how large its pictures are. Classes are the weights', else those of
the task's usual data: 1000, 80 and 150. With --processes it prints, in place of the counts, how much gradient a training step
averages over processes, what each of these keeps whatever the batch (weights, gradients, AdamW's moments), whole or split by
--shard, and what a ring of links takes to average: 2 (n - 1) / n times the bytes by the rate.

With --batch it prints the memory that training in bf16 needs of a GPU, on any machine, by the sizes of all tensors: what is
kept whatever the batch, the activations of so many pictures at a time (bf16 copies of weights included), and both together.
Targets' teachers are counted with what they compute, what PyTorch's allocator leaves unused is not: some tenths more are
needed.
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time to read
    import convmae.tools.starting  # noqa: F401

import argparse
import inspect
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convmae.classification.config import FinetuningConfig
from convmae.detection.config import DetectionConfig
from convmae.engine.commands.cli import run_tool
from convmae.engine.commands.parsers import read_size
from convmae.engine.config import load_config, run_config
from convmae.engine.errors import UserError
from convmae.engine.files import check_is_file, read_meta
from convmae.engine.machine.interrupts import reading_modules
from convmae.engine.options import SIZES
from convmae.pretraining.config import METHOD_NAMES, PretrainingConfig
from convmae.segmentation.config import SegmentationConfig

if TYPE_CHECKING:
    from convmae.benchmarks.counting.complexity import Part


TASKS = (
    *METHOD_NAMES,
    *("encoder", "classifier", "detection_backbone", "detection", "cascade_detection"),
    *("segmentation_backbone", "segmentation"),
)
LINKS = [25.0, 100.0, 400.0, 3600.0]  # of networks, and of one H100's NVLink (450 GB/s each way)
# A recipe of few lines may fit several, of which the first is taken: a classifier's has the fewest options of its own.
SCHEMAS = {
    "pretraining": PretrainingConfig,
    "classification": FinetuningConfig,
    "detection": DetectionConfig,
    "segmentation": SegmentationConfig,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit status."""
    parser = argparse.ArgumentParser(
        description=inspect.cleandoc(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help=f"what to count: a recipe, weights of a run, or one of {', '.join(TASKS)}")
    parser.add_argument(
        "--img-size",
        nargs="+",
        metavar="SIZE",
        help="pixels, as 224 or 480x640 (height x width; default: the recipe's, else 224)",
    )
    own = parser.add_argument_group("of a model that is named by its task")
    own.add_argument("--size", nargs="+", choices=SIZES, help="sizes of the encoder (default base)")
    own.add_argument("--in-chans", type=int, help="channels of the pictures (default 3, RGB)")
    own.add_argument("--mask-ratio", type=float, help="of pretraining (default 0.75)")
    parser.add_argument("--depth", type=int, default=2, help="levels of names that are shown (default 2)")
    parser.add_argument("--processes", nargs="+", type=int, metavar="N", help="what N send one another and keep")
    parser.add_argument("--batch", nargs="+", type=int, metavar="N", help="the memory to train on N pictures at a time")
    parser.add_argument(
        "--checkpoint-activations", action="store_true", help="with --batch: activations are recomputed"
    )
    parser.add_argument(
        "--links", nargs="+", type=float, metavar="RATE", default=LINKS, help="Gbit/s each way (default %(default)s)"
    )
    args = parser.parse_args(argv)

    def run() -> None:
        if min(args.processes or [2]) < 2 or not min(args.links) > 0:
            raise UserError(
                f"--processes {args.processes} --links {args.links}: expected 2 or more, and rates above 0."
            )
        if min(args.batch or [1]) < 1:
            raise UserError(f"--batch {args.batch}: expected 1 or more.")
        if args.checkpoint_activations and not args.batch:
            raise UserError("--checkpoint-activations changes the memory alone; expected --batch with it.")
        sides = [read_size(given) for given in args.img_size or ()]
        known: dict[str, Any] = {"size": args.size, "in_chans": args.in_chans, "mask_ratio": args.mask_ratio}
        given = {name: value for name, value in known.items() if value is not None}
        config = None if args.model in TASKS else read_tree(args.model)
        if config is not None and given:
            names = " and ".join(f"--{name.replace('_', '-')}" for name in given)
            raise UserError(f"{args.model} says what {names} would: leave that out.")
        with reading_modules():
            import torch

            from convmae.benchmarks.counting.communication import Held, communication_table, held_by
            from convmae.benchmarks.counting.complexity import analyze
            from convmae.benchmarks.counting.step_memory import Activations, activations, memory_table, recompute
            from convmae.benchmarks.counting.whole_models import build, build_from, with_teachers
            from convmae.engine.class_lists import known_classes

        classes = len(known_classes(read_meta(Path(args.model)))) if is_weights(args.model) else 0
        filled: dict[str, Any] = {"size": ["base"], "in_chans": 3, "mask_ratio": 0.75} | given
        sizes = filled["size"] if config is None else [config.model.size]
        held: list[tuple[Held, list[Activations]]] = []
        for size, (height, width) in product(sizes, sides or [(own_side(config),) * 2]):
            torch.manual_seed(0)  # the boxes that a detector's heads are counted on
            try:
                with torch.device("meta" if args.processes or args.batch else "cpu"):  # whose tensors have no values
                    if config is None:
                        model, inputs = build(args.model, size, height, width, filled["mask_ratio"], filled["in_chans"])
                    else:
                        model, inputs = build_from(config, height, width, classes)
                    if args.processes or args.batch:
                        model = with_teachers(model, config, height, width)
                if args.processes or args.batch:
                    freeze = getattr(getattr(config, "model", None), "freeze", "none")
                    kept = held_by(f"{args.model}, {size}" + f", {height} x {width}" * bool(args.batch), model, freeze)
                    recompute(
                        model, args.checkpoint_activations or bool(config and config.runtime.checkpoint_activations)
                    )
                    held.append((kept, [activations(model, inputs[0], batch) for batch in args.batch or ()]))
                    continue
                parts, uncounted = analyze(model, inputs, args.depth)
            except ValueError as error:
                raise UserError(str(error)) from None
            print(f"\n{args.model}, {size}, one picture of {height} x {width} pixels")
            print(table(parts))
            if uncounted:
                print("not counted: " + ", ".join(f"{count} x {name}" for name, count in uncounted.items()))
        if args.batch:
            print(memory_table(held, args.processes or ()))
        if args.processes:
            print("\n" * bool(args.batch) + communication_table([one for one, _ in held], args.processes, args.links))

    return run_tool(run)


def is_weights(given: str) -> bool:
    """Whether a file's name is one of weights."""
    return Path(given).suffix in (".pth", ".pt", ".safetensors")


def read_tree(given: str) -> Any:
    """Returns the tree of the task that a recipe, or weights of a run, are of. Raises UserError where they are of none."""
    refusals = {}
    if is_weights(given):
        check_is_file(given)
    for task, schema in SCHEMAS.items():
        try:
            return run_config(schema, Path(given)) if is_weights(given) else load_config(schema, given)
        except UserError as error:
            refusals[task] = str(error)
    if len(set(refusals.values())) == 1:  # no such file, or weights that say nothing
        raise UserError(f"{refusals['detection']} To count a model without a recipe, name one of {', '.join(TASKS)}.")
    reasons = "\n".join(f"  {task}: {reason}" for task, reason in refusals.items())
    raise UserError(f"{given} fits no task:\n{reasons}")


def own_side(config: Any) -> int:
    """Returns the side in pixels of the pictures that a tree's model is trained on, 224 without one."""
    if config is None:
        return 224
    side: int = getattr(config.model, "img_size", 0) or getattr(config.data, "img_size", 0) or config.data.crop
    return side


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
