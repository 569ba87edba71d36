"""The whole path on generated scenes: pretrain FastConvMAE, train Mask R-CNN and UPerNet from it, write one report.

python tools/demo.py
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time to read
    import convmae.tools.starting  # noqa: F401

import argparse
import inspect
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convmae.detection.config import DetectionConfig
from convmae.engine.commands.cli import run_tool
from convmae.engine.commands.work_dirs import prepare_work_dir
from convmae.engine.config import load_config
from convmae.engine.errors import UserError
from convmae.engine.log import duration, log, start_log
from convmae.engine.machine.interrupts import reading_modules
from convmae.engine.options import ScheduleOptions
from convmae.engine.pictures.scenes import CLASSES, generate
from convmae.pretraining.config import PretrainingConfig
from convmae.segmentation.config import SegmentationConfig

if TYPE_CHECKING:
    from convmae.reports.page import Page

TRAIN, VAL, UNLABELLED, SIZE = 400, 60, 400, 128


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit status."""
    parser = argparse.ArgumentParser(
        description=inspect.cleandoc(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/demo"), help="default work_dirs/demo")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier demo there")
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "bf16"), default="auto", help="auto takes bf16 where it is fast"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes and of the runs")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="part of the scenes and steps to do, to try it out quickly (default 1)"
    )
    args = parser.parse_args(argv)
    return run_tool(lambda: run(args.work_dir, args.overwrite, args.precision, args.device, args.seed, args.scale))


def run(work_dir: Path, overwrite: bool, precision: str, device: str, seed: int, scale: float) -> None:
    """Does the three runs one after another and writes ``report/index.html``."""
    if not 0 < scale <= 1:
        raise UserError(f"--scale is {scale:g}; expected more than 0 and at most 1.")
    with reading_modules():
        from convmae.detection.train import train as train_detection
        from convmae.engine.seeding import INIT, seed_all
        from convmae.pretraining.train import train as pretrain
        from convmae.segmentation.train import train as train_segmentation

    started = time.perf_counter()
    for part in ("pretraining", "detection", "segmentation"):
        prepare_work_dir(work_dir / part, False, overwrite)
    start_log(work_dir)
    scenes = generate(
        work_dir / f"scenes_{seed}_{scale:g}",
        train=max(4, round(TRAIN * scale)),
        val=max(2, round(VAL * scale)),
        unlabelled=round(UNLABELLED * scale),
        size=SIZE,
        seed=seed,
    )
    log.info(f"scenes: {scenes.images.parent} ({duration(time.perf_counter() - started)})")
    runtime = [f"runtime.precision={precision}", f"runtime.device={device}", f"runtime.seed={seed}"]
    init = f"model.init={work_dir / 'pretraining' / 'encoder.pth'}"
    pages: dict[str, Page] = {}
    times: dict[str, float] = {}
    parts: list[tuple[str, type, Callable[[Any, Path, bool], Page | None], list[str]]] = [
        ("pretraining", PretrainingConfig, pretrain, [f"data.root={scenes.images}"]),
        ("detection", DetectionConfig, train_detection, [f"data.root={scenes.coco}", init]),
        ("segmentation", SegmentationConfig, train_segmentation, [f"data.root={scenes.ade20k}", init]),
    ]
    for part, schema, function, overrides in parts:
        recipe = f"demo_{part}.yaml"
        config: Any = load_config(schema, recipe, [*runtime, *overrides])
        shorten(config.schedule, scale)
        log.info(f"\n{part}: {recipe}")
        seed_all(seed, INIT)
        begun = time.perf_counter()
        page = function(config, work_dir / part, False)
        assert page is not None  # one process
        pages[part] = page
        times[part] = time.perf_counter() - begun
    report = work_dir / "report" / "index.html"
    write_report(report, pages, times, time.perf_counter() - started, precision, device)
    log.info(f"\ndemo done in {duration(time.perf_counter() - started)}; the report: {report}")


def shorten(schedule: ScheduleOptions, scale: float) -> None:
    """Scales the length of a schedule given in steps."""
    assert schedule.steps is not None
    schedule.steps = max(1, round(schedule.steps * scale))
    schedule.warmup = min(schedule.warmup * scale, schedule.steps - 1)
    schedule.eval_every *= scale
    schedule.save_every *= scale


def write_report(
    path: Path, pages: dict[str, Page], times: dict[str, float], seconds: float, precision: str, device: str
) -> None:
    """Writes one page from those of the three runs."""
    from convmae.engine.machine.precision import precision_name, resolve_device, resolve_precision
    from convmae.reports.page import Number, Page, environment

    where = resolve_device(device)
    page = Page(
        "ConvMAE from pictures to reports", f"Generated scenes of {len(CLASSES)} shapes, everything trained here"
    )
    headline = ("box AP", "mask AP", "mIoU")
    numbers = [number for part in pages.values() for number in part.numbers if number.label in headline]
    precision = precision_name(resolve_precision(precision, where))
    page.headline([*numbers, Number("Time", duration(seconds), f"on {where}, in {precision}")])
    for part, text in (
        ("pretraining", "FastConvMAE learns from unlabelled pictures by reconstructing what it does not see."),
        ("detection", "Mask R-CNN starts from that encoder and is tested on scenes that neither run has seen."),
        ("segmentation", "UPerNet starts from the same encoder, on the same scenes in ADE20K's layout."),
    ):
        page.part(part.capitalize(), f"{text} {duration(times[part])}.")
        page.extend(pages[part])
    page.facts("Environment", environment())
    page.write(path)


if __name__ == "__main__":
    sys.exit(main())
