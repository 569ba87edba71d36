"""Kernels alone: depthwise convolutions of the stem, attention with relative positions in each form, top-1 of label maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from convmae.backbones.masked import VisiblePatches
from convmae.backbones.position import Grid
from convmae.backbones.tiles import depthwise
from convmae.engine.precision import autocast
from convmae.pretraining.masking import random_masking
from convmae.tools.gpu.attention_forms import (
    Form,
    decomposed_forms,
    plain,
    plain_decomposed,
    plain_windowed,
    shared_forms,
    windowed,
)
from convmae.tools.gpu.battery import Case, Row, Setting
from convmae.tools.gpu.timing import Step, Timing, clear, take_turns, with_peak

HEADS, WIDTH = 12, 64  # of the base model
DTYPE = torch.bfloat16


def cases(setting: Setting) -> list[Case]:
    """Returns the cases of this item."""
    tiny = setting.tiny
    found = []
    for stage, (width, pixels) in enumerate(((16, 4), (24, 2)) if tiny else ((256, 4), (384, 2)), start=1):
        found.append(Case(f"depthwise 5x5, stage {stage}", 8, partial(_depthwise, setting, width, pixels)))
    kinds = TINY if tiny else SIZES
    for name, seconds in (("forms", 10), ("fused", 10), ("FlexAttention", 25)):  # in the order of worth
        forms = shared_forms(name, tiny)
        for kind in kinds[:4] if len(forms) > 1 else []:
            found.append(_case(setting, f"attention, {kind.name}, {name}", seconds, kind, forms, plain))
        if name == "forms":
            windows = {"shipped": partial(windowed, (7, 7)), "plain": partial(plain_windowed, (7, 7))}
            found.append(_case(setting, "attention, in windows of 7", 4, kinds[4], windows, windows["plain"]))
            for kind in kinds[5:]:
                found.append(_case(setting, f"attention, {kind.name}", 5, kind, decomposed_forms(), plain_decomposed))
            found.append(Case("top-1 of 150 classes", 3, partial(_top1, setting)))
    return found


class Kind(NamedTuple):
    """Attention of the base model somewhere: [batch, 12, rows * columns, 64]."""

    name: str
    batch: int
    grid: Grid
    keys: int  # of a query
    tables: str = "shared"


SIZES = (
    Kind("global, 1024 px", 4, (64, 64), 4096),
    Kind("global, 512 px", 16, (32, 32), 1024),
    Kind("windows of 16", 64, (16, 16), 256),
    Kind("windows of 7", 400, (7, 7), 49),
    Kind("in windows of 7, 1024 px", 4, (64, 64), 49, "window"),
    Kind("decomposed, 1024 px", 4, (64, 64), 4096, "decomposed"),
    Kind("decomposed, windows of 14", 100, (14, 14), 196, "decomposed"),
)
TINY = tuple(kind._replace(batch=1, grid=(min(8, kind.grid[0]),) * 2) for kind in SIZES)


def _case(setting: Setting, name: str, seconds: float, kind: Kind, forms: Mapping[str, Form], reference: Form) -> Case:
    return Case(name, seconds, partial(_attention, setting, kind, forms, reference))


def _tables(kind: Kind, device: torch.device) -> list[Tensor]:
    rows, columns = kind.grid
    shapes = {
        "shared": [(HEADS, 2 * rows - 1, 2 * columns - 1)],
        "window": [(HEADS, 13, 13)],
        "decomposed": [(2 * rows - 1, WIDTH), (2 * columns - 1, WIDTH)],
    }[kind.tables]
    scale = WIDTH**-0.5 if kind.tables == "decomposed" else 1.0
    return [(scale * torch.randn(shape, device=device)).requires_grad_() for shape in shapes]


def _attention(
    setting: Setting, kind: Kind, forms: Mapping[str, Form], reference: Form, seconds: float
) -> Iterator[Row]:
    """Yields a row for each form: it alone is at fault if it can't run or needs too much memory."""
    device, grid = setting.device, kind.grid
    shape = (kind.batch, HEADS, grid[0] * grid[1], WIDTH)
    leaves = [torch.randn(shape, device=device, dtype=DTYPE).requires_grad_() for _ in range(3)]
    leaves += _tables(kind, device)
    cotangent = torch.randn(shape, device=device, dtype=DTYPE)
    with torch.no_grad():  # of one image, in fp32
        wanted = reference(*(x[:1].float() for x in leaves[:3]), *leaves[3:], grid)
    forward: dict[str, Step] = {}
    step: dict[str, Step] = {}
    peaks, off, broken = {}, {}, {}
    for name, form in forms.items():
        run, train = partial(_forward, form, leaves, grid), partial(_step, form, leaves, grid, cotangent)
        try:
            off[name] = ((run()[:1].float() - wanted).norm() / wanted.norm()).item()
            peaks[name] = with_peak(lambda train=train: train, device)[1]
        except Exception as error:  # compilers have exceptions of their own
            broken[name] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
            clear(device)
            continue
        forward[name], step[name] = run, train
    times = {}
    for mode, steps in (("forward", forward), ("step", step)):
        times[mode] = take_turns(steps, device, setting.repeats, seconds / 2)
    work = 4 * kind.batch * HEADS * grid[0] * grid[1] * min(kind.keys, grid[0] * grid[1]) * WIDTH
    for name in forms:
        if name in broken:
            yield {"form": name, "error": broken[name]}
            continue
        alone, both = times["forward"][name], times["step"][name]
        yield {
            "form": name,
            "forward ms": alone.seconds * 1e3,
            "step ms": both.seconds * 1e3,
            "forward TFLOP/s": work / alone.seconds / 1e12,
            "step TFLOP/s": 3.5 * work / both.seconds / 1e12,  # five products more, of the forward pass's two
            "share": setting.share("product", 3.5 * work / both.seconds),
            "GiB": peaks[name],
            "off": off[name],
            **_spread(both),
        }


def _forward(form: Form, leaves: list[Tensor], grid: Grid) -> Tensor:
    with torch.no_grad(), autocast(leaves[0].device, DTYPE):
        return form(*leaves, grid)


def _step(form: Form, leaves: list[Tensor], grid: Grid, cotangent: Tensor) -> tuple[Tensor | None, ...]:
    with autocast(leaves[0].device, DTYPE):
        output = form(*leaves, grid)
    return torch.autograd.grad(output, leaves, cotangent.to(output.dtype), allow_unused=True)


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
                **_spread(taken),
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


def _spread(taken: Timing) -> Row:
    return {"spread": taken.spread, "steps": taken.steps}
