"""What the benchmarks of the detection and the segmentation encoder share: options, steps and two tables."""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from convmae.benchmarks.counting.complexity import analyze
from convmae.benchmarks.forms.plain_layers import PATCH
from convmae.benchmarks.timing import Step, alternate, mlp_products, peak_memory
from convmae.engine.errors import UserError
from convmae.engine.machine.precision import autocast, resolve_device, resolve_precision

FORMS = ("plain", "shipped")
WORK = {"forward": 1, "step": 3}  # multiply-adds over those of a forward pass
STRIDES = (4, 8, 16)  # of the stages


class Case(NamedTuple):
    """What is timed; `build` makes one form of the encoder, both with the same weights; `dtype` is None for fp32."""

    build: Callable[[str, Case], nn.Module]
    size: str
    pixels: int
    batch: int
    checkpoint_activations: bool
    device: torch.device
    dtype: torch.dtype | None = None
    window: int = 0  # tokens a side, of an encoder that has windows

    def images(self) -> Tensor:
        return torch.randn(self.batch, 3, self.pixels, self.pixels, device=self.device)

    def precise(self, names: list[str]) -> dict[str, Case]:
        """Returns this case in each precision."""
        return {name: self._replace(dtype=resolve_precision(name, self.device)) for name in names}


Table = Callable[[Case, argparse.Namespace], list[dict[str, Any]]]


def read_case(args: argparse.Namespace, build: Callable[[str, Case], nn.Module], smallest: int = PATCH) -> Case:
    """Returns the case of the first side. Raises UserError for sides that don't fit, the smallest included."""
    if any(side < smallest or side % PATCH for side in (*args.pixels, *args.growth)) or args.batch < 1:
        raise UserError(
            f"--pixels {' '.join(map(str, args.pixels))} --growth {' '.join(map(str, args.growth))} --batch {args.batch}: "
            f"expected sides that are multiples of {PATCH}, at least {smallest}, and 1 or more pictures."
        )
    device = resolve_device(args.device)
    return Case(build, args.size, args.pixels[0], args.batch, args.checkpoint_activations, device)


def comparison(case: Case, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns a row for each side, mode and precision: the plain form and the shipped one."""
    return [row for pixels in args.pixels for row in _compare(case._replace(pixels=pixels), args)]


def _compare(case: Case, args: argparse.Namespace) -> list[dict[str, Any]]:
    cases = case.precise(args.precision)
    peaks = {  # before anything runs here: what a plain form leaves in this process would lack beside the one that is measured
        (form, mode, name): peak_memory(case.device, prepare, form, mode, cases[name]) / 2**20
        for form, mode, name in itertools.product(FORMS, args.mode, cases)
    }
    counts = {form: multiply_adds(form, case) / 1e9 for form in FORMS}
    models, images = {form: case.build(form, case) for form in FORMS}, case.images()
    products = {name: mlp_products(layer_shapes(case), one.dtype, one.device) for name, one in cases.items()}
    rows = []
    for mode in args.mode:
        forms = {("plain", "fp32"): case, **{(form, name): cases[name] for form in FORMS for name in cases}}
        steps = {(form, name): encoder_step(models[form], images, mode, one) for (form, name), one in forms.items()}
        alone = {("products", name): step for name, (step, _) in products.items()}
        seconds = alternate({**steps, **alone}, args.repeats, case.device)
        for name in cases:
            plain, shipped = seconds["plain", name], seconds["shipped", name]
            rate = products[name][1] / seconds["products", name] / 1e9
            rows.append(
                {
                    "pixels": case.pixels,
                    "mode": mode,
                    "precision": name,
                    "plain G": WORK[mode] * counts["plain"],
                    "shipped G": WORK[mode] * counts["shipped"],
                    "plain s": plain,
                    "shipped s": shipped,
                    "ratio": plain / shipped,
                    "over fp32": seconds["plain", "fp32"] / shipped,
                    "products G/s": rate,
                    "share": WORK[mode] * counts["shipped"] / shipped / rate,
                    "plain MB": peaks["plain", mode, name],
                    "shipped MB": peaks["shipped", mode, name],
                    # Where a peak can't begin anew, building the model may have taken more than its step.
                    "memory": peaks["shipped", mode, name] / (peaks["plain", mode, name] or math.nan),
                }
            )
    return rows


def growth(case: Case, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns a row for each precision and side: the shipped forward pass."""
    counts = {pixels: multiply_adds("shipped", case._replace(pixels=pixels)) for pixels in args.growth}
    rows = []
    for (name, precise), pixels in itertools.product(case.precise(args.precision).items(), args.growth):
        one = precise._replace(pixels=pixels)
        peak = peak_memory(case.device, prepare, "shipped", "forward", one) / 2**20
        seconds = alternate({"forward": prepare("shipped", "forward", one)}, args.repeats, case.device)["forward"]
        rows.append(
            {
                "precision": name,
                "pixels": pixels,
                "tokens": (pixels // PATCH) ** 2,
                "forward G": counts[pixels] / 1e9,
                "forward s": seconds,
                "forward MB": peak,
            }
        )
    return rows


def part_of(
    title: str, whole: Callable[[Case], nn.Module], step: Callable[[nn.Module, Case], Step], case: Case, repeats: int
) -> dict[str, Any]:
    """Returns the row of a training step of a whole model, `title`, and of its encoder (`backbone`) alone."""
    peak = peak_memory(case.device, _prepare_whole, whole, step, case) / 2**20
    model: Any = whole(case)
    steps = {"whole": step(model, case), "encoder": encoder_step(model.backbone, case.images(), "step", case)}
    seconds = alternate(steps, repeats, case.device)
    return {
        "pixels": case.pixels,
        "batch": case.batch,
        f"{title} s": seconds["whole"],
        "encoder s": seconds["encoder"],
        "encoder's part": seconds["encoder"] / seconds["whole"],
        f"{title} MB": peak,
    }


def encoder_step(model: nn.Module, images: Tensor, mode: str, case: Case) -> Step:
    """Returns a forward pass without gradients, or a training step without its update."""

    def forward() -> None:
        with torch.inference_mode(), autocast(case.device, case.dtype):
            model.eval()(images)

    def step() -> None:
        model.train().zero_grad()
        with autocast(case.device, case.dtype):
            maps = model(images)
        torch.stack([stage.float().square().mean() for stage in maps]).sum().backward()

    return forward if mode == "forward" else step


def prepare(form: str, mode: str, case: Case) -> Step:
    """Returns `encoder_step` of a new model and new pictures."""
    return encoder_step(case.build(form, case), case.images(), mode, case)


def _prepare_whole(whole: Callable[[Case], nn.Module], step: Callable[[nn.Module, Case], Step], case: Case) -> Step:
    return step(whole(case), case)


def multiply_adds(form: str, case: Case) -> int:
    """Multiply-adds of a forward pass."""
    return analyze(case.build(form, case), [case.images()], depth=1)[0][0].multiply_adds


def layer_shapes(case: Case) -> list[tuple[int, int, int]]:
    """Positions, inputs and outputs of the first layer of each stage's MLP."""
    model: Any = case.build("shipped", case._replace(device=torch.device("meta")))
    shapes = []
    for blocks, stride in zip((model.blocks1, model.blocks2, model.blocks3), STRIDES, strict=True):
        wide, narrow = blocks[0].mlp.fc1.weight.shape[:2]
        shapes.append((case.batch * (case.pixels // stride) ** 2, narrow, wide))
    return shapes
