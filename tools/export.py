"""Write a detector, segmenter, classifier or encoder as ONNX, for pictures of any size, compared with PyTorch before.

python tools/export.py work_dirs/mask_rcnn_tiny_256px/model.pth --output detector.onnx --pictures data/images
python tools/export.py work_dirs/upernet_tiny_256px/model.pth --output segmenter.onnx
python tools/export.py detector.pth --precision int8 --pictures data/images --evaluate data.root=data/coco
python tools/export.py convmae_base.pth --part encoder --output encoder.onnx --img-size 480x640

A detector takes a picture as bytes [height, width, 3], and gives boxes, scores, labels and masks in its pixels; a segmenter a
batch of such pictures, and gives labels or logits; how to run them is in docs/deployment.md. Encoders and classifiers take
normalised pictures. Beside the file stands a .json with what was compared and measured.
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time to read
    import convmae.tools.starting  # noqa: F401

import argparse
import inspect
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convmae.engine.export.plan import Plan

PARTS = ("encoder", "classifier", "detector", "segmenter")
TASKS = ("detector", "segmenter")  # that can be measured
PRECISIONS = ("fp32", "fp16", "int8")
OPSETS = range(18, 21)
MEASURED = ("mAP", "AP50", "mIoU")  # whose loss is said


def plan_encoder(args: argparse.Namespace, part: str | None) -> Plan:
    """Returns the plan for an encoder or a classifier. Raises UserError for options that neither has."""
    from convmae.engine.commands.parsers import read_size
    from convmae.engine.errors import UserError
    from convmae.engine.export import encoders
    from convmae.engine.export.graphs import common_meta
    from convmae.engine.export.plan import Plan
    from convmae.engine.files import read_config
    from convmae.engine.pictures.images import channel_statistics

    if args.evaluate or args.pictures or args.logits:
        raise UserError(
            "--evaluate, --pictures and --logits are for detectors and segmenters; this file is exported as an "
            f"{part or 'encoder or a classifier'}."
        )
    fixed = read_size(args.img_size) if args.img_size else None
    module, model, part = encoders.read_model(args.weights, part)
    classes = encoders.read_classes(args.weights, model.num_classes) if part == "classifier" else []
    means, deviations = channel_statistics(model.in_chans)
    kind = "RGB" if model.in_chans == 3 else f"channels: {model.in_chans}"
    pixels = f"{kind}, values 0 to 1, less {means}, over {deviations}"
    rows, columns = model.grid_size
    own = encoders.STRIDE * rows, encoders.STRIDE * columns
    sizes = [(1, *fixed), (3, *fixed)] if fixed else [(1, *own), *encoders.SIZES]
    return Plan(
        module,
        encoders.example(model, fixed),
        encoders.ports(module, fixed is not None),
        common_meta(part, classes, read_config(args.weights), pixels),
        lambda session, _: encoders.compare(module, session, sizes, model.in_chans),
    )


def make_plan(args: argparse.Namespace) -> Plan:
    """Returns the plan for what a file holds, or for the part asked for. Raises UserError where it holds another."""
    from convmae.engine.errors import UserError
    from convmae.kinds import DETECTION, SEGMENTATION, found_kind

    parts = {DETECTION: "detector", SEGMENTATION: "segmenter"}
    task = parts.get(found_kind(args.weights) or "")
    wanted = args.part or task
    if wanted in parts.values() and wanted != task:
        raise UserError(
            f"{args.weights} holds no {wanted}, but {'a ' + task if task else 'an encoder or a classifier'}; expected the "
            f"model.pth of a {wanted}'s run, or another --part."
        )
    if wanted in parts.values() and args.img_size:
        raise UserError(f"--img-size is for encoders and classifiers; a {wanted} takes pictures of any size.")
    if wanted == "detector":
        from convmae.detection.export.plan import plan_detector

        return plan_detector(args.weights, args.config, args.cfg_options, args.pictures, args.evaluate)
    if wanted == "segmenter":
        from convmae.segmentation.export import plan_segmenter

        output = "logits" if args.logits else "labels"
        return plan_segmenter(args.weights, args.config, args.cfg_options, args.pictures, args.evaluate, output)
    return plan_encoder(args, args.part)


def check_request(args: argparse.Namespace, output: Path) -> None:
    """Raises UserError before any work: a package is missing, or the output can't be written or is the weights' file."""
    from convmae.engine.errors import UserError
    from convmae.engine.export.graphs import check_packages
    from convmae.engine.files import file_of

    check_packages()
    if file_of(args.weights).suffix == ".onnx":
        raise UserError(f"{args.weights} is a graph already; expected weights (.pth or .safetensors).")
    if not output.parent.is_dir():
        raise UserError(f"There is no folder {output.parent}: make it, or give another --output.")
    if output.is_dir():
        raise UserError(f"{output} is a folder: name a file in it by --output.")
    if os.path.realpath(output) == os.path.realpath(file_of(args.weights)):
        raise UserError(f"{output} holds the weights: name another file by --output.")
    for path in (output, output.with_suffix(".json")):
        if path.exists() and not args.overwrite:
            raise UserError(f"{path} is there already: give another --output, or --overwrite.")


def export(plan: Plan, args: argparse.Namespace, folder: Path, name: str) -> None:
    """Writes a graph and its .json into a folder, and says what was compared and measured."""
    from convmae.engine.export.graphs import open_session, write_graph
    from convmae.engine.export.precision import convert

    path = folder / name
    print(f"{plan.meta['task']} with outputs {', '.join(plan.ports.outputs)}")
    if "classes" in plan.meta:
        print(f"the graph's metadata names its {len(plan.meta['classes'])} classes")
    write_graph(plan.module, plan.example, plan.ports, path, args.opset, plan.meta)
    session = open_session(path)
    lines, worst = plan.compare(session, path)
    print("difference from PyTorch:", *(f"  {line}" for line in lines), sep="\n")
    said: dict[str, Any] = {"task": plan.meta["task"], "opset": args.opset, "precision": args.precision}
    said |= {"compared": lines, "largest_difference": worst}
    if plan.evaluate:
        said["fp32"] = plan.evaluate(session)
        print("fp32: " + _headline(said["fp32"]))
    if args.precision != "fp32":
        other = folder / "converted.onnx"
        said["conversion"] = convert(path, other, args.precision, plan.calibration, plan.ports.input)
        print(f"{args.precision}: {said['conversion']}")
        other.replace(path)
        session = open_session(path)  # which fails here, not at a user's, where the runtime can't take it
        if plan.evaluate:
            found = said[args.precision] = plan.evaluate(session)
            lost = {key: said["fp32"][key] - found[key] for key in found if key.endswith(MEASURED)}
            said["loss"] = lost
            print(f"{args.precision}: {_headline(found)}; lost: {_headline(lost, 2)}")
        else:
            how = "; --evaluate data.root=... does, on validation data" if plan.meta["task"] in TASKS else ""
            print(f"what {args.precision} costs was not measured{how}")
    (folder / Path(name).with_suffix(".json")).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


def _headline(numbers: dict[str, float], digits: int = 1) -> str:
    return ", ".join(f"{key} {100 * value:.{digits}f}" for key, value in numbers.items() if key.endswith(MEASURED))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit status."""
    from convmae.engine.commands.cli import run_tool
    from convmae.engine.commands.parsers import add_overrides

    parser = argparse.ArgumentParser(
        description=inspect.cleandoc(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("weights", type=Path, help="weights of any known layout (.pth, .safetensors), ours or published")
    add("--output", type=Path, help="the file to write (default: beside the weights, ending in .onnx)")
    add("--part", choices=PARTS, help="what to export (default: what the file holds; the encoder where it has no head)")
    add("--config", help="a detector's or segmenter's recipe (default: what stands in the weights or beside them)")
    add_overrides(parser, "model.score_threshold=0.3")
    add("--logits", action="store_true", help="a segmenter gives the scores of all classes, not the labels")
    add(
        "--pictures",
        type=Path,
        help="a folder of pictures to compare on, and to calibrate int8 on (default: drawn ones)",
    )
    add("--precision", choices=PRECISIONS, default="fp32", help="of the graph's weights and products (default fp32)")
    add(
        "--evaluate",
        nargs="+",
        default=(),
        metavar="KEY=VALUE",
        help="measure the graph on validation data that these options of the recipe name, as data.root=data/coco",
    )
    add("--img-size", metavar="SIZE", help="fix height and width of an encoder, as 224 or 480x640 (default: any)")
    add("--opset", type=int, choices=OPSETS, default=OPSETS[0], help=f"ONNX operators (default {OPSETS[0]})")
    add("--overwrite", action="store_true", help="replace the output if it is there")
    args = parser.parse_args(argv)

    def run() -> None:
        from convmae.engine.errors import UserError
        from convmae.engine.files import beside, check_is_file

        check_is_file(args.weights)
        output = args.output or beside(args.weights, ".onnx")
        check_request(args, output)
        try:
            made = TemporaryDirectory(dir=output.parent)
        except OSError as error:
            raise UserError(f"{output.parent} can't be written: {error.strerror}. Give another --output.") from None
        with made as folder:
            plan = make_plan(args)
            export(plan, args, Path(folder), output.name)
            written = sorted(one.replace(output.parent / one.name) for one in Path(folder).iterdir())
        print(f"{plan.ports.input}: {plan.meta['pixels']}")
        print(f"written: {', '.join(map(str, written))}")

    return run_tool(run)


if __name__ == "__main__":
    sys.exit(main())
