"""Draw what a trained model finds on pictures, and write it in its data set's format.

python tools/predict.py det work_dirs/mask_rcnn_convmae_25e/model.pth picture.jpg data/images --output predictions
python tools/predict.py seg work_dirs/upernet_convmae_160k_ade20k/model.pth picture.jpg data/images --output predictions

det writes a drawing of each picture, and detections.json, a COCO data set whose annotations have a score. seg writes
overlays/, labels/ (PNG, one class index a pixel as in the label maps that it was trained on: from 1 where 0 means other), and
the classes with their colours as legend.png and legend.json. The exit status is 1 if a picture could not be read; the others
are done.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from convmae.detection.config import DetectionConfig
from convmae.detection.pictures import draw_detections
from convmae.detection.predict import Predictor as Detector
from convmae.detection.predict import as_coco
from convmae.detection.records import ImageRecord
from convmae.engine.cli import add_overrides, run_tool
from convmae.engine.config import run_config
from convmae.engine.drawing import draw_labels, legend
from convmae.engine.errors import UserError
from convmae.engine.files import check_is_file, write_whole
from convmae.engine.images import as_rgb, size_of
from convmae.engine.prediction import name_drawings, read_pictures, save_picture
from convmae.segmentation.config import SegmentationConfig
from convmae.segmentation.predict import Predictor as Segmenter

THRESHOLD = 0.5


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
        "--score-threshold",
        type=float,
        default=THRESHOLD,
        help=f"detections of less confidence are dropped (default {THRESHOLD:g})",
    )
    seg = tasks.add_parser("seg", help="a class for each pixel by UPerNet")
    seg.set_defaults(predict=segment, results="legend.json")
    _add_arguments(seg, "a segmenter's weights, such as a run's model.pth", "inference.flip=true")
    args = parser.parse_args(argv)
    unread = 0

    def run() -> None:
        nonlocal unread
        check_is_file(args.checkpoint)
        names = name_drawings(args.pictures, args.output)
        results = args.output / args.results
        if results.exists() and not args.overwrite:
            raise UserError(f"{results} is there already: give another --output, or --overwrite.")
        done, what = args.predict(args, names, results)
        unread = len(names) - done
        print(f"{what} on {done} pictures" + (f"; {unread} could not be read" if unread else ""))
        print(f"written: {results} and {done} pictures in {args.output}")

    return run_tool(run) or int(unread > 0)


def detect(args: argparse.Namespace, names: dict[Path, Path], results: Path) -> tuple[int, str]:
    """Draws and writes the detections; returns on how many pictures, and what was found."""
    if not 0 <= args.score_threshold <= 1:
        raise UserError(f"--score-threshold is {args.score_threshold:g}; expected 0 to 1.")
    config = run_config(DetectionConfig, args.checkpoint, args.config, args.cfg_options)
    config.model.score_threshold, config.runtime.device = args.score_threshold, args.device
    detector = Detector(config, args.checkpoint)
    print(f"{args.checkpoint}: {len(detector.categories)} classes, {len(names)} pictures, on {detector.device}")
    images, predictions = [], []
    for number, (path, name, image) in enumerate(read_pictures(names, config.data.reading(config.model.in_chans)), 1):
        images.append(ImageRecord(number, str(path), *size_of(image)))
        predictions.append(detector(image, number))
        save_picture(draw_detections(as_rgb(image), predictions[-1], detector.categories), args.output / name)
    write_whole(results, json.dumps(as_coco(images, predictions, detector.categories)))
    return len(images), f"{sum(len(one['scores']) for one in predictions)} detections"


def segment(args: argparse.Namespace, names: dict[Path, Path], results: Path) -> tuple[int, str]:
    """Draws and writes the label maps and their legend; returns on how many pictures, and what was found."""
    config = run_config(SegmentationConfig, args.checkpoint, args.config, args.cfg_options)
    config.runtime.device = args.device
    segmenter = Segmenter(config, args.checkpoint)
    print(f"{args.checkpoint}: {len(segmenter.classes)} classes, {len(names)} pictures, on {segmenter.device}")
    done, found = 0, set[int]()
    for _, name, image in read_pictures(names, config.data.reading(config.model.in_chans)):
        labels = segmenter(image)
        save_picture(draw_labels(as_rgb(image), labels, segmenter.colours), args.output / "overlays" / name)
        save_picture(segmenter.label_map(labels), args.output / "labels" / name.with_suffix(".png"))
        done, found = done + 1, found | set(np.unique(labels).tolist())
    save_picture(legend(segmenter.classes, segmenter.colours), args.output / "legend.png")
    rows = [
        json.dumps({"index": index, "name": name, "color": colour})
        for index, (name, colour) in enumerate(zip(segmenter.classes, segmenter.colours, strict=True), segmenter.first)
    ]
    write_whole(results, "[\n" + ",\n".join(rows) + "\n]\n")
    return done, f"{len(found)} classes"


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
