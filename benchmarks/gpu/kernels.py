"""Kernels alone: depthwise convolutions of the stem, attention with relative positions in each form, top-1 of label maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from convmae.backbones.masked import VisiblePatches
from convmae.backbones.tiles import depthwise
from convmae.benchmarks.gpu import attention
from convmae.benchmarks.gpu.battery import Case, Row, Setting
from convmae.benchmarks.gpu.device_timing import Step, spread, take_turns
from convmae.pretraining.masking import random_masking

DTYPE = torch.bfloat16


def cases(setting: Setting) -> list[Case]:
    """Returns the cases of this item, in the order of worth."""
    sizes = ((16, 4), (24, 2)) if setting.tiny else ((256, 4), (384, 2))  # channels and pixels of a tile
    convolutions = [
        Case(f"depthwise 5x5, stage {stage}", 8, partial(_depthwise, setting, width, pixels))
        for stage, (width, pixels) in enumerate(sizes, start=1)
    ]
    first, *others = attention.cases(setting)
    return [first, *convolutions, *others, Case("top-1 of 150 classes", 3, partial(_top1, setting))]


def _depthwise(setting: Setting, width: int, pixels: int, seconds: float) -> Iterator[Row]:
    """Yields a row for each form and pass, on ConvMAE's visible tiles and on the canvas that a dense stem has."""
    device, batch, side = setting.device, 2 if setting.tiny else 256, 14
    visible = VisiblePatches(random_masking(torch.rand(batch, side**2, device=device), 0.75), batch, (side, side))
    halo = visible.halos[pixels]
    tiles = torch.randn(len(visible.ids), pixels, pixels, width, device=device, dtype=DTYPE)
    canvas = torch.randn(batch, width, side * pixels, side * pixels, device=device, dtype=DTYPE)
    weight, bias = torch.randn(width, 1, 5, 5, device=device), torch.randn(width, device=device)
    forms: dict[str, tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]] = {
        "shipped, tiles": (tiles, lambda x, w: depthwise(x, SimpleNamespace(weight=w, bias=bias), halo)),  # type: ignore[arg-type]
        "tiles, channels first": (tiles, lambda x, w: _first(x, w, bias, halo)),
        "canvas, channels last": (canvas.to(memory_format=torch.channels_last), lambda x, w: _dense(x, w, bias)),
        "canvas, channels first": (canvas, lambda x, w: _dense(x, w, bias)),
    }
    passes: dict[str, dict[str, Step]] = {"forward": {}, "input gradient": {}, "weight gradient": {}}
    for name, (x, conv) in forms.items():
        passes["forward"][name] = partial(torch.no_grad()(conv), x, weight)
        for mode, of_input in (("input gradient", True), ("weight gradient", False)):
            leaf = x.detach().requires_grad_(of_input), weight.detach().requires_grad_(not of_input)
            out = conv(*leaf)
            wrt = leaf[0] if of_input else leaf[1]
            passes[mode][name] = partial(torch.autograd.grad, out, wrt, torch.randn_like(out), retain_graph=True)
    for mode, steps in passes.items():
        times = take_turns(steps, device, setting.repeats, seconds / len(passes))
        for name, taken in times.items():
            x = forms[name][0]
            moved = 2 * x.numel() * x.element_size()  # read once and written once; or both read once
            yield {
                "pass": mode,
                "form": name,
                "ms": taken.seconds * 1e3,
                "positions": x.numel() // width,
                "ns a position": taken.seconds * 1e9 / (x.numel() // width),
                "TFLOP/s": 50 * x.numel() / taken.seconds / 1e12,
                "TB/s": moved / taken.seconds / 1e12,
                "share of copy": setting.share("copy", moved / taken.seconds),
                **spread(taken),
            }


def _first(tiles: Tensor, weight: Tensor, bias: Tensor, halo: Tensor) -> Tensor:
    """Tiles with their halos, channels first in memory."""
    width, channels = tiles.shape[1] + 4, tiles.shape[3]
    table = torch.cat([tiles.reshape(-1, channels), tiles.new_zeros(1, channels)])
    around = table.index_select(0, halo).view(-1, width, width, channels).permute(0, 3, 1, 2).contiguous()
    return F.conv2d(around, weight.to(tiles.dtype), bias.to(tiles.dtype), groups=channels)


def _dense(canvas: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(canvas, weight.to(canvas.dtype), bias.to(canvas.dtype), padding=2, groups=canvas.shape[1])


def _top1(setting: Setting, seconds: float) -> Iterator[Row]:
    """Yields a row for each way to tell how many pixels are labelled right."""
    side, batch = (16, 2) if setting.tiny else (512, 16)
    scores = torch.randn(batch, 150, side, side, device=setting.device, dtype=DTYPE)
    truth = torch.randint(0, 150, (batch, side, side), device=setting.device)
    steps: dict[str, Step] = {
        "topk": lambda: (scores.topk(1, dim=1)[1][:, 0] == truth).sum(),
        "argmax": lambda: (scores.argmax(1) == truth).sum(),
    }
    for name, taken in take_turns(steps, setting.device, setting.repeats, seconds).items():
        rate = scores.numel() * scores.element_size() / taken.seconds
        yield {
            "form": name,
            "ms": taken.seconds * 1e3,
            "TB/s": rate / 1e12,
            "share of copy": setting.share("copy", rate),
        }
