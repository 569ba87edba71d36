"""Time FastConvMAE against ConvMAE for as many masked views of each picture, pictures read and teachers asked.

One step of FastConvMAE shows every picture in complementary groups; ConvMAE needs a step for each of them, and reads the
picture and asks the teachers anew. `ratio` is FastConvMAE over ConvMAE. Teachers of timm's have random weights here.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
from torch.utils.data import default_collate

from convmae.benchmarks.timing import Step, alternate
from convmae.engine.machine.precision import autocast, resolve_device, resolve_precision
from convmae.engine.options import RuntimeOptions
from convmae.engine.pictures.images import normalize
from convmae.pretraining.config import (
    EMA,
    PIXELS,
    PretrainingConfig,
    PretrainingModelOptions,
    Target,
    TeacherOptions,
)
from convmae.pretraining.data.dataset import PictureFolder
from convmae.pretraining.masking import group_count
from convmae.pretraining.teachers import TIMM_NAMES
from convmae.pretraining.train import build_mixture


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns a row for pixels and one for the teachers. Raises UserError for what can't be trained."""
    device = resolve_device(args.device)
    rows = []
    with TemporaryDirectory() as scratch:
        files = save_random(args.teachers, Path(scratch))
        for teachers in ([PIXELS], args.teachers):
            config = PretrainingConfig(
                model=PretrainingModelOptions(size=args.size, img_size=args.img_size),
                targets=[Target(teacher) for teacher in teachers],
                teachers=TeacherOptions(weights={name: path for name, path in files.items() if name in teachers}),
                runtime=RuntimeOptions(precision=args.precision),
            )
            config.data.root = str(args.folder)
            views = group_count(config.model.mask_ratio)
            steps = {
                "fastconvmae": prepare(config, "fastconvmae", args.batch_size, 1, device),
                "convmae": prepare(config, "convmae", args.batch_size, views, device),
            }
            seconds = alternate(steps, args.repeats, device)
            rows.append(
                {
                    "targets": "+".join(teachers),
                    "FastConvMAE s": seconds["fastconvmae"],
                    f"ConvMAE, {views} steps, s": seconds["convmae"],
                    "ratio": seconds["fastconvmae"] / seconds["convmae"],
                }
            )
    return rows


def save_random(teachers: list[str], folder: Path) -> dict[str, str]:
    """Writes random weights of timm's models among the teachers and returns the files by teacher."""
    files = {}
    for name in teachers:
        if name not in (PIXELS, EMA) and timm.is_model(TIMM_NAMES.get(name, name)):
            files[name] = str(folder / f"{name}.pth")
            torch.save(timm.create_model(TIMM_NAMES.get(name, name)).state_dict(), files[name])
    return files


def prepare(config: PretrainingConfig, method: str, batch: int, count: int, device: torch.device) -> Step:
    """Returns what trains on one batch of pictures in ``count`` steps, from reading them to the teachers' update."""
    config.model.method = method
    pictures = PictureFolder(config.data, config.model.img_size)
    mixture = build_mixture(config).to(device)
    optimizer = torch.optim.AdamW([p for p in mixture.parameters() if p.requires_grad], fused=True)
    dtype = resolve_precision(config.runtime.precision, device)
    order = itertools.cycle(range(len(pictures)))

    def step() -> None:
        for _ in range(count):
            samples = default_collate([pictures[next(order)] for _ in range(batch)])
            images, noise = normalize(samples["images"].to(device)), samples["noise"].to(device)
            optimizer.zero_grad()
            with autocast(device, dtype):
                loss = mixture(images, config.model.mask_ratio, noise)["loss"]
            loss.backward()
            optimizer.step()
            mixture.update_teachers(config.teachers.ema_start)

    return step
