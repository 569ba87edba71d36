"""Time the detection encoder, forward pass and training step, against its plain form with the same weights.

The plain form has explicit windows, biases of all pairs of tokens and NCHW convolutions, as public code has. `ratio` is plain
over shipped, `over fp32` the plain form in fp32 over shipped. `share` is what part of the machine's matrix-product rate the
shipped encoder achieves: counted multiply-adds, three times the forward pass's in a training step, over its time, against its
own layers alone (the products of the first layer of each stage's MLP and of its two gradients, in turn with the steps). MB
are the peak above weights and images, as two runs in a process of their own show it.

Two more tables: how time and memory of the shipped forward pass grow with the picture; the encoder's part in a training step
of Mask R-CNN at the paper's heads, untrained, 80 classes, on pictures of noise with 20 objects.
"""

from __future__ import annotations

import argparse
import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from convmae.backbones import SIZES, ConvViTDet
from convmae.detection.config import ModelOptions
from convmae.detection.mask_rcnn import MaskRCNN
from convmae.engine.complexity import analyze
from convmae.engine.errors import UserError
from convmae.engine.precision import autocast, resolve_device, resolve_precision
from convmae.tools.plain_det import PlainDetEncoder
from convmae.tools.plain_layers import PATCH
from convmae.tools.timing import Step, alternate, mlp_products, peak_memory

FORMS = ("plain", "shipped")
WORK = {"forward": 1, "step": 3}  # multiply-adds over those of a forward pass
CLASSES, OBJECTS = 80, 20


class Case(NamedTuple):
    """What is timed; `dtype` is None for fp32."""

    size: str
    pixels: int
    batch: int
    window: int
    checkpoint_activations: bool
    device: torch.device
    dtype: torch.dtype | None = None

    def images(self) -> Tensor:
        return torch.randn(self.batch, 3, self.pixels, self.pixels, device=self.device)

    def precise(self, names: list[str]) -> dict[str, Case]:
        """Returns this case in each precision."""
        return {name: self._replace(dtype=resolve_precision(name, self.device)) for name in names}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this comparison."""
    parser.add_argument("--size", choices=tuple(SIZES), default="base", help="size of the encoder (default base)")
    parser.add_argument("--pixels", type=int, default=1024, help="a side, a multiple of 16 (default 1024)")
    parser.add_argument("--batch", type=int, default=1, help="pictures a step (default 1)")
    parser.add_argument("--window", type=int, default=16, help="tokens a side (default 16, as the released weights)")
    parser.add_argument("--mode", nargs="+", choices=tuple(WORK), default=list(WORK), help="default: both")
    parser.add_argument(
        "--precision", nargs="+", choices=("fp32", "bf16", "fp16"), default=["fp32", "bf16"], help="default: fp32 bf16"
    )
    parser.add_argument(
        "--growth",
        nargs="+",
        type=int,
        default=[512, 1024, 1536, 2048],
        metavar="PIXELS",
        help="sides for the table of growth (default 512 1024 1536 2048)",
    )
    parser.add_argument("--tables", nargs="+", choices=tuple(TABLES), default=list(TABLES), help="default: all")
    parser.add_argument(
        "--checkpoint-activations", action="store_true", help="as runtime.checkpoint_activations, of the shipped form"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns the rows of each table. Raises UserError for sizes that don't fit."""
    if any(side < PATCH or side % PATCH for side in (args.pixels, *args.growth)) or min(args.batch, args.window) < 1:
        raise UserError(
            f"--pixels {args.pixels} --growth {' '.join(map(str, args.growth))} --batch {args.batch} --window "
            f"{args.window}: expected sides that are multiples of {PATCH}, and 1 or more pictures and tokens."
        )
    device = resolve_device(args.device)
    case = Case(args.size, args.pixels, args.batch, args.window, args.checkpoint_activations, device)
    return [row for name in args.tables for row in TABLES[name](case, args)]


