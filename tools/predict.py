"""Draw what a trained model finds on pictures, a video or a camera's, and write it in its data set's format.

python tools/predict.py det work_dirs/mask_rcnn_convmae_25e/model.pth picture.jpg data/images --output predictions
python tools/predict.py det work_dirs/mask_rcnn_convmae_25e/model.pth test2017 --annotations image_info_test-dev2017.json
python tools/predict.py det work_dirs/mask_rcnn_convmae_25e/model.pth aerial.tif --tile 1024 --overlap 0.2
python tools/predict.py det work_dirs/mask_rcnn_convmae_25e/model.pth clip.mp4
python tools/predict.py seg work_dirs/upernet_convmae_160k_ade20k/model.pth picture.jpg data/images --output predictions
python tools/predict.py cls work_dirs/finetune_convmae_base_100e/model.pth data/images --top 5

det writes a drawing of each picture, and detections.json, a COCO data set whose annotations have a score. With --annotations
pictures and ids are those of a COCO file, annotated or not, and results_bbox.json and results_segm.json have the rows that
COCO's servers take, down to the recipe's model.score_threshold (--score-threshold 0: the 100 best of each picture); drawn are
those of confidence 0.5 or more. seg writes overlays/, labels/ (PNG, one class index a pixel as in the label maps that it was
trained on: from 1 where 0 means other), and the classes with their colours as legend.png and legend.json. cls writes the most
probable classes as classes.json and classes.csv. The exit status is 1 if a picture could not be read; the others are done.

Of a video, or of the camera of a number (0 is the first), drawings become one video, and its frames are named by their number,
from 0: clip.mp4#0. Ctrl-C ends it after a frame, as the end of the video does.
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time to read
    import convmae.tools.starting  # noqa: F401

import argparse
import inspect
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convmae.engine.commands.cli import run_tool
from convmae.engine.commands.parsers import add_overrides
from convmae.engine.errors import UserError
from convmae.engine.machine.interrupts import reading_modules

if TYPE_CHECKING:
    from convmae.engine.pictures.images import Picture
    from convmae.models import Model
    from convmae.written import Files

THRESHOLD = 0.5
TASKS = {"det": "detection", "seg": "segmentation", "cls": "classification"}
RESULTS = {"det": "detections.json", "seg": "legend.json", "cls": "classes.json"}
Read = tuple[Path, Path, "Picture"]  # a picture's path, the name of its drawing, and the picture


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit status."""
    args = _parse(argv)
    unread = 0

    def run() -> None:
        nonlocal unread
        unread = _predict(args)

    return run_tool(run) or int(unread > 0)


def _predict(args: argparse.Namespace) -> int:
    """Predicts and writes; returns how many pictures could not be read."""
    from convmae.engine.files import check_is_file

    check_is_file(args.checkpoint)
    with reading_modules():
        from convmae.engine.commands.given_pictures import check_free, find_pictures, name_drawings, read_pictures
        from convmae.engine.pictures.images import read_image
        from convmae.engine.pictures.videos import is_video
        from convmae.models import open_model

    main_file = args.output / RESULTS[args.task]
    check_free([main_file], args.overwrite)
    options, overrides = _options(args)
    model = open_model(args.checkpoint, args.config, [*overrides, f"runtime.device={args.device}"], TASKS[args.task])
    reading = model.reading
    if any(map(is_video, args.pictures)):
        return _predict_video(args, model, options, main_file)
    if args.task == "det":
        pictures = _det_pictures(args, model)
        names, read = name_drawings(pictures.names, args.output), pictures.read
        files = _files(args, model, pictures)
    else:
        names = name_drawings(find_pictures(args.pictures), args.output)
        files = _files(args, model)
        read = lambda path: read_image(path, reading)  # noqa: E731
    check_free(files.files(names.values()), args.overwrite)
    _announce(args, model, f"{len(names)} pictures")
    done = 0
    for path, name, image, result in _results(model, read_pictures(names, read), args.batch_size, options):
        files.add(path, name, image, result)
        done += 1
    unread = len(names) - done
    drawings = [f"{done} pictures in {args.output}"] * (not args.no_drawings)
    _tell(*files.finish(main_file), f"{done} pictures" + f"; {unread} could not be read" * (unread > 0), drawings)
    return unread


def _predict_video(args: argparse.Namespace, model: Any, options: dict[str, Any], main_file: Path) -> int:
    """As for pictures; the drawings are a video. Raises UserError once all is written, if the video ended early."""
    from convmae.detection.predict import Given
    from convmae.engine.commands.given_pictures import check_free
    from convmae.engine.machine.stop_signals import stop_signals
    from convmae.engine.pictures.videos import Video, VideoWriter

    if len(args.pictures) > 1:
        raise UserError(f"found {len(args.pictures)} inputs with a video among them; expected one video, or pictures.")
    if getattr(args, "annotations", None):
        raise UserError("--annotations lists pictures; expected a folder of these, not a video.")
    if model.reading.channels != 3:
        raise UserError(f"the model takes {model.reading.channels} channels; a video's pictures have 3, RGB.")
    name = str(args.pictures[0])
    files = _files(args, model, Given({}, list(model.categories)) if args.task == "det" else None, to_video=True)
    drawn = args.output / (f"{Path(name).stem}.mp4" if not name.isdigit() else f"camera{name}.mp4")
    check_free([*files.files([]), drawn] if not args.no_drawings else files.files([]), args.overwrite)
    problems: list[Exception] = []
    done = 0
    with Video(name) as video, VideoWriter(drawn, video.rate) as writer:
        _announce(args, model, f"{video.frames} frames" if video.frames else "frames until it ends (Ctrl-C ends it)")
        frames = _frames(video.read(args.frames), name, video.frames, problems)
        with stop_signals("this frame") as stop:  # not between what is written of one
            for path, frame, image, result in _results(model, frames, args.batch_size, options):
                files.add(path, frame, image, result)
                if not args.no_drawings:
                    writer.add(files.draw(result))
                done += 1
                if stop.is_set():
                    break
    if done:
        _tell(*files.finish(main_file), f"{done} frames", [str(drawn)] * (not args.no_drawings))
    if problems:
        raise problems[0]
    return 0


