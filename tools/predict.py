"""Draw what a trained model finds on pictures, and write it as JSON.

python tools/predict.py det work_dirs/mask_rcnn_convmae_25e/model.pth picture.jpg data/images --output predictions

A drawn picture is written for each one, and detections.json, a COCO data set whose annotations have a score. The exit status is
1 if a picture could not be read; the others are done.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from convmae.detection.pictures import draw_detections
from convmae.detection.predict import Predictor, as_coco, run_config
from convmae.detection.records import ImageRecord
from convmae.engine.cli import run_tool
from convmae.engine.errors import UserError
from convmae.engine.files import write_whole
from convmae.engine.images import list_images, read_image

RESULTS = "detections.json"
THRESHOLD = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit status."""
    parser = argparse.ArgumentParser(
        description=inspect.cleandoc(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    det = tasks.add_parser("det", help="boxes and masks by Mask R-CNN")
    det.add_argument("checkpoint", type=Path, help="a detector's weights, such as a run's model.pth")
    det.add_argument("pictures", type=Path, nargs="+", help="pictures, or folders of them")
    det.add_argument(
        "--config", help="its recipe (default: the run's config.yaml beside it, or what stands in the weights)"
    )
    det.add_argument(
        "--output", type=Path, default=Path("predictions"), help="the folder to write (default predictions)"
    )
    det.add_argument("--overwrite", action="store_true", help="replace earlier predictions there")
    det.add_argument(
        "--score-threshold",
        type=float,
        default=THRESHOLD,
        help=f"detections of less confidence are dropped (default {THRESHOLD:g})",
    )
    det.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute (default auto)"
    )
    args = parser.parse_args(argv)
    unread = 0

    def run() -> None:
        nonlocal unread
        unread = detect(args)

    return run_tool(run) or int(unread > 0)


def detect(args: argparse.Namespace) -> int:
    """Predicts on all pictures and returns how many could not be read."""
    if not args.checkpoint.is_file():
        raise UserError(f"There is no checkpoint {args.checkpoint}.")
    if not 0 <= args.score_threshold <= 1:
        raise UserError(f"--score-threshold is {args.score_threshold:g}; expected 0 to 1.")
    targets = name_drawings(args.pictures, args.output)
    results = args.output / RESULTS
    if results.exists() and not args.overwrite:
        raise UserError(f"{results} is there already: give another --output, or --overwrite.")
    config = run_config(args.checkpoint, args.config)
    config.model.score_threshold, config.runtime.device = args.score_threshold, args.device
    predictor = Predictor(config, args.checkpoint)
    print(f"{args.checkpoint}: {len(predictor.categories)} classes, {len(targets)} pictures, on {predictor.device}")
    images, predictions, unread = [], [], 0
    for number, (path, target) in enumerate(tqdm(targets.items(), disable=None), 1):
        try:
            image = read_image(path)
        except UserError as error:
            tqdm.write(f"error: {error}", file=sys.stderr)
            unread += 1
            continue
        images.append(ImageRecord(number, str(path), image.width, image.height))
        predictions.append(predictor(image, number))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            draw_detections(image, predictions[-1], predictor.categories).save(target)
        except OSError as error:
            raise UserError(f"{target} can't be written: {error.strerror}. Give another place by --output.") from None
    write_whole(results, json.dumps(as_coco(images, predictions, predictor.categories)))
    found = sum(len(one["scores"]) for one in predictions)
    print(f"{found} detections on {len(images)} pictures" + (f"; {unread} could not be read" if unread else ""))
    print(f"written: {results} and {len(images)} pictures in {args.output}")
    return unread


def name_drawings(given: Sequence[Path], output: Path) -> dict[Path, Path]:
    """Returns for each picture where its drawing goes: under its name, or its place in the folder that was given.

    Raises UserError where a drawing could take the place of a picture.
    """
    targets: dict[Path, Path] = {}
    taken: set[Path] = set()
    for top in given:
        for path in list_images(top) if top.is_dir() else [top]:
            if path.resolve().is_relative_to(output.resolve()):
                raise UserError(f"{path} lies in {output}, where the drawings go; give another folder by --output.")
            name = path.relative_to(top) if top.is_dir() else Path(path.name)
            target = output / name.with_suffix(".jpg" if name.suffix.lower() in (".jpg", ".jpeg") else ".png")
            number = 2
            while target in taken:
                target = output / name.with_name(f"{name.stem}-{number}{target.suffix}")
                number += 1
            if path not in targets:
                taken.add(target)
                targets[path] = target
    return targets


if __name__ == "__main__":
    sys.exit(main())