def comparison(case: Case, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns a row for each mode and precision: the plain form and the shipped one."""
    cases = case.precise(args.precision)
    counts = {form: multiply_adds(form, case) / 1e9 for form in FORMS}
    peaks = {  # before anything is timed, so that little is held beside the process that is measured
        (form, mode, name): peak_memory(case.device, prepare, form, mode, cases[name]) / 2**20
        for form, mode, name in itertools.product(FORMS, args.mode, cases)
    }
    models, images = {form: build(form, case) for form in FORMS}, case.images()
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
                    "memory": peaks["shipped", mode, name] / peaks["plain", mode, name],
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


def detector(case: Case, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns a row for each precision: a training step of Mask R-CNN and one of its encoder alone."""
    rows = []
    for name, one in case.precise(args.precision).items():
        peak = peak_memory(case.device, prepare_detector, one) / 2**20
        model = build_detector(one)
        steps = {
            "whole": detector_step(model, one),
            "encoder": encoder_step(model.backbone, one.images(), "step", one),
        }
        seconds = alternate(steps, args.repeats, case.device)
        rows.append(
            {
                "precision": name,
                "pixels": case.pixels,
                "Mask R-CNN s": seconds["whole"],
                "encoder s": seconds["encoder"],
                "encoder's part": seconds["encoder"] / seconds["whole"],
                "Mask R-CNN MB": peak,
            }
        )
    return rows


TABLES = {"comparison": comparison, "growth": growth, "detector": detector}


def build(form: str, case: Case) -> nn.Module:
    """Returns one form of the encoder; both have the same weights."""
    torch.manual_seed(0)
    shipped = ConvViTDet(case.size, case.pixels, case.window, checkpoint_activations=case.checkpoint_activations)
    if form == "shipped":
        return shipped.to(case.device)
    plain = PlainDetEncoder(case.size, (case.pixels, case.pixels), (case.window, case.window))
    plain.load_state_dict(shipped.state_dict())
    return plain.to(case.device)


def encoder_step(model: nn.Module, images: Tensor, mode: str, case: Case) -> Step:
    """Returns a forward pass without gradients, or a training step without its update."""

    def forward() -> None:
        with torch.inference_mode(), autocast(case.device, case.dtype):
            model(images)

    def step() -> None:
        model.zero_grad()
        with autocast(case.device, case.dtype):
            maps = model(images)
        torch.stack([stage.float().square().mean() for stage in maps]).sum().backward()

    return forward if mode == "forward" else step


def prepare(form: str, mode: str, case: Case) -> Step:
    """Returns `encoder_step` of a new model and new pictures."""
    return encoder_step(build(form, case), case.images(), mode, case)


def build_detector(case: Case) -> MaskRCNN:
    """Returns Mask R-CNN at the paper's settings but for size and window."""
    torch.manual_seed(0)
    options = ModelOptions(size=case.size, window_size=case.window)
    return MaskRCNN(options, CLASSES, case.pixels, case.checkpoint_activations).to(case.device).train()


def detector_step(model: MaskRCNN, case: Case) -> Step:
    """Returns a training step without its update."""
    images, targets = case.images(), [objects(case) for _ in range(case.batch)]

    def step() -> None:
        model.zero_grad()
        with autocast(case.device, case.dtype):
            losses = model(images, targets)[1]
        torch.stack(list(losses.values())).sum().backward()

    return step


def prepare_detector(case: Case) -> Step:
    """Returns `detector_step` of a new model."""
    return detector_step(build_detector(case), case)


def objects(case: Case) -> dict[str, Tensor]:
    """Returns objects of an eighth to a half of a picture's side; their masks fill their boxes."""
    sides = torch.rand(OBJECTS, 2) * 3 / 8 + 1 / 8
    corners = torch.rand(OBJECTS, 2) * (1 - sides)
    boxes = torch.cat([corners, corners + sides], dim=1) * case.pixels
    cells = torch.arange(case.pixels)
    across, down = ((boxes[:, i, None] <= cells) & (cells < boxes[:, i + 2, None]) for i in (0, 1))
    found = {
        "boxes": boxes,
        "labels": torch.arange(OBJECTS) % CLASSES,
        "masks": (down[:, :, None] & across[:, None]).to(torch.uint8),
    }
    return {name: value.to(case.device) for name, value in found.items()}


def multiply_adds(form: str, case: Case) -> int:
    """Multiply-adds of a forward pass."""
    return analyze(build(form, case), [case.images()], depth=1)[0][0].multiply_adds


def layer_shapes(case: Case) -> list[tuple[int, int, int]]:
    """Positions, inputs and outputs of the first layer of each stage's MLP."""
    model: Any = build("shipped", case._replace(device=torch.device("meta")))
    shapes = []
    for blocks, stride in zip((model.blocks1, model.blocks2, model.blocks3), ConvViTDet.strides, strict=False):
        wide, narrow = blocks[0].mlp.fc1.weight.shape[:2]
        shapes.append((case.batch * (case.pixels // stride) ** 2, narrow, wide))
    return shapes
