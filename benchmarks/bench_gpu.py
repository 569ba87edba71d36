"""Check and time all of the project on a GPU, in the order of worth, within a time; on a CPU at tiny sizes, as a trial.

Each row is printed and written to --output as soon as it is made, so a run that is ended keeps what it has; --resume goes on
with it. A measurement that fails is a row that says so, one that would overrun --budget is left out and named. Where a fault in
a kernel has cost the process its GPU, the rest runs in a new one.

--data names a folder that holds imagenet_mini, coco_mini and camvid_mini; generated scenes stand in for what is absent.
--report draws a page from the files of runs, and from that of `benchmark.py steps`, and measures nothing.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import shutil
import sys
import tempfile
import time
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from convmae.benchmarks.gpu import machine
from convmae.benchmarks.gpu.aims import judge
from convmae.benchmarks.gpu.battery import Battery, DeviceLost, Item, Setting
from convmae.benchmarks.gpu.report import draw
from convmae.engine.errors import UserError
from convmae.engine.files import write_whole
from convmae.engine.machine.precision import resolve_device


def _item(name: str, title: str, module: str, function: str = "cases") -> Item:
    return Item(
        name, title, lambda setting: getattr(import_module(f"convmae.benchmarks.gpu.{module}"), function)(setting)
    )


# In the order of worth.
ITEMS = (
    _item("machine", "Machine", "machine"),
    _item("right", "Is it right?", "agreement.right"),
    _item("kernels", "Kernels alone", "kernels"),
    _item("detection", "Detection", "steps", "detection"),
    _item("pretrain", "Pretraining", "steps", "pretraining"),
    _item("segmentation", "Segmentation", "steps", "segmentation"),
    _item("inference", "Inference", "feeding", "inference"),
    _item("tasks", "Tasks by the runner", "tasks"),
    _item("compiled", "Compiled", "steps", "compiled"),
    _item("tuning", "Attention's kernels to choose from", "attention", "tuning"),
    _item("loading", "Loading", "feeding", "loading"),
    _item("small", "A tiny model", "steps", "small"),
)


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Runs the items, or draws the page. Raises UserError for options that don't fit and files that can't be read."""
    if args.report:
        write_whole(args.report, draw([_read(path) for path in args.read], ITEMS))
        print(f"{args.report} drawn from {', '.join(map(str, args.read)) or 'nothing'}")
        return []
    chosen = [item for item in ITEMS if any(_names(pattern, item) for pattern in args.items)]
    if unknown := [pattern for pattern in args.items if not any(_names(pattern, item) for item in ITEMS)]:
        raise UserError(f"--items {unknown[0]}: expected some of {', '.join(item.name for item in ITEMS)}.")
    if not 0 <= args.budget < float("inf"):
        raise UserError(f"--budget {args.budget:g}: expected seconds.")
    if args.resume and not args.output:
        raise UserError("--resume goes on with the file that --output names; it names none.")
    if args.data and not args.data.is_dir():
        raise UserError(f"--data {args.data}: there is no such folder.")
    device = resolve_device(args.device)
    with tempfile.TemporaryDirectory() as scratch:
        setting = Setting(
            device=device,
            tiny=device.type == "cpu",
            repeats=args.repeats,
            data=args.data,
            fixtures=args.fixtures if args.fixtures.is_dir() else None,
            scratch=Path(scratch),
        )
        head = {
            "comparison": "gpu",
            "date": time.strftime("%Y-%m-%d"),
            "options": {name: value for name, value in vars(args).items() if name != "comparison"},
            "machine": machine.describe(device),
            "tiny": setting.tiny,
        }
        times = _read(args.times).get("cases", {}) if args.times else {}
        battery = Battery(setting, args.output, args.budget, head, times, args.resume)
        for item in chosen:
            torch.backends.cudnn.benchmark = (
                device.type == "cuda"
            )  # shapes are fixed; a runner's evaluation turns it off
            wanted = partial(_wanted, args.items, item.name)
            try:
                battery.run(item, partial(judge, item=item.name, full=not setting.tiny), wanted)
            except DeviceLost as error:
                _start_anew(args, battery, error)
        battery.close()
    return []


def _names(pattern: str, item: Item) -> bool:
    return fnmatch.fnmatch(item.name, pattern.partition("/")[0])


def _wanted(patterns: list[str], item: str, case: str) -> bool:
    pairs = (pattern.partition("/") for pattern in patterns)
    return any(fnmatch.fnmatch(item, name) and fnmatch.fnmatch(case, part or "*") for name, _, part in pairs)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}.") from None
    except ValueError:
        raise UserError(f"{path} is not JSON; expected a file that --output of this command wrote.") from None
    known = isinstance(found, dict) and isinstance(found.get("cases", {}), dict) and isinstance(found.get("rows"), list)
    if not known or not all(isinstance(row, dict) for row in found["rows"]):
        raise UserError(f"{path} has no rows; expected a file that --output of this command wrote.")
    return found


def _start_anew(args: argparse.Namespace, battery: Battery, error: DeviceLost) -> None:
    """Replaces this process by one that goes on; without a file it would not know where. Raises UserError then."""
    if args.output is None:
        raise UserError(f"The GPU is lost to this process ({error}); with --output a new one would go on.") from error
    print(f"{error}\nThe GPU is lost to this process; a new one goes on.", flush=True)
    shutil.rmtree(battery.setting.scratch, ignore_errors=True)
    options = [*sys.argv[1:], "--resume", "--budget", f"{max(0.0, battery.left):.0f}"]
    os.execv(sys.executable, [sys.executable, sys.argv[0], *options])  # the last of an option holds
