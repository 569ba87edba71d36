"""Tiny runs of the four tasks, as a user would type them, on generated scenes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

from convmae.engine.pictures.scenes import Layouts, generate

MARK = "CONVMAE_SOAK"  # in the environment of a run's processes, by which all of them are found

TASKS = {
    "pretraining": (
        "pretrain",
        "fastconvmae_tiny_mor_96px.yaml",
        ["model.img_size=32", "model.decoder_dim=32", "model.decoder_heads=2", "model.decoder_depth=1"],
    ),
    "classification": (
        "finetune",
        "finetune_tiny_96px.yaml",
        ["model.img_size=32", "optim.average=0.9", "schedule.warmup=1"],
    ),
    "detection": (
        "train_det",
        "mask_rcnn_tiny_256px.yaml",
        [
            "data.img_size=64", "model.fpn_channels=16", "model.box_convs=[]", "model.box_hidden=[16]",
            "model.mask_convs=[16]", "model.norm=gn", "model.roi_sampled=16", "model.detections=10",
        ],
    ),
    "segmentation": (
        "train_seg",
        "upernet_tiny_256px.yaml",
        [
            "data.crop=64", "data.scale=[128,64]", "inference.crop=64", "inference.stride=48",
            "model.decode_channels=16", "model.aux_channels=16",
        ],
    ),
}  # fmt: skip
SHARED = [
    "data.batch_size=4", "data.workers=1", "schedule.epochs=null", "schedule.warmup=1", "runtime.precision=fp32",
    "runtime.device=cpu",
]  # fmt: skip


def make_data(folder: Path) -> Layouts:
    """Returns a dozen scenes of 64 px to train on and four to evaluate."""
    return generate(folder, train=12, val=4, size=64)


def command(
    task: str, data: Layouts, work_dir: Path, *overrides: str, processes: int = 1, program: Path | None = None
) -> list[str]:
    """Returns the command of a run; a script ``program`` is given the tool's name."""
    tool, recipe, options = TASKS[task]
    root = {
        "pretraining": data.images, "classification": data.classes, "detection": data.coco, "segmentation": data.ade20k
    }[task]  # fmt: skip
    start = [sys.executable, *([str(program), tool] if program else ["-m", f"convmae.tools.{tool}"])]
    launcher: list[str] = []
    if processes > 1:
        start[1:1] = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        launcher = ["--launcher", "pytorch"]
    given = [*SHARED, *options, f"data.root={root}", *overrides]
    return [*start, "--config", recipe, "--work-dir", str(work_dir), *launcher, "--cfg-options", *given]


def start(words: Sequence[str], log: Path) -> tuple[subprocess.Popen, str]:
    """Starts a run, its words appended to ``log``, and returns its first process and the mark of all of them."""
    mark = uuid4().hex
    with open(log, "a", encoding="utf-8") as file:
        run = subprocess.Popen(
            words,
            env={**os.environ, "OMP_NUM_THREADS": "1", MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return run, mark
