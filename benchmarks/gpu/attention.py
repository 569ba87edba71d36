"""Attention with relative positions alone: each form at the sizes that the base models have, and the fused kernel's tiles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from convmae.backbones.attention import fused
from convmae.backbones.attention.fused import TILES, Tiles
from convmae.backbones.position import Grid
from convmae.benchmarks.gpu.attention_forms import Form, decomposed_forms, flex_forms, shared_forms, windowed_forms
from convmae.benchmarks.gpu.battery import Case, Row, Setting
from convmae.benchmarks.gpu.device_timing import Step, clear, pairs, spread, take_turns, with_peak
from convmae.engine.machine.precision import autocast

HEADS, WIDTH = 12, 64  # of the base model
DTYPE = torch.bfloat16
BACKWARD = 2.5  # times the products of the forward pass: five for its two

# Tiles worth a try on a GPU of compute capability 9.0, beside the default ones.
TRIED = {
    "attend": [(128, 64, 8, 1), (128, 64, 8, 3), (64, 64, 4, 1), (64, 64, 4, 2), (64, 64, 4, 3)],
    "query_gradients": [(64, 64, 4, 1), (128, 64, 8, 1), (128, 64, 8, 2)],
    "key_gradients": [(64, 64, 4, 1), (64, 64, 4, 2), (128, 64, 8, 2), (32, 128, 8, 2)],
    "table_gradients": [(64, 64, 4, 1), (64, 64, 8, 2)],
}


class Kind(NamedTuple):
    """Attention of the base model somewhere: [batch, 12, rows * columns, 64], over the grid or in its windows."""

    name: str
    batch: int
    grid: Grid
    window: Grid | None = None
    decomposed: bool = False

    def inputs(self, device: torch.device) -> list[Tensor]:
        """Returns queries, keys, values and tables, with gradients."""
        shape = (self.batch, HEADS, self.grid[0] * self.grid[1], WIDTH)
        tokens = [torch.randn(shape, device=device, dtype=DTYPE) for _ in range(3)]
        rows, columns = (2 * side - 1 for side in self.window or self.grid)
        shapes = [(rows, WIDTH), (columns, WIDTH)] if self.decomposed else [(HEADS, rows, columns)]
        scale = WIDTH**-0.5 if self.decomposed else 1.0
        tables = [scale * torch.randn(shape, device=device) for shape in shapes]
        return [x.requires_grad_() for x in (*tokens, *tables)]

    @property
    def work(self) -> int:
        """Operations of the two products of a forward pass."""
        return 4 * self.batch * HEADS * WIDTH * pairs(self.grid, self.window or self.grid)


LARGE, MEDIUM = Kind("1024 px", 4, (64, 64)), Kind("512 px", 16, (32, 32))
WINDOWS = Kind("windows of 16, cut before", 64, (16, 16))
IN_WINDOWS = [Kind(f"1024 px, windows of {n}", 4, (64, 64), (n, n)) for n in (7, 16)]
DECOMPOSED = [
    Kind("1024 px, decomposed", 4, (64, 64), None, True),
    Kind("1024 px, decomposed, windows of 14", 4, (64, 64), (14, 14), True),
]


def cases(setting: Setting) -> list[Case]:
    """Returns the cases of all forms but those of `tuning`."""
    found = [_case(setting, kind, shared_forms(setting.tiny), 10) for kind in (LARGE, MEDIUM, WINDOWS)]
    found += [_case(setting, kind, windowed_forms(kind.window), 5) for kind in IN_WINDOWS if kind.window]
    found += [_case(setting, kind, decomposed_forms(kind.window), 5) for kind in DECOMPOSED]
    return found


def tuning(setting: Setting) -> list[Case]:
    """Returns the cases that choose: the fused kernel's tiles, and FlexAttention, which takes long to compile."""
    found = []
    if setting.device.type == "cuda":  # elsewhere it has no fused kernel
        for kind, seconds in ((LARGE, 35), (MEDIUM, 15), (IN_WINDOWS[1], 15)):
            found.append(Case(f"tiles, {kind.name}", seconds, partial(_tiles, setting, kind)))
    flex = [_case(setting, kind, flex_forms(setting.tiny), 25, ", FlexAttention") for kind in (LARGE, MEDIUM, WINDOWS)]
    return found + flex


