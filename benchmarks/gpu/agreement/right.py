"""Is it right on this device? The published models' outputs, and the project's own functions against plain formulas in fp64.

The checks of `CHECKS` serve the battery and tests/gpu. Each yields how far off something is and how far it may be.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from convmae.backbones.attention.biased import biased_attention, decomposed_attention
from convmae.backbones.layers import Mlp
from convmae.backbones.masked import VisiblePatches
from convmae.backbones.position import Grid
from convmae.backbones.tiles import depthwise
from convmae.benchmarks.gpu.agreement.deviation import DTYPES, LIMIT, Check, Deviation, errors
from convmae.benchmarks.gpu.agreement.fixtures import FIXTURES
from convmae.benchmarks.gpu.attention_forms import Form, in_plain_windows, masked, plain, plain_decomposed, without
from convmae.benchmarks.gpu.battery import Case, Row, Setting
from convmae.pretraining.masking import complementary_masking

DEVIATIONS = (1, 4, 16)  # of the logits
# A fused kernel is compiled for each width of a head and each precision.
SECONDS = {
    "attention, shared table": 40.0,
    "attention, shared table, windows": 20.0,
    "MLP": 1.0,
    "depthwise on tiles": 1.0,
}


def cases(setting: Setting) -> list[Case]:
    """Returns the cases of this item: one a check."""
    names = [name for name in CHECKS if not setting.tiny or name not in LARGE]
    return [Case(name, SECONDS.get(name, 4.0), partial(_rows, setting, CHECKS[name])) for name in names]


def _rows(setting: Setting, check: Check, seconds: float) -> Iterator[Row]:
    for what, found, allowed in check(setting):
        yield {"what": what, "found": found, "allowed": allowed, "met": found <= allowed}


def _draw(*shapes: Sequence[int]) -> list[Tensor]:
    return [torch.randn(*shape, dtype=torch.float64) for shape in shapes]


def _compared(
    form: Form, reference: Form, leaves: Sequence[Tensor], said: str, setting: Setting
) -> Iterator[Deviation]:
    """Yields a function's output and worst gradient in both precisions."""
    for name, dtype in DTYPES.items():
        output, *grads = errors(form, reference, leaves, setting.device, dtype)
        yield Deviation(f"{said}, {name}, output", output, LIMIT[name])
        yield Deviation(f"{said}, {name}, gradients", max(grads), LIMIT[name])


