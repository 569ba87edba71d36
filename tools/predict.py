"""Draw what a trained model finds on pictures, and write it in its data set's format.

python tools/predict.py det work_dirs/mask_rcnn_convmae_25e/model.pth picture.jpg data/images --output predictions
python tools/predict.py det work_dirs/mask_rcnn_convmae_25e/model.pth test2017 --annotations image_info_test-dev2017.json
python tools/predict.py seg work_dirs/upernet_convmae_160k_ade20k/model.pth picture.jpg data/images --output predictions

det writes a drawing of each picture, and detections.json, a COCO data set whose annotations have a score. With --annotations
pictures and ids are those of a COCO file, annotated or not, and results_bbox.json and results_segm.json have the rows that
COCO's servers take, down to the recipe's model.score_threshold (--score-threshold 0: the 100 best of each picture); drawn are
those of confidence 0.5 or more. seg writes overlays/, labels/ (PNG, one class index a pixel as in the label maps that it was
trained on: from 1 where 0 means other), and the classes with their colours as legend.png and legend.json. The exit status is 1
if a picture could not be read; the others are done.
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time to read
    import convmae.tools.starting  # noqa: F401

import argparse
import inspect
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from convmae.detection.config import DetectionConfig
from convmae.engine.commands.cli import add_overrides, run_tool
from convmae.engine.commands.given_pictures import check_free, find_pictures, name_drawings, read_pictures, save_picture
from convmae.engine.config import run_config
from convmae.engine.errors import UserError
from convmae.engine.files import check_is_file, write_whole
from convmae.engine.machine.interrupts import reading_modules
from convmae.engine.options import describe_views
from convmae.engine.pictures.images import as_rgb, read_image
from convmae.segmentation.config import SegmentationConfig

THRESHOLD = 0.5


class Done(NamedTuple):
    """What a tool found, on how many pictures, how many could not be read, and what was written."""

    what: str
    pictures: int
    unread: int
    written: str


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit status."""
    parser = argparse.ArgumentParser(
        description=inspect.cleandoc(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    det = tasks.add_parser("det", help="boxes and masks by Mask R-CNN")
    det.set_defaults(predict=detect, results="detections.json")
    _add_arguments(det, "a detector's weights, such as a run's model.pth", "data.img_size=800")
    det.add_argument(
        "--annotations",
        type=Path,
        metavar="JSON",
        help="a COCO file that lists the pictures in the folder, for rows with its ids; what it says of objects is not read",
    )
    det.add_argument(
        "--score-threshold",
        type=float,
        help=f"detections of less confidence are dropped (default {THRESHOLD:g}; with --annotations the recipe's)",
    )
    det.add_argument("--no-drawings", action="store_true", help="write the detections alone")
    seg = tasks.add_parser("seg", help="a class for each pixel by UPerNet")
    seg.set_defaults(predict=segment, results="legend.json")
    _add_arguments(seg, "a segmenter's weights, such as a run's model.pth", "inference.flip=true")
    args = parser.parse_args(argv)
    unread = 0

    def run() -> None:
        nonlocal unread
        check_is_file(args.checkpoint)
        results = args.output / args.results
        check_free([results], args.overwrite)
        done = args.predict(args, results)
        unread = done.unread
        print(f"{done.what} on {done.pictures} pictures" + (f"; {unread} could not be read" if unread else ""))
        print(f"written: {done.written}")

    return run_tool(run) or int(unread > 0)


def detect(args: argparse.Namespace, results: Path) -> Done:
    """Draws and writes the detections."""
    threshold = args.score_threshold if args.score_threshold is not None or args.annotations else THRESHOLD
    if threshold is not None and not 0 <= threshold <= 1:
        raise UserError(f"--score-threshold is {threshold:g}; expected 0 to 1.")
    with reading_modules():
        from convmae.detection.evaluation.rated_pictures import confident, draw_detections
        from convmae.detection.predict import Given, Listed, Predictor, as_coco, as_results

    config = run_config(DetectionConfig, args.checkpoint, args.config, args.cfg_options)
    config.runtime.device = args.device
    if threshold is not None:
        config.model.score_threshold = threshold
    detector, reading = Predictor(config, args.checkpoint), config.data.reading(config.model.in_chans)
    if args.annotations:
        pictures: Listed | Given = Listed(args.annotations, _folder(args.pictures), detector.categories, reading)
    else:
        pictures = Given(find_pictures(args.pictures), detector.categories, reading)
    names = name_drawings(pictures.names, args.output)
    kinds = (("bbox", "bbox"), ("segm", "segmentation"))[: 1 + config.model.masks] if args.annotations else ()
    rows = {args.output / f"results_{what}.json": kind for what, kind in kinds}
    drawn = () if args.no_drawings else [args.output / name for name in names.values()]
    check_free([*rows, *drawn], args.overwrite)
    views = describe_views(config.inference.scales, config.inference.flip)
    print(
        f"{args.checkpoint}: {len(detector.categories)} classes, {len(names)} pictures, on {detector.device}; views: {views}"
    )
    images, predictions, done = [], [], 0
    for path, name, image in read_pictures(names, pictures.read):
        found, done = detector(image), done + 1
        for record in pictures.records(path, image):
            images.append(record)
            predictions.append({**found, "image_id": record.id})
        if not args.no_drawings:
            shown = confident(found) if args.annotations else found
            save_picture(draw_detections(as_rgb(image), shown, detector.categories), args.output / name)
    whole = as_coco(images, predictions, pictures.categories)
    write_whole(results, json.dumps(whole))
    written = [str(results)]
    for path, kind in rows.items():
        written.append(str(path))
        write_whole(path, json.dumps(as_results(whole["annotations"], kind)))
    drawings = [] if args.no_drawings else [f"{done} pictures in {args.output}"]
    return Done(f"{len(whole['annotations'])} detections", done, len(names) - done, ", ".join(written + drawings))


def segment(args: argparse.Namespace, results: Path) -> Done:
    """Draws and writes the label maps and their legend."""
    with reading_modules():
        import numpy as np

        from convmae.reports.drawing import draw_labels, legend
        from convmae.segmentation.predict import Predictor

    config = run_config(SegmentationConfig, args.checkpoint, args.config, args.cfg_options)
    config.runtime.device = args.device
    names = name_drawings(find_pictures(args.pictures), args.output)
    overlays, maps, key = args.output / "overlays", args.output / "labels", args.output / "legend.png"
    drawn = [path for name in names.values() for path in (overlays / name, maps / name.with_suffix(".png"))]
    check_free([key, *drawn], args.overwrite)
    segmenter = Predictor(config, args.checkpoint)
    print(f"{args.checkpoint}: {len(segmenter.classes)} classes, {len(names)} pictures, on {segmenter.device}")
    done, found, reading = 0, set[int](), config.data.reading(config.model.in_chans)
    for _, name, image in read_pictures(names, partial(read_image, reading=reading)):
        labels = segmenter(image)
        save_picture(draw_labels(as_rgb(image), labels, segmenter.colours), overlays / name)
        save_picture(segmenter.label_map(labels), maps / name.with_suffix(".png"))
        done, found = done + 1, found | set(np.unique(labels).tolist())
    save_picture(legend(segmenter.classes, segmenter.colours), key)
    rows = [
        json.dumps({"index": index, "name": name, "color": colour})
        for index, (name, colour) in enumerate(zip(segmenter.classes, segmenter.colours, strict=True), segmenter.first)
    ]
    write_whole(results, "[\n" + ",\n".join(rows) + "\n]\n")
    return Done(f"{len(found)} classes", done, len(names) - done, f"{results} and {done} pictures in {args.output}")


def _folder(given: Sequence[Path]) -> Path:
    """Returns the folder of the pictures that a COCO file lists."""
    if len(given) != 1 or not given[0].is_dir():
        raise UserError(
            f"With --annotations, {given[0]} should be the folder that holds the pictures; expected one folder."
        )
    return given[0]


def _add_arguments(parser: argparse.ArgumentParser, weights: str, example: str) -> None:
    parser.add_argument("checkpoint", type=Path, help=weights)
    parser.add_argument("pictures", type=Path, nargs="+", help="pictures, or folders of them")
    parser.add_argument(
        "--config", help="its recipe (default: the run's config.yaml beside it, or what stands in the weights)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("predictions"), help="the folder to write (default predictions)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace earlier predictions there")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute (default auto)"
    )
    add_overrides(parser, example)


if __name__ == "__main__":
    sys.exit(main())
