"""From the square that the model sees back to the picture, in any thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from convmae.detection.data.dataset import Sample
from convmae.detection.model.mask_pasting import encode_masks

_own = threading.local()  # a stream of each thread


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