def _case(setting: Setting, kind: Kind, forms: Mapping[str, Form], seconds: float, more: str = "") -> Case:
    if setting.tiny:
        small = min(8, kind.grid[0])
        kind = kind._replace(batch=1, grid=(small, small))
    return Case(f"attention, {kind.name}{more}", seconds, partial(_attention, setting, kind, forms))


def _attention(setting: Setting, kind: Kind, forms: Mapping[str, Form], seconds: float) -> Iterator[Row]:
    """Yields a row for each form: it alone is at fault if it can't run or needs too much memory."""
    device, leaves = setting.device, kind.inputs(setting.device)
    cotangent = torch.randn_like(leaves[0])
    with torch.no_grad():  # of one image, in fp32
        reference = forms["plain"] if "plain" in forms else forms["shipped"]
        wanted = reference(*(x[:1].float() for x in leaves[:3]), *leaves[3:], kind.grid)
    forward: dict[str, Step] = {}
    step: dict[str, Step] = {}
    peaks, off, broken = {}, {}, {}
    for name, form in forms.items():
        run, train = partial(_forward, form, leaves, kind.grid), partial(_step, form, leaves, kind.grid, cotangent)
        try:
            off[name] = ((run()[:1].float() - wanted).norm() / wanted.norm()).item()
            peaks[name] = with_peak(partial(_as_it_is, train), device)[1]
        except Exception as error:  # compilers have exceptions of their own
            broken[name] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
            clear(device)
            continue
        forward[name], step[name] = run, train
    times = {}
    for mode, steps in (("forward", forward), ("step", step)):
        times[mode] = take_turns(steps, device, setting.repeats, seconds / 2)
    for name in forms:
        if name in broken:
            yield {"form": name, "error": broken[name]}
            continue
        alone, both = times["forward"][name], times["step"][name]
        rate = (1 + BACKWARD) * kind.work / both.seconds
        yield {
            "form": name,
            "forward ms": alone.seconds * 1e3,
            "step ms": both.seconds * 1e3,
            "forward TFLOP/s": kind.work / alone.seconds / 1e12,
            "step TFLOP/s": rate / 1e12,
            "share": setting.share("product", rate),
            "GiB": peaks[name],
            "off": off[name],
            **spread(both),
        }


def _as_it_is(step: Step) -> Step:
    return step


def _forward(form: Form, leaves: list[Tensor], grid: Grid) -> Tensor:
    with torch.no_grad(), autocast(leaves[0].device, DTYPE):
        return form(*leaves, grid)


def _step(form: Form, leaves: list[Tensor], grid: Grid, cotangent: Tensor) -> tuple[Tensor | None, ...]:
    with autocast(leaves[0].device, DTYPE):
        output = form(*leaves, grid)
    return torch.autograd.grad(output, leaves, cotangent.to(output.dtype), allow_unused=True)


@torch.no_grad()
def _tiles(setting: Setting, kind: Kind, seconds: float) -> Iterator[Row]:
    """Yields a row for each kernel and its tiles: the time of the forward or of the whole backward pass with them."""
    device, (query, key, value, table) = setting.device, kind.inputs(setting.device)
    window = kind.window or kind.grid
    given = (query, key, value, table)
    output, lse = fused.forward(*given, kind.grid, window)
    grad = torch.randn_like(query)
    steps: dict[tuple[str, Tiles], Step] = {}
    for kernel, others in TRIED.items():
        for tile in (TILES[kernel], *(Tiles(*other) for other in others)):
            tiles = TILES | {kernel: tile}
            step: Step = partial(fused.backward, *given, output, lse, grad, kind.grid, window, tiles)
            if kernel == "attend":
                step = partial(fused.forward, *given, kind.grid, window, tiles)
            try:
                step()
            except Exception as error:  # more shared memory than there is, say
                yield {"kernel tiled": kernel, "tiles": tuple(tile), "error": f"{type(error).__name__}: {error}"[:200]}
                continue
            steps[kernel, tile] = step
    for (kernel, tile), taken in take_turns(steps, device, setting.repeats, seconds / 2).items():
        rate = kind.work * (1 if kernel == "attend" else BACKWARD) / taken.seconds
        default = " (default)" if tile == TILES[kernel] else ""
        yield {
            "kernel tiled": kernel,
            "tiles": f"{tile.queries} x {tile.keys}, {tile.warps} warps, {tile.stages} stages{default}",
            "ms": taken.seconds * 1e3,
            "TFLOP/s": rate / 1e12,
            "share": setting.share("product", rate),
            **spread(taken),
        }
