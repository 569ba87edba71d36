"""Time the loading of pretraining pictures against torchvision's ImageFolder with the same augmentation and workers.

A pass over the folder each, in turn; "kept" is the shipped loader with data.keep=memory, once all is in memory. The last four
columns are a picture's cost in one process, in milliseconds: to read and decode it, to crop and resize it, and the rest, which
is seeding, the mask's noise and the flip; and all of it where it is kept.

With --shards, the folder against shards of it, which are packed first into a scratch folder; "read" is what one process reads
of files' bytes alone. Files are in the system's memory then: on a disk or a network that is slow to open them shards gain more.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from convmae.benchmarks.timing import alternate
from convmae.engine.errors import UserError
from convmae.engine.packing.plan import make_plan
from convmae.engine.packing.writing import pack
from convmae.engine.pictures.images import IMAGENET_MEAN, IMAGENET_STD, read_crop, resize_crop
from convmae.engine.seeding import SampleKey, SeededDataset
from convmae.pretraining.config import PretrainingDataOptions
from convmae.pretraining.data.dataset import PictureFolder

GENERATED = (500, 375)  # width and height, ImageNet's most frequent
PER_SHARD = 4096  # pictures, as tools/pack.py has by default
CACHED = 100  # decoded pictures that are kept to time the resizing alone


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns one row, or one a place with shards. Raises UserError for a folder without pictures."""
    if min(args.pictures, args.img_size, args.batch_size) < 1 or min(args.workers, *args.shards, 0) < 0:
        raise UserError("--pictures, --img-size and --batch-size must be 1 or more, --workers and --shards 0 or more.")
    with tempfile.TemporaryDirectory() as scratch:
        if args.folder is None:
            generate(Path(scratch, "pictures"), args.pictures)
        elif not args.folder.is_dir():
            raise UserError(f"There is no folder {args.folder}: expected one that holds pictures.")
        else:  # ImageFolder wants class folders
            Path(scratch, "pictures").symlink_to(args.folder.resolve())
        if not args.shards:
            return [measure(Path(scratch), args)]
        places = {"folder": Path(scratch, "pictures")}
        for side in args.shards:
            places[f"shards, {side} px" if side else "shards"] = output = Path(scratch, f"shards_{side}")
            plan = make_plan(places["folder"], side, PER_SHARD, lambda fault: None)
            pack(places["folder"], plan, output, max(1, args.workers))
        return measure_shards(places, args)


def measure(root: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Returns pictures a second of both loaders, and what one picture costs; all pictures are below one folder in `root`."""
    options = PretrainingDataOptions(root=str(root))
    pictures = PictureFolder(options, args.img_size)
    seeded = SeededDataset(pictures, seed=0)
    kept = SeededDataset(PictureFolder(replace(options, keep="memory"), args.img_size), seed=0)
    keys = [SampleKey(0, index) for index in torch.randperm(len(pictures)).tolist()]
    plain = ImageFolder(
        str(root),
        transforms.Compose(
            [
                transforms.RandomResizedCrop(
                    args.img_size, (options.crop_scale, 1.0), interpolation=transforms.InterpolationMode.BICUBIC
                ),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        ),
    )
    workers = {"num_workers": args.workers, "persistent_workers": args.workers > 0}
    batches = [keys[first : first + args.batch_size] for first in range(0, len(keys), args.batch_size)]
    loaders = {
        "ImageFolder": DataLoader(plain, args.batch_size, shuffle=True, **workers),
        "shipped": DataLoader(seeded, batch_sampler=batches, **workers),
        "kept": DataLoader(kept, batch_sampler=batches, **workers),
    }
    exhaust(loaders["kept"])
    cpu = torch.device("cpu")
    seconds = alternate({name: partial(exhaust, loader) for name, loader in loaders.items()}, args.repeats, cpu)

    decoded = [read_crop(path, pictures.choose, args.img_size) for path in pictures.paths[:CACHED]]
    parts = alternate(
        {
            "decode": lambda: [read_crop(path, pictures.choose, args.img_size) for path in pictures.paths],
            "resize": lambda: [resize_crop(*decoded[key.index % len(decoded)], args.img_size) for key in keys],
            "whole": lambda: [seeded[key] for key in keys],
            "kept": lambda: [kept[key] for key in keys],
        },
        args.repeats,
        cpu,
    )
    cost = {name: taken / len(keys) * 1000 for name, taken in parts.items()}
    return {
        "pictures": len(keys),
        "ImageFolder im/s": len(keys) / seconds["ImageFolder"],
        "shipped im/s": len(keys) / seconds["shipped"],
        "ratio": seconds["ImageFolder"] / seconds["shipped"],
        "kept im/s": len(keys) / seconds["kept"],
        "kept ratio": seconds["shipped"] / seconds["kept"],
        "decode ms": cost["decode"],
        "resize ms": cost["resize"],
        "rest ms": cost["whole"] - cost["decode"] - cost["resize"],
        "kept ms": cost["kept"],
    }


def measure_shards(places: dict[str, Path], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns a row a place: pictures a second, as training takes them and read alone, and how many times the first place's."""
    loaders, reads, sizes = {}, {}, {}
    for name, root in places.items():
        pictures = PictureFolder(PretrainingDataOptions(root=str(root)), args.img_size)
        order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0)).tolist()
        keys = [SampleKey(0, index) for index in order]
        batches = [keys[first : first + args.batch_size] for first in range(0, len(keys), args.batch_size)]
        workers = {"num_workers": args.workers, "persistent_workers": args.workers > 0}
        loaders[name] = DataLoader(SeededDataset(pictures, seed=0), batch_sampler=batches, **workers)
        paths = [pictures.paths[index] for index in order]
        reads[name] = partial(_read, paths)
        sizes[name] = sum(path.stat().st_size for path in paths)
    cpu, first = torch.device("cpu"), next(iter(places))
    seconds = alternate({name: partial(exhaust, loader) for name, loader in loaders.items()}, args.repeats, cpu)
    read = alternate(reads, args.repeats, cpu)
    return [
        {
            "from": name,
            "pictures": len(order),
            "MB": sizes[name] / 1e6,
            "im/s": len(order) / seconds[name],
            "ratio": seconds[first] / seconds[name],
            "read im/s": len(order) / read[name],
            "read ratio": read[first] / read[name],
        }
        for name in places
    ]


def _read(paths: Sequence[Path]) -> None:
    for path in paths:
        path.read_bytes()


def exhaust(loader: DataLoader) -> None:
    """Passes through a loader once."""
    for _ in loader:
        pass


def generate(folder: Path, count: int) -> None:
    """Writes JPEG pictures of noise at several scales, about as large as photographs of that size are."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        picture = np.full((GENERATED[1], GENERATED[0], 3), 128.0)
        for cells in (4, 16, 64, 256):
            grid = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
            picture += (np.asarray(grid.resize(GENERATED, Image.Resampling.BICUBIC)) - 127.5) / cells**0.5
        Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(folder / f"{index}.jpg", quality=90)