def _mlp(setting: Setting) -> Iterator[Deviation]:
    for pointwise, shape in ((False, (3, 37, 24)), (True, (2, 5, 7, 16))):
        mlp = Mlp(shape[-1], 4 * shape[-1], pointwise).double()
        leaves = [*_draw(shape), *(p.detach() for p in mlp.parameters())]

        def form(x: Tensor, *parameters: Tensor, mlp: Mlp = mlp) -> Tensor:
            named = dict(zip(dict(mlp.named_parameters()), parameters, strict=True))
            return torch.func.functional_call(mlp, named, (x,))

        def formula(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
            return F.linear(F.gelu(F.linear(x, w1.flatten(1), b1)), w2.flatten(1), b2)

        yield from _compared(form, formula, leaves, f"MLP on {list(shape)}", setting)


def _tiles(setting: Setting) -> Iterator[Deviation]:
    for grid, groups in (((6, 6), 4), ((7, 5), 3)):
        patches = grid[0] * grid[1]
        keep = complementary_masking(torch.rand(2, patches), groups)
        there = VisiblePatches([ids.to(setting.device) for ids in keep], 2, grid)
        here = VisiblePatches(keep, 2, grid)
        for side, width in ((4, 16), (2, 24)):
            leaves = _draw((len(here.ids), side, side, width), (width, 1, 5, 5), (width,))

            def form(x: Tensor, weight: Tensor, bias: Tensor, halo: Tensor = there.halos[side]) -> Tensor:
                conv: Any = SimpleNamespace(weight=weight, bias=bias)
                low = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
                return depthwise(x.to(low), conv, halo)

            reference = partial(_on_canvas, here, side)
            yield from _compared(
                form, reference, leaves, f"depthwise, {groups} groups of {grid}, tiles of {side}", setting
            )


def _on_canvas(visible: VisiblePatches, side: int, tiles: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The convolution on a zero canvas for each view, read at the tiles."""
    rows, columns = visible.grid
    canvas = tiles.new_zeros(visible.views * visible.tokens, *tiles.shape[1:]).index_copy(0, visible.in_views, tiles)
    maps = canvas.unflatten(0, (visible.views, rows, columns)).permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
    found = F.conv2d(maps, weight, bias, padding=2, groups=tiles.shape[3])
    cut = found.unflatten(3, (columns, side)).unflatten(2, (rows, side)).permute(0, 2, 4, 3, 5, 1)
    return cut.flatten(0, 2)[visible.in_views]


class _Kind(NamedTuple):
    """A kind of attention: as shipped, plainly, its tables, and PyTorch's own attention nearest to it."""

    form: Form
    reference: Form
    tables: Callable[[int, int, Grid], list[Tensor]]  # for heads, their width and a grid
    own: Form = without

    def errors(
        self, own: bool, leaves: list[Tensor], grid: Grid, setting: Setting, precision: str
    ) -> tuple[float, float]:
        """Returns the relative error of the output and the worst one of the gradients."""
        forms = (self.own, self.own) if own else (self.form, self.reference)
        leaves = leaves[:3] if own and self.own is without else leaves
        first, second = (lambda *given, form=form: form(*given, grid) for form in forms)
        least = 1.0 if min(grid) == 1 else 0.01  # along one row most of them are zero
        output, *grads = errors(first, second, leaves, setting.device, DTYPES[precision], least)
        return output, max(grads)


def _attention(kind: _Kind, setting: Setting) -> Iterator[Deviation]:
    """Attention of some random sizes: odd grids, of one row, and a head width that is no power of two."""
    rng = random.Random(0)
    sizes = [((rng.randint(2, 23), rng.randint(2, 23)), 64, rng.randint(1, 3)) for _ in range(3)]
    for grid, width, heads in [*sizes, ((1, 9), 64, 2), ((16, 17), 40, 3)]:
        torch.manual_seed(grid[0] * 100 + grid[1])
        shape = (rng.randint(1, 3), heads, grid[0] * grid[1], width)
        leaves = _draw(shape, shape, shape) + kind.tables(heads, width, grid)
        for precision in DTYPES:
            output, gradient = kind.errors(False, leaves, grid, setting, precision)
            allowed = LIMIT[precision]
            if precision == "bf16" and min(grid) > 1:  # of a few tokens an error is a matter of luck
                allowed = 2 * kind.errors(True, leaves, grid, setting, precision)[1]
            said = f"{grid[0]} x {grid[1]}, {heads} heads of {width}, {precision}"
            yield Deviation(f"{said}, output", output, LIMIT[precision])
            yield Deviation(f"{said}, gradients", gradient, allowed)


def _gradients(kind: _Kind, setting: Setting) -> Iterator[Deviation]:
    """bf16 gradients at logits of several deviations, half of their variance positions, against PyTorch's own attention."""
    for side, deviation in product((8,) if setting.tiny else (32, 64), DEVIATIONS):
        grid, shape = (side, side), (1, 1, side**2, 64)
        torch.manual_seed(deviation)
        leaves = _draw(shape, shape, shape) + kind.tables(1, 64, grid)
        alone = [deviation * leaves[0], *leaves[1:3]]
        leaves[0] *= deviation / 2**0.5
        if kind is SHARED:
            leaves[3] *= deviation / 2**0.5
        own = kind.errors(True, alone, grid, setting, "bf16")[1]
        said = f"{side} x {side}, logits of deviation {deviation}, bf16, gradients (PyTorch's own: {own:.2e})"
        yield Deviation(said, kind.errors(False, leaves, grid, setting, "bf16")[1], 2 * own)


def _shared_table(heads: int, width: int, grid: Grid) -> list[Tensor]:
    return _draw((heads, 2 * grid[0] - 1, 2 * grid[1] - 1))


def _row_and_column(heads: int, width: int, grid: Grid) -> list[Tensor]:
    return [x / (2 * width) ** 0.5 for x in _draw(*((2 * side - 1, width) for side in grid))]


_WINDOW = (5, 4)
SHARED = _Kind(biased_attention, plain, _shared_table)
DECOMPOSED = _Kind(decomposed_attention, plain_decomposed, _row_and_column)
SHARED_WINDOWS = _Kind(
    partial(biased_attention, window=_WINDOW),
    partial(in_plain_windows, _WINDOW, plain),
    lambda heads, width, grid: _shared_table(heads, width, _WINDOW),
    partial(in_plain_windows, _WINDOW, partial(masked, None)),
)
DECOMPOSED_WINDOWS = _Kind(
    partial(decomposed_attention, window=_WINDOW),
    partial(in_plain_windows, _WINDOW, plain_decomposed),
    lambda heads, width, grid: _row_and_column(heads, width, _WINDOW),
)

CHECKS: dict[str, Check] = {
    **{f"published {name}": check for name, check in FIXTURES.items()},
    "MLP": _mlp,
    "depthwise on tiles": _tiles,
    "attention, shared table": partial(_attention, SHARED),
    "attention, decomposed": partial(_attention, DECOMPOSED),
    "attention, shared table, windows": partial(_attention, SHARED_WINDOWS),
    "attention, decomposed, windows": partial(_attention, DECOMPOSED_WINDOWS),
    "bf16 gradients, shared table": partial(_gradients, SHARED),
    "bf16 gradients, decomposed": partial(_gradients, DECOMPOSED),
}
LARGE = {name for name in CHECKS if name.startswith("published") and not name.endswith(("classifier", " convmae"))}
