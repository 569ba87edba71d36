"""The options of each comparison, apart from what it imports, so that help and mistakes are answered at once."""

from __future__ import annotations

import argparse
from pathlib import Path

from convmae.benchmarks.bench_start import TOOLS
from convmae.engine.commands.parsers import add_overrides
from convmae.engine.options import SIZES

# What each comparison has, by name; `tests/benchmarks/test_options.py` holds that it is what its module has.
METHODS = ("convmae", "fastconvmae")
MODES = ("forward", "step")
TABLES = {
    "detection": ("comparison", "growth", "detector"),
    "segmentation": ("comparison", "growth", "segmenter", "counting"),
    "steps": ("kernels", "graphs", "waits", "errors"),
}
FRAMEWORKS = ("mmdet", "detectron2")
DETECTORS = ("tiny", "base")
ITEMS = (
    "machine", "right", "kernels", "detection", "pretrain", "segmentation", "inference", "tasks", "compiled", "tuning",
    "loading", "small",
)  # fmt: skip
FIXTURES = Path(__file__).resolve().parents[1] / "tests" / "data"


def _encoder(parser: argparse.ArgumentParser, pixels: list[int], tables: tuple[str, ...]) -> None:
    """Adds what both encoders' comparisons have, with the sides and the tables that are the default."""
    sides = " ".join(map(str, pixels))
    parser.add_argument("--size", choices=SIZES, default="base", help="size of the encoder (default base)")
    parser.add_argument(
        "--pixels", nargs="+", type=int, default=pixels, help=f"sides, multiples of 16 (default {sides})"
    )
    parser.add_argument("--batch", type=int, default=1, help="pictures a step (default 1)")
    parser.add_argument("--mode", nargs="+", choices=MODES, default=list(MODES), help="default: both")
    parser.add_argument(
        "--precision", nargs="+", choices=("fp32", "bf16", "fp16"), default=["fp32", "bf16"], help="default: fp32 bf16"
    )
    parser.add_argument(
        "--growth",
        nargs="+",
        type=int,
        default=[512, 1024, 1536, 2048],
        metavar="PIXELS",
        help="sides for the table of growth (default 512 1024 1536 2048)",
    )
    parser.add_argument("--tables", nargs="+", choices=tables, default=list(tables), help="default: all")
    parser.add_argument(
        "--checkpoint-activations", action="store_true", help="as runtime.checkpoint_activations, of the shipped form"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")


def pretrain(parser: argparse.ArgumentParser) -> None:
    """Adds the options of pretraining steps."""
    parser.add_argument("--size", choices=SIZES, default="base", help="size of the encoder (default base)")
    parser.add_argument("--img-size", type=int, default=224, help="pixels, a multiple of 16 (default 224)")
    parser.add_argument("--batch-size", type=int, default=8, help="images a step (default 8)")
    parser.add_argument("--method", nargs="+", choices=METHODS, default=list(METHODS), help="default: both")
    parser.add_argument(
        "--precision", nargs="+", choices=("fp32", "bf16", "fp16"), default=["fp32", "bf16"], help="default: fp32 bf16"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")


def detection(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the detection encoder."""
    _encoder(parser, [1024], TABLES["detection"])
    parser.add_argument("--window", type=int, default=16, help="tokens a side (default 16, as the released weights)")


def segmentation(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the segmentation encoder and mIoU's counts."""
    _encoder(parser, [512, 1024], TABLES["segmentation"])
    parser.add_argument("--map", type=int, default=2000, help="pixels a side of the label maps (default 2000)")


def evaluation(parser: argparse.ArgumentParser) -> None:
    """Adds the options of COCO's evaluation."""
    parser.add_argument("--pictures", type=int, default=2000, help="how many (default 2000)")
    parser.add_argument("--classes", type=int, default=80, help="how many (default 80)")
    parser.add_argument("--objects", type=int, default=7, help="of each picture (default 7, as in COCO)")
    parser.add_argument("--detections", type=int, default=100, help="of each picture (default 100)")
    parser.add_argument(
        "--kinds", nargs="+", choices=("bbox", "segm"), default=["bbox", "segm"], help="boxes, masks (default both)"
    )
    parser.add_argument("--intervals", action="store_true", help="time the intervals of AP, too")


def frameworks(parser: argparse.ArgumentParser) -> None:
    """Adds the options of one detector in three frameworks."""
    parser.add_argument("weights", type=Path, help="a detector of this project: a run's model.pth")
    parser.add_argument(
        "--frameworks",
        nargs="+",
        choices=FRAMEWORKS,
        help="which have to be there (default: both, and one that is absent is said to be)",
    )
    parser.add_argument("--config", help="recipe of the weights (default: that of their run)")
    add_overrides(parser, "data.root=data/coco")


def views(parser: argparse.ArgumentParser) -> None:
    """Adds the options of FastConvMAE's views."""
    parser.add_argument("folder", type=Path, help="folder of pictures")
    parser.add_argument("--size", choices=SIZES, default="tiny", help="size of the encoder (default tiny)")
    parser.add_argument("--img-size", type=int, default=96, help="pixels (default 96)")
    parser.add_argument("--batch-size", type=int, default=32, help="pictures a step (default 32)")
    parser.add_argument(
        "--teachers",
        nargs="+",
        default=["ema", "vit_tiny_patch16_224", "deit_tiny_patch16_224"],
        help="of the second row, in place of pixels (default: ema and two of timm's that are as large as the tiny student)",
    )
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="fp32", help="default fp32")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default auto")


def start(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the tools' help."""
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=TOOLS, help="default: all")


def loading(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the loading of pictures."""
    parser.add_argument("folder", nargs="?", type=Path, help="pictures (default: generated JPEG files of 500 x 375)")
    parser.add_argument("--pictures", type=int, default=400, help="how many are generated (default 400)")
    parser.add_argument("--img-size", type=int, default=224, help="side of the crops in pixels (default 224)")
    parser.add_argument("--batch-size", type=int, default=32, help="pictures a batch (default 32)")
    parser.add_argument("--workers", type=int, default=2, help="loader processes (default 2)")
    parser.add_argument(
        "--shards",
        nargs="+",
        type=int,
        default=[],
        metavar="PIXELS",
        help="time shards against the folder in place of that, pictures cut to a long side of so many pixels (0: as they are)",
    )


def predict(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `predict`."""
    parser.add_argument("folder", type=Path, help="folder of pictures")
    parser.add_argument("--sizes", nargs="+", choices=DETECTORS, default=list(DETECTORS), help="default tiny base")
    parser.add_argument("--img-size", type=int, default=1024, help="pixels of a picture's long side (default 1024)")
    parser.add_argument("--batch-size", type=int, default=1, help="pictures at a time (default 1)")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="fp32", help="default fp32")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default auto")


def onnx(parser: argparse.ArgumentParser) -> None:
    """Adds the options of graphs in onnxruntime."""
    parser.add_argument("weights", type=Path, help="a detector or segmenter of this project: a run's model.pth")
    parser.add_argument("pictures", nargs="?", type=Path, help="folder of pictures (default: drawn ones)")
    parser.add_argument("--config", help="recipe of the weights (default: that of their run)")
    add_overrides(parser, "model.score_threshold=0.3")


def gpu(parser: argparse.ArgumentParser) -> None:
    """Adds the options of all on a GPU."""
    parser.add_argument(
        "--items",
        nargs="+",
        default=["*"],
        metavar="ITEM",
        help=f"patterns of what to run, an item or item/case as 'pretrain/ConvMAE*' (default all: {', '.join(ITEMS)})",
    )
    parser.add_argument(
        "--budget",
        type=float,
        default=440,
        help="seconds that all of it may take, but for the process's start (default 440)",
    )
    parser.add_argument("--data", type=Path, help="a folder of real data sets (default: generated scenes)")
    parser.add_argument("--fixtures", type=Path, default=FIXTURES, help="the published outputs (default tests/data)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    parser.add_argument("--resume", action="store_true", help="go on with --output: what it holds is not run again")
    parser.add_argument("--times", type=Path, help="the file of an earlier run: cases are expected to take as long")
    parser.add_argument("--report", type=Path, metavar="PAGE", help="draw a Markdown page instead of measuring")
    parser.add_argument("--read", type=Path, nargs="+", default=[], metavar="FILE", help="the files for --report")


def steps(parser: argparse.ArgumentParser) -> None:
    """Adds the options of what is counted of a step."""
    parser.add_argument(
        "--tables", nargs="+", choices=TABLES["steps"], default=list(TABLES["steps"]), help="default: all"
    )
    parser.add_argument(
        "--only",
        default="",
        metavar="TEXT",
        help="models and forms of attention whose name has this text (default: all)",
    )
