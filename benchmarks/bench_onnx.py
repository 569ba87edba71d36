"""Time a detector's or segmenter's graph in onnxruntime against PyTorch, in turn on the CPU with as many threads.

The graph is written and compared as tools/export.py does, at five sizes, and the pictures of these sizes are what is timed, one
at a time, from bytes to masks or labels in a picture's pixels. `ratio` is the median, over the rounds, of PyTorch's seconds by
onnxruntime's; `MB` what a picture takes beside the weights, of the one that takes most pixels.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from numpy.typing import NDArray

from convmae.benchmarks.timing import Step, peak_memory, rounds
from convmae.detection.export.plan import plan_detector
from convmae.engine.errors import UserError
from convmae.engine.export.graphs import OPSETS, check_packages, open_session, write_graph
from convmae.engine.export.graphs import run as run_graph
from convmae.engine.files import check_is_file
from convmae.kinds import DETECTION, SEGMENTATION, kind_of
from convmae.models import open_model
from convmae.results import Detections, LabelMap
from convmae.segmentation.export import plan_segmenter

PLANS = {DETECTION: plan_detector, SEGMENTATION: plan_segmenter}
CPU = torch.device("cpu")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns one row. Raises UserError for weights of another task, and for a graph that computes something else."""
    check_packages()
    check_is_file(args.weights)
    kind = kind_of(args.weights)
    if kind not in PLANS:
        raise UserError(f"{args.weights} holds a model of {kind}; expected a detector or a segmenter.")
    options = [*args.cfg_options, "runtime.device=cpu", "runtime.precision=fp32"]
    plan = PLANS[kind](args.weights, args.config, options, args.pictures)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        write_graph(plan.module, plan.example, plan.ports, path, OPSETS[0], plan.meta)
        lines, largest = plan.compare(open_session(path, args.threads), path)
        print("difference from PyTorch:", *(f"  {line}" for line in lines), sep="\n")
        pictures = [one if kind == DETECTION else one[0] for one in plan.compared]
        del plan
        prepare = {
            "PyTorch": partial(in_pytorch, args.weights, args.config, options),
            "onnxruntime": partial(in_onnxruntime, path, args.threads, kind == SEGMENTATION),
        }
        steps: dict[str, Step] = {name: begin(pictures) for name, begin in prepare.items()}
        seconds = rounds(steps, args.repeats, CPU)
        del steps
        most = [max(pictures, key=lambda one: one.size)]
        memory = {f"{name} MB": peak_memory(CPU, begin, most) / 2**20 for name, begin in prepare.items()}
    ratios = [ours / theirs for ours, theirs in zip(*seconds.values(), strict=True)]
    return [
        {
            "task": kind,
            **{f"{name} off": value for name, value in largest.items()},
            **{f"{name} a second": len(pictures) / statistics.median(taken) for name, taken in seconds.items()},
            "ratio": statistics.median(ratios),
            "from": min(ratios),
            "to": max(ratios),
            **memory,
        }
    ]


def in_pytorch(weights: Path, recipe: str | None, options: Sequence[str], pictures: Sequence[NDArray[Any]]) -> Step:
    """Returns what predicts on pictures [H, W, C] by the loaded model, one at a time."""
    model = open_model(weights, recipe, options)

    def step() -> None:
        for picture in pictures:
            for found in model.predict([picture], batch_size=1):
                if isinstance(found, Detections):
                    _ = found.masks
                else:
                    assert isinstance(found, LabelMap)

    return step


def in_onnxruntime(path: Path, threads: int, batched: bool, pictures: Sequence[NDArray[Any]]) -> Step:
    """Returns what runs a graph on pictures [H, W, C], one at a time; ``batched``: it takes batches."""
    session = open_session(path, threads)

    def step() -> None:
        for picture in pictures:
            run_graph(session, picture[None] if batched else picture)

    return step
