"""Random erasing (arXiv 1708.04896) of pictures that are bytes until they lie on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torch.utils.data import default_collate


class Erasing(NamedTuple):
    """A box of one picture and the normal noise [C, height, width] that takes its place once the picture is normalised."""

    top: int
    left: int
    noise: Tensor


def draw_erasing(probability: float, channels: int, height: int, width: int) -> Erasing | None:
    """Returns a box of a picture of that size, or None, as timm draws it from ``random`` and its noise from torch."""
    canvas = torch.full((channels, height, width), torch.nan)
    RandomErasing(probability, mode="pixel", device="cpu")(canvas)
    places = canvas[0].isfinite().nonzero()
    if not len(places):
        return None
    (top, left), (bottom, right) = places[0].tolist(), places[-1].tolist()
    return Erasing(top, left, canvas[:, top : bottom + 1, left : right + 1].clone())


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns a batch of ``TrainSet``'s samples, in which ``erased`` holds the noise of all boxes, flat, and the boxes."""
    drawn: list[Erasing | None] = [sample["erased"] for sample in samples]
    boxes = [[number, one.top, one.left, *one.noise.shape[1:]] for number, one in enumerate(drawn) if one]
    noise = torch.cat([torch.empty(0), *(one.noise.flatten() for one in drawn if one)])
    rest = [{name: value for name, value in sample.items() if name != "erased"} for sample in samples]
    return {**default_collate(rest), "erased": {"boxes": boxes, "noise": noise}}


def erase(images: Tensor, boxes: Sequence[Sequence[int]], noise: Tensor) -> None:
    """Puts the noise of ``collate`` in place. images: floats [B, C, H, W]; boxes: picture, top, left, height, width of each."""
    channels = images.shape[1]
    parts = noise.split([channels * height * width for *_, height, width in boxes])
    for (number, top, left, height, width), part in zip(boxes, parts, strict=True):
        images[number, :, top : top + height, left : left + width] = part.view(channels, height, width)
