"""Time the parts of this project against their plain counterparts, in turn on this machine.

python tools/benchmark.py pretrain --threads 2 --output pretrain.json
python tools/benchmark.py detection --threads 2 --output detection.json
python tools/benchmark.py segmentation --threads 2 --output segmentation.json
python tools/benchmark.py views path/to/pictures --threads 1
python tools/benchmark.py loading path/to/pictures --workers 2
python tools/benchmark.py loading path/to/pictures --shards 0 256
python tools/benchmark.py evaluation --pictures 2000
python tools/benchmark.py frameworks work_dirs/det/model.pth
python tools/benchmark.py onnx work_dirs/det/model.pth --threads 2
python tools/benchmark.py gpu --output gpu.json
python tools/benchmark.py steps --output steps.json
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time to read
    import convmae.tools.starting  # noqa: F401

import argparse
import ast
import inspect
import itertools
import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib import import_module, resources
from pathlib import Path
from typing import Any

from convmae.benchmarks import options
from convmae.engine.commands.cli import run_tool
from convmae.engine.errors import UserError
from convmae.engine.machine.interrupts import reading_modules

# What each compares. The module bench_<name> returns its rows, those of the same keys make a table; its docstring is the help.
COMPARISONS = {
    "pretrain": "pretraining steps of the shipped models and of the dense textbook form",
    "detection": "the detection encoder against its plain form",
    "segmentation": "the segmentation encoder against its plain form, and the counts of mIoU",
    "evaluation": "COCO evaluation against pycocotools",
    "frameworks": "one detector here, in detectron2 and in mmdet: AP on the same image tensors",
    "views": "FastConvMAE's views against as many steps of ConvMAE",
    "start": "what each tool's --help takes",
    "loading": "the loading of pretraining pictures against torchvision's ImageFolder, or from shards against the folder",
    "predict": "predict against torchvision's Mask R-CNN, from files to masks",
    "onnx": "a detector's or segmenter's graph in onnxruntime against PyTorch",
    "gpu": "all of the project on a GPU: is it right, and how fast, within a time",
    "steps": "kernels, graphs and waits of a training step, and the gradients' errors in bf16, counted on any machine",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit status."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=inspect.cleandoc(__doc__ or ""), formatter_class=formatter)
    commands = parser.add_subparsers(dest="comparison", required=True, metavar="COMPARISON")
    for name, summary in COMPARISONS.items():
        source = resources.files("convmae.benchmarks") / f"bench_{name}.py"  # not imported: that takes seconds
        text = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8")))
        command = commands.add_parser(name, help=summary, description=text, formatter_class=formatter)
        getattr(options, name)(command)
        command.add_argument("--repeats", type=int, default=5, help="measured rounds; medians are shown (default 5)")
        command.add_argument("--threads", type=int, help="of PyTorch (default: its own)")
        command.add_argument("--output", type=Path, help="a JSON file for the rows and what they were measured on")
    args = parser.parse_args(argv)

    def run() -> None:
        with reading_modules():
            import torch

            comparison = import_module(f"convmae.benchmarks.bench_{args.comparison}")

        args.threads = torch.get_num_threads() if args.threads is None else args.threads
        if args.repeats < 1 or args.threads < 1:
            raise UserError(f"--repeats {args.repeats} --threads {args.threads}: expected 1 or more of each.")
        torch.set_num_threads(args.threads)
        rows = comparison.run(args)
        if not rows:  # it printed and wrote them as they came
            return
        print("\n\n".join(table(list(same)) for _, same in itertools.groupby(rows, key=list)))
        if args.output:
            write(args, rows)

    return run_tool(run)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns rows of the same keys as text, numbers to three digits."""
    cells = [list(rows[0])] + [[shown(value) for value in row.values()] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return "\n".join("  ".join(text.rjust(wide) for text, wide in zip(line, widths, strict=True)) for line in cells)


def shown(value: Any) -> str:
    """Returns a number to three digits, anything else as it is."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def write(args: argparse.Namespace, rows: Sequence[dict[str, Any]]) -> None:
    """Writes the rows, the options and the machine. Raises UserError if the file can't be written."""
    import torch

    chosen = {name: value for name, value in vars(args).items() if name not in ("comparison", "output")}
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }
    found = {"comparison": args.comparison, "options": chosen, "machine": machine, "rows": list(rows)}
    try:
        args.output.write_text(json.dumps(found, indent=2, default=str) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output {args.output} can't be written: {error.strerror}.") from None


if __name__ == "__main__":
    sys.exit(main())
