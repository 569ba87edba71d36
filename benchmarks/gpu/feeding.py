"""How fast pictures are loaded, and whether a GPU that trains on them waits; how fast trained models are."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from convmae.backbones import ConvViT
from convmae.benchmarks.gpu.battery import Case, Row, Setting
from convmae.benchmarks.gpu.device_timing import Step, take_turns, wait
from convmae.benchmarks.gpu.pictures import find_pictures
from convmae.benchmarks.gpu.steps import fitting, updated
from convmae.engine.config import load_config
from convmae.engine.machine.precision import autocast
from convmae.engine.pictures.images import normalize, to_tensor
from convmae.engine.seeding import SampleKey, SeededDataset
from convmae.pretraining import METHODS
from convmae.pretraining.config import PretrainingDataOptions
from convmae.pretraining.data.dataset import PictureFolder

DTYPE = torch.bfloat16
WORKERS = 15


def loading(setting: Setting) -> list[Case]:
    """Loader processes alone, then a step fed by them."""
    small, large = (32, 32) if setting.tiny else (96, 224)
    return [
        Case(f"pictures at {small} px", 6, partial(_pictures, setting, small)),
        Case(f"pictures at {large} px", 6, partial(_pictures, setting, large)),
        Case("detection", 8, partial(_objects, setting)),
        Case("FastConvMAE small, 96 px, fed", 10, partial(_fed, setting, "fastconvmae", "small", small, 256)),
        Case("ConvMAE base, 224 px, fed", 12, partial(_fed, setting, "convmae", "base", large, 256)),
    ]


def inference(setting: Setting) -> list[Case]:
    """Whole models on pictures in the device's memory."""
    return [
        Case("Mask R-CNN", 20, partial(_detect, setting)),
        Case("UPerNet", 8, partial(_segment, setting)),
        Case("classifier", 5, partial(_classify, setting)),
    ]


def workers(setting: Setting) -> int:
    """Loader processes: a core each, but one for training."""
    return 0 if setting.tiny else max(1, min(WORKERS, (os.cpu_count() or 1) - 1))


def _loader(setting: Setting, dataset: Dataset, batch: int, collate: Callable[[list[Any]], Any]) -> DataLoader:
    """Batches without end, as a run loads them."""
    size = len(dataset)  # type: ignore[arg-type]  # of map style
    keys = ([SampleKey(step, (step * batch + place) % size) for place in range(batch)] for step in count())
    return DataLoader(
        SeededDataset(dataset, 0),
        batch_sampler=keys,
        collate_fn=collate,
        num_workers=workers(setting),
        pin_memory=setting.device.type == "cuda",
    )


def _rate(setting: Setting, name: str, loader: DataLoader, batch: int, seconds: float) -> Iterator[Row]:
    batches = iter(loader)
    next(batches)  # the workers have started
    began, done = time.perf_counter(), 0
    while done == 0 or time.perf_counter() - began < seconds:
        next(batches)
        done += batch
    rate = done / (time.perf_counter() - began)
    yield {"pictures": name, "workers": workers(setting), "a second": rate, "batch": batch}


def _pictures(setting: Setting, side: int, seconds: float) -> Iterator[Row]:
    found = find_pictures(setting)
    dataset = PictureFolder(PretrainingDataOptions(root=str(found.images)), side)
    batch = 4 if setting.tiny else 64
    yield from _rate(setting, found.real, _loader(setting, dataset, batch, default_collate), batch, 0.6 * seconds)


def _objects(setting: Setting, seconds: float) -> Iterator[Row]:
    from convmae.detection.checks.preflight import read_splits
    from convmae.detection.config import DetectionConfig
    from convmae.detection.data.dataset import TrainSet, collate_train

    found = find_pictures(setting)
    side = 64 if setting.tiny else 1024
    options = load_config(
        DetectionConfig, "mask_rcnn_convmae_25e.yaml", [f"data.root={found.coco}", f"data.img_size={side}"]
    ).data
    dataset = TrainSet(read_splits(options, True)[0], options, True)
    batch = 2 if setting.tiny else 4
    yield from _rate(setting, found.real, _loader(setting, dataset, batch, collate_train), batch, 0.6 * seconds)


def _fed(setting: Setting, method: str, size: str, side: int, batch: int, seconds: float) -> Iterator[Row]:
    """Yields pictures a second from the loader and from memory, and how long the step waits for the loader."""
    size, batch = ("tiny", 2) if setting.tiny else (size, batch)
    dataset = PictureFolder(PretrainingDataOptions(root=str(find_pictures(setting).images)), side)
    yield from fitting(batch, partial(_feed, setting, METHODS[method](size, side), dataset, seconds), setting.device)


