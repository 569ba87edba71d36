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
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, nn

    from convmae.engine.export.graphs import Ports

PARTS = ("encoder", "classifier", "detector", "segmenter")
PRECISIONS = ("fp32", "fp16", "int8")
OPSETS = range(18, 21)
MEASURED = ("mAP", "AP50", "mIoU")  # whose loss is said


class Plan(NamedTuple):
    """A part of a model to write: what is traced on which pictures, what its file says, how it is compared and measured."""

    module: nn.Module
    example: Tensor
    ports: Ports
    meta: dict[str, Any]
    compare: Callable[[Any], tuple[list[str], Any]]
    evaluate: Callable[[Any], dict[str, float]] | None = None
    pictures: Sequence[Any] = ()  # arrays that the graph takes, to calibrate int8 on


def plan_encoder(args: argparse.Namespace, part: str | None) -> Plan:
    """Returns the plan for an encoder or a classifier. Raises UserError for options that neither has."""
    from convmae.engine.commands.cli import read_size
    from convmae.engine.errors import UserError
    from convmae.engine.export import encoders
    from convmae.engine.export.graphs import common_meta
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
        lambda session: encoders.compare(module, session, sizes, model.in_chans),
    )


def plan_detector(args: argparse.Namespace) -> Plan:
    """Returns the plan for a detector. Raises UserError for a file that holds none, or a recipe that a graph can't follow."""
    import torch

    from convmae.detection import export
    from convmae.detection.config import DetectionConfig
    from convmae.detection.predict import open_detector
    from convmae.engine.config import run_config, to_yaml
    from convmae.engine.export.example_pictures import example_pictures
    from convmae.engine.export.graphs import common_meta

    config = run_config(DetectionConfig, args.weights, args.config, [*args.cfg_options, *(args.evaluate or ())])
    model = open_detector(config, args.weights).eval()
    reading, side = config.data.reading(config.model.in_chans), config.data.img_size
    sizes = [(side, side), (side * 3 // 4, side), (side, side * 2 // 3), (side * 2 + 5, side * 3 // 2), (97, 131)]
    pictures = example_pictures(args.pictures, sizes, reading)
    meta = common_meta(
        "detector", model.dataset_meta["classes"], to_yaml(config), "RGB bytes [height, width, channels]"
    )
    return Plan(
        export.DetectorGraph(model, config),
        torch.from_numpy(pictures[1][: side // 2]),
        export.ports(config.model.masks),
        meta,
        lambda session: export.compare(model, config, session, pictures),
        lambda session: export.evaluate(session, config),
        pictures=example_pictures(args.pictures, [], reading) if args.pictures else (),
    )


def plan_segmenter(args: argparse.Namespace) -> Plan:
    """Returns the plan for a segmenter. Raises UserError as ``plan_detector`` does."""
    import numpy as np

    from convmae.engine.config import run_config, to_yaml
    from convmae.engine.errors import UserError
    from convmae.engine.export.example_pictures import example_pictures
    from convmae.engine.export.graphs import common_meta
    from convmae.segmentation import export
    from convmae.segmentation.config import SegmentationConfig
    from convmae.segmentation.model.upernet import build_model, check_options
    from convmae.segmentation.model.weights import load_weights, read_class_names

    config = run_config(SegmentationConfig, args.weights, args.config, [*args.cfg_options, *(args.evaluate or ())])
    check_options(config, training=False)
    classes = read_class_names(args.weights)
    if not classes:
        raise UserError(f"{args.weights} does not name its classes; expected the model.pth of a run.")
    model = build_model(config, len(classes))
    load_weights(model, args.weights, classes)
    model.eval()
    reading, side = config.data.reading(config.model.in_chans), config.data.crop
    sizes = [(side, side), (side * 3 // 4, side), (97, 131), (33, 250), (side * 3 // 2, side * 2)]
    pictures = [one[None] for one in example_pictures(args.pictures, sizes, reading)]
    pictures[1] = np.concatenate([pictures[1], pictures[1][:, ::-1]])  # a batch
    output = "logits" if args.logits else "labels"
    graph = export.SegmenterGraph(model, config, output)
    meta = common_meta("segmenter", classes, to_yaml(config), "RGB bytes [batch, height, width, channels]")
    given = example_pictures(args.pictures, [], reading) if args.pictures else ()
    return Plan(
        graph,
        export.example(config),
        export.PORTS[output],
        meta,
        lambda session: export.compare(graph, model, session, pictures),
        lambda session: export.evaluate(session, config, classes),
        pictures=[one[None] for one in given],
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
        return plan_detector(args)
    return plan_segmenter(args) if wanted == "segmenter" else plan_encoder(args, args.part)


def check_request(args: argparse.Namespace, output: Path) -> None:
    """Raises UserError before any work: a package is missing, or the output can't be written or is the weights' file."""
    from convmae.engine.errors import UserError
    from convmae.engine.export.graphs import check_packages
    from convmae.engine.files import file_of

    check_packages()
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
    lines, worst = plan.compare(session)
    print("difference from PyTorch:", *(f"  {line}" for line in lines), sep="\n")
    said: dict[str, Any] = {"task": plan.meta["task"], "opset": args.opset, "precision": args.precision}
    said |= {"compared": lines, "largest_difference": worst}
    if args.evaluate and plan.evaluate:
        said["fp32"] = plan.evaluate(session)
        print("fp32: " + _headline(said["fp32"]))
    if args.precision != "fp32":
        other = folder / "converted.onnx"
        said["conversion"] = convert(path, other, args.precision, plan.pictures, plan.ports.input)
        print(f"{args.precision}: {said['conversion']}")
        other.replace(path)
        session = open_session(path)  # which fails here, not at a user's, where the runtime can't take it
        if args.evaluate and plan.evaluate:
            found = said[args.precision] = plan.evaluate(session)
            lost = {key: said["fp32"][key] - found[key] for key in found if key.endswith(MEASURED)}
            said["loss"] = lost
            print(f"{args.precision}: {_headline(found)}; lost: {_headline(lost)}")
        else:
            print(
                f"what {args.precision} costs was not measured; --evaluate data.root=... does on a task's validation data"
            )
    (folder / Path(name).with_suffix(".json")).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


def _headline(numbers: dict[str, float]) -> str:
    return ", ".join(f"{key} {100 * value:.1f}" for key, value in numbers.items() if key.endswith(MEASURED))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit status."""
    from convmae.engine.commands.cli import add_overrides, run_tool

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
        metavar="KEY=VALUE",
        help="measure the graph on validation data that these options of the recipe name, as data.root=data/coco",
    )
    add("--img-size", metavar="SIZE", help="fix height and width of an encoder, as 224 or 480x640 (default: any)")
    add("--opset", type=int, choices=OPSETS, default=OPSETS[0], help=f"ONNX operators (default {OPSETS[0]})")
    add("--overwrite", action="store_true", help="replace the output if it is there")
    args = parser.parse_args(argv)

    def run() -> None:
        from convmae.engine.errors import UserError
        from convmae.engine.files import check_is_file, file_of

        check_is_file(args.weights)
        output = args.output or file_of(args.weights).with_suffix(".onnx")
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
