"""From the square that the model sees back to the picture, boxes and masks, in any thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from convmae.detection.data import rle
from convmae.detection.data.dataset import Sample

_own = threading.local()  # a stream of each thread
# Pixels of masks pasted at a time: 200 MB in fp32; on a CPU what its cache holds.
_AT_ONCE = {"cuda": 50_000_000, "cpu": 1_000_000}


@torch.no_grad()
def restore(found: dict[str, Tensor], sample: Sample, ready: torch.cuda.Event | None = None) -> dict[str, Any]:
    """Returns a picture's detections in its own pixels, on the CPU; boxes without area are left out.

    found: boxes [n, 4], scores [n], labels [n], and masks [n, side, side] as probabilities, all in the square.
    ready: on a GPU, recorded once they are computed; the thread then waits for them, but for nothing that comes after them.
    """
    device = found["boxes"].device
    with _beside(ready, device), torch.autocast(device.type, enabled=False):
        moved = {name: found[name].to("cpu", non_blocking=True) for name in ("boxes", "scores", "labels")}
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()
        boxes = sample.geometry.restore_boxes(moved["boxes"])
        solid = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        restored: dict[str, Any] = {
            "image_id": sample.image_id,
            "boxes": boxes[solid],
            "scores": moved["scores"][solid],
            "labels": moved["labels"][solid],
        }
        if "masks" in found:
            encoded = encode_masks(found["masks"], boxes.to(device), sample.height, sample.width)
            restored["masks"] = [mask for mask, kept in zip(encoded, solid.tolist(), strict=True) if kept]
    return restored


def paste_masks(masks: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """Returns masks [N, height, width], each spread over its box by bilinear interpolation without rounding the box.

    masks: [N, side, side] probabilities; boxes: [N, 4] in pixels. Outside its box a mask is zero. Bilinear interpolation
    is separable, so this is two small matrix products instead of a lookup at every pixel.
    """
    rows = _interpolation(boxes[:, 1], boxes[:, 3], height, masks.shape[-2])
    columns = _interpolation(boxes[:, 0], boxes[:, 2], width, masks.shape[-1])
    return rows @ masks @ columns.transpose(1, 2)


def encode_masks(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5) -> list[dict[str, Any]]:
    """Returns pasted masks as COCO's compressed RLE, with ``counts`` as text."""
    encoded: list[dict[str, Any]] = []
    step = max(1, _AT_ONCE[masks.device.type] // (height * width))
    for part, corners in zip(masks.split(step), boxes.split(step), strict=True):
        encoded += rle.encode(paste_masks(part.float(), corners.float(), height, width) >= threshold)
    return encoded


def _interpolation(start: Tensor, end: Tensor, pixels: int, side: int) -> Tensor:
    """Returns the weights [N, pixels, side] of a mask's rows (or columns) at the centre of each pixel."""
    centres = torch.arange(pixels, dtype=start.dtype, device=start.device) + 0.5
    length = (end - start).clamp(min=1e-6)
    position = (centres - start[:, None]) / length[:, None] * side - 0.5
    return (1 - (position[..., None] - torch.arange(side, device=start.device)).abs()).clamp(min=0)


@contextmanager
def _beside(ready: torch.cuda.Event | None, device: torch.device) -> Iterator[None]:
    """Makes a GPU's work go beside the model's, in a stream of this thread, once ``ready`` has come.

    What it reads stays the model's memory: nothing may be freed before the thread has its results, which ``restore`` waits for.
    """
    if ready is None:
        yield
        return
    if not hasattr(_own, "stream"):
        _own.stream = torch.cuda.Stream(device)  # a new thread's own device would be the first
    with torch.cuda.stream(_own.stream):
        ready.wait()
        yield