def _feed(setting: Setting, model: nn.Module, dataset: PictureFolder, seconds: float, batch: int) -> Iterator[Row]:
    device = setting.device
    batches = iter(_loader(setting, dataset, batch, default_collate))
    model = model.to(device)
    held = _to(device, next(batches))

    def forward_backward(given: dict[str, torch.Tensor]) -> None:
        model.zero_grad()
        with autocast(device, DTYPE):
            loss = model(normalize(given["images"]), 0.75, given["noise"], predict="removed").loss
        loss.backward()

    fixed = updated(model, lambda: forward_backward(held), device)
    alone = take_turns({"memory": fixed}, device, 1, seconds / 3)["memory"].seconds
    waited, steps, began = 0.0, 0, time.perf_counter()
    while steps < 2 or time.perf_counter() - began < seconds / 2:
        asked = time.perf_counter()
        held = _to(device, next(batches))  # which the step reads, too
        waited += time.perf_counter() - asked
        fixed()
        wait(device)  # so that a wait for the loader is one of the device, too
        steps += 1
    took = (time.perf_counter() - began) / steps
    yield {
        "workers": workers(setting),
        "batch": batch,
        "fed, a second": batch / took,
        "from memory, a second": batch / alone,
        "share of time waiting": waited / steps / took,
    }


def _to(device: torch.device, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.to(device, non_blocking=True) for name, value in given.items()}


def _timed(setting: Setting, steps: dict[str, Step], pictures: int, seconds: float) -> Iterator[Row]:
    for name, taken in take_turns(steps, setting.device, setting.repeats, seconds / 2).items():
        yield {
            "form": name,
            "pictures": pictures,
            "s a picture": taken.seconds / pictures,
            "a second": pictures / taken.seconds,
            "spread": taken.spread,
        }


def _detect(setting: Setting, seconds: float) -> Iterator[Row]:
    """Yields Mask R-CNN with 100 detections a picture, their masks on the picture and encoded or not.

    Without training nothing is sure, so the threshold is one that leaves some 2,000 candidates a picture to suppression.
    """
    from convmae.detection.checks.preflight import read_split
    from convmae.detection.config import DetectionConfig
    from convmae.detection.data.dataset import EvalSet, collate_test
    from convmae.detection.model.detection_model import DetectionModel

    found, device = find_pictures(setting), setting.device
    small = ["model.size=tiny", "data.img_size=64", "model.fpn_channels=16", "model.box_convs=[]"]
    small += ["model.box_hidden=[16]", "model.mask_convs=[16]", "model.post_nms_test=100", "model.detections=5"]
    options = [f"data.root={found.coco}", "model.score_threshold=0"]
    config = load_config(DetectionConfig, "mask_rcnn_convmae_25e.yaml", [*options, *(small if setting.tiny else [])])
    data = read_split(config.data, True)
    pictures, at_once = (2, 2) if setting.tiny else (8, 8)
    dataset = EvalSet(data, config.data.img_size)
    samples = [dataset[index % len(dataset)] for index in range(pictures)]
    model = DetectionModel(config, data.categories).to(device).eval()
    heads = model.model.roi_heads
    scores: list[Tensor] = []
    hook = heads.box_predictor.register_forward_hook(lambda _, given, made: scores.append(made[0].softmax(-1)))
    with torch.inference_mode(), autocast(device, DTYPE):
        model.model(normalize(collate_test(samples[:1])["images"][0].to(device)))
    hook.remove()
    likely = scores[0][:, :-1].flatten().float()
    heads.score_threshold = float(likely.topk(min(2000, len(likely))).values[-1])

    def run(encode: bool, size: int) -> Step:
        batches = [collate_test(samples[first : first + size]) for first in range(0, pictures, size)]
        held = [(batch["images"][0].to(device), batch["samples"]) for batch in batches]

        @torch.inference_mode()
        def step() -> None:
            for images, given in held:
                with autocast(device, DTYPE):
                    if encode:
                        model(images, samples=given, mode="predict")
                    else:
                        model.model(normalize(images), sizes=[one.geometry.content for one in given])

        return step

    steps = {
        f"{name}, batch {size}": run(encode, size)
        for size in (1, at_once)
        for name, encode in (("masks encoded", True), ("masks left as they are", False))
    }
    yield from _timed(setting, steps, pictures, seconds)


def _segment(setting: Setting, seconds: float) -> Iterator[Row]:
    """Yields UPerNet in windows over pictures of 683 x 512 pixels."""
    from PIL import Image

    from convmae.segmentation.config import SegmentationConfig
    from convmae.segmentation.model.upernet import build_model

    small = [
        "model.size=tiny",
        "model.decode_channels=16",
        "model.aux_channels=16",
        "data.crop=80",
        "inference.crop=80",
    ]
    small += ["inference.stride=60", "data.scale=[120,96]"]
    config = load_config(SegmentationConfig, "upernet_convmae_160k_ade20k.yaml", small if setting.tiny else [])
    pictures = 1 if setting.tiny else 8
    picture = to_tensor(Image.effect_noise((120, 96) if setting.tiny else (683, 512), 60).convert("RGB"))
    model = build_model(config, 150).to(setting.device).eval()

    @torch.inference_mode()
    def step() -> None:
        for _ in range(pictures):
            with autocast(setting.device, DTYPE):
                model.test_step({"inputs": [picture]})

    yield from _timed(setting, {f"windows of {config.inference.crop}": step}, pictures, seconds)


def _classify(setting: Setting, seconds: float) -> Iterator[Row]:
    size, side, batch = ("tiny", 32, 2) if setting.tiny else ("base", 224, 256)
    model = ConvViT(size, 1000, side).to(setting.device).eval()
    images = torch.randn(batch, 3, side, side, device=setting.device)

    @torch.inference_mode()
    def step() -> None:
        with autocast(setting.device, DTYPE):
            model(images)

    yield from _timed(setting, {f"batch {batch}": step}, batch, seconds)