def _frames(images: Iterator[Picture], name: str, count: int, problems: list[Exception]) -> Iterator[Read]:
    """Yields frames with their numbers; what is wrong with the video is told once all there are were yielded."""
    from tqdm import tqdm

    try:
        for number, image in enumerate(tqdm(images, total=count or None, disable=None)):
            frame = Path(f"{name}#{number}")
            yield frame, Path(f"{number:06d}.png"), image
    except UserError as error:
        problems.append(error)


def _results(
    model: Model[Any], read: Iterable[Read], batch_size: int, options: dict[str, Any]
) -> Iterator[tuple[Path, Path, Picture, Any]]:
    """Yields each picture with what was found on it."""
    waiting: deque[Read] = deque()

    def given() -> Iterator[Picture]:
        for one in read:
            waiting.append(one)
            yield one[2]

    for result in model.stream(given(), batch_size=batch_size, **options):
        yield (*waiting.popleft(), result)


def _options(args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Returns the options of ``predict``, and those of the recipe."""
    overrides = list(args.cfg_options)
    if args.task != "det":
        return {}, overrides
    threshold = args.score_threshold if args.score_threshold is not None or args.annotations else THRESHOLD
    if threshold is not None:
        if not 0 <= threshold <= 1:
            raise UserError(f"--score-threshold is {threshold:g}; expected 0 to 1.")
        overrides.append(f"model.score_threshold={threshold}")
    return {"tile": args.tile, "overlap": args.overlap}, overrides


def _det_pictures(args: argparse.Namespace, model: Any) -> Any:
    from convmae.detection.predict import Given, Listed
    from convmae.engine.commands.given_pictures import find_pictures
    from convmae.engine.shards.places import place

    categories = list(model.categories)
    if not args.annotations:
        return Given(find_pictures(args.pictures), categories, model.reading)
    given = [place(one) for one in args.pictures]
    if len(given) != 1 or not given[0].is_dir():
        raise UserError(
            f"With --annotations, {given[0]} should be the folder that holds the pictures; expected one folder."
        )
    return Listed(args.annotations, given[0], categories, model.reading)


def _files(args: argparse.Namespace, model: Any, pictures: Any = None, to_video: bool = False) -> Files:
    from convmae.written import ClassFiles, DetectionFiles, LabelFiles

    drawings = not args.no_drawings and not to_video
    if args.task == "det":
        return DetectionFiles(args.output, pictures, model.config.model.masks, bool(args.annotations), drawings)
    if args.task == "seg":
        return LabelFiles(args.output, model.classes, model.first, drawings)
    return ClassFiles(args.output, args.top, drawings)


def _announce(args: argparse.Namespace, model: Model[Any], what: str) -> None:
    from convmae.engine.options import describe_views

    views = ""
    if args.task == "det":
        inference = model.config.inference
        views = f"; views: {describe_views(inference.scales, inference.flip)}"
    print(f"{args.checkpoint}: {len(model.classes)} classes, {what}, on {model.device}{views}")


def _tell(found: str, written: list[str], on: str, drawings: list[str]) -> None:
    print(f"{found} on {on}")
    print(f"written: {', '.join(written + drawings)}")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=inspect.cleandoc(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    det = tasks.add_parser("det", help="boxes and masks by Mask R-CNN")
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
    det.add_argument(
        "--tile",
        type=_count,
        metavar="PIXELS",
        help="look at larger pictures in squares of this side, and put together what lies across their borders",
    )
    det.add_argument(
        "--overlap", type=float, default=0.2, help="part of a tile's side that its neighbours show too (default 0.2)"
    )
    seg = tasks.add_parser("seg", help="a class for each pixel by UPerNet")
    _add_arguments(seg, "a segmenter's weights, such as a run's model.pth", "inference.flip=true")
    cls = tasks.add_parser("cls", help="the classes of whole pictures")
    _add_arguments(cls, "a classifier's weights, such as a run's model.pth", "data.test_crop=1")
    cls.add_argument("--top", type=_count, default=5, help="classes that are written of each picture (default 5)")
    return parser.parse_args(argv)


def _add_arguments(parser: argparse.ArgumentParser, weights: str, example: str) -> None:
    parser.add_argument("checkpoint", type=Path, help=weights)
    parser.add_argument(
        "pictures", type=Path, nargs="+", help="pictures, or folders of them; or one video, or a camera's number"
    )
    parser.add_argument(
        "--config", help="its recipe (default: the run's config.yaml beside it, or what stands in the weights)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("predictions"), help="the folder to write (default predictions)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace earlier predictions there")
    parser.add_argument("--no-drawings", action="store_true", help="write what was found alone")
    parser.add_argument("--batch-size", type=_count, default=1, help="pictures computed at a time (default 1)")
    parser.add_argument("--frames", type=_count, default=0, help="frames of a video after which to end (default: all)")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute (default auto)"
    )
    add_overrides(parser, example)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
