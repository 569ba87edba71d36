"""Time pretraining steps, forward and backward, of the shipped models and of the dense textbook form with the same weights.

`ratio` is dense over shipped. `share` is what part of the machine's matrix-product rate a shipped step achieves: counted
multiply-adds, three times the forward pass's, over its time, against the model's own layers alone (the products of the
first layer of each stage's and the decoder's MLP and of its two gradients, in turn with the steps). MB are the peak above
weights and images, as two runs show it, on a CPU in a process of their own.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from convmae.benchmarks.counting.complexity import analyze
from convmae.benchmarks.counting.whole_models import build
from convmae.benchmarks.forms.dense_form import DenseMaskedAutoencoder
from convmae.benchmarks.forms.plain_layers import PATCH
from convmae.benchmarks.timing import Step, alternate, mlp_products, peak_memory
from convmae.engine.errors import UserError
from convmae.engine.machine.precision import autocast, resolve_device, resolve_precision
from convmae.pretraining import METHODS as ALL_METHODS
from convmae.pretraining import ConvMAE, FastConvMAE
from convmae.pretraining.masking import complementary_masking, group_count, random_masking

METHODS: dict[str, type[ConvMAE]] = {"convmae": ConvMAE, "fastconvmae": FastConvMAE}
RATIO = 0.75
FORMS = ("dense", "shipped")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns a row for each method and precision. Raises UserError for sizes that don't fit."""
    if args.img_size < 2 * PATCH or args.img_size % PATCH or args.batch_size < 1:
        raise UserError(
            f"--img-size {args.img_size} and --batch-size {args.batch_size}: expected a multiple of {PATCH}, at least "
            f"{2 * PATCH}, and at least one image."
        )
    device = resolve_device(args.device)
    shape = (args.size, args.img_size, args.batch_size)
    rows = []
    for method, name in itertools.product(args.method, args.precision):
        dtype = resolve_precision(name, device)
        counts = {form: multiply_adds(form, method, args.size, args.img_size) for form in FORMS}
        peak = {form: peak_memory(device, prepare, form, method, *shape, dtype, device) / 2**20 for form in FORMS}
        steps = {form: prepare(form, method, *shape, dtype, device) for form in FORMS}
        products, work = layer_products(method, *shape, dtype, device)
        seconds = alternate({**steps, "products": products}, args.repeats, device)
        rate, done = work / seconds["products"], 3 * counts["shipped"] * args.batch_size / seconds["shipped"]
        rows.append(
            {
                "method": method,
                "precision": name,
                "dense G": counts["dense"] / 1e9,
                "shipped G": counts["shipped"] / 1e9,
                "dense s": seconds["dense"],
                "shipped s": seconds["shipped"],
                "ratio": seconds["dense"] / seconds["shipped"],
                "products G/s": rate / 1e9,
                "share": done / rate,
                "dense MB": peak["dense"],
                "shipped MB": peak["shipped"],
                "memory": peak["shipped"] / peak["dense"],
            }
        )
    return rows


def prepare(
    form: str, method: str, size: str, img_size: int, batch: int, dtype: torch.dtype | None, device: torch.device
) -> Step:
    """Returns a training step without its update: the same images, masks and weights for both forms."""
    return prepare_model(form, method, size, img_size, batch, dtype, device)[1]


def prepare_model(
    form: str, method: str, size: str, img_size: int, batch: int, dtype: torch.dtype | None, device: torch.device
) -> tuple[nn.Module, Step]:
    """Returns one form of a model, too; the shipped one may be of any method."""
    torch.manual_seed(0)
    images, noise = torch.randn(batch, 3, img_size, img_size), torch.rand(batch, (img_size // PATCH) ** 2)
    images, noise = images.to(device), noise.to(device)
    model: nn.Module
    loss: Callable[[], Tensor]
    if form == "dense":
        model = dense = DenseMaskedAutoencoder(size, img_size).to(device)
        loss = lambda: dense(images, kept_patches(method, noise))  # noqa: E731
    else:
        model = shipped = ALL_METHODS[method](size, img_size).to(device)
        loss = lambda: shipped(images, RATIO, noise, predict="removed").loss  # noqa: E731

    def step() -> None:
        model.zero_grad()
        with autocast(device, dtype):
            value = loss()
        value.backward()

    return model, step


def kept_patches(method: str, noise: Tensor) -> list[Tensor]:
    """The patches that each group keeps, [B, n], by noise [B, L]."""
    if method == "convmae":
        return random_masking(noise, RATIO)
    return [ids for same in complementary_masking(noise, group_count(RATIO)) for ids in same.split(len(noise))]


def multiply_adds(form: str, method: str, size: str, img_size: int) -> int:
    """Multiply-adds of the forward pass of one image."""
    if form == "shipped":
        model, inputs = build(method, size, img_size, img_size, RATIO)
    else:
        keep = kept_patches(method, torch.rand(1, (img_size // PATCH) ** 2))
        model, inputs = Given(DenseMaskedAutoencoder(size, img_size), keep), [torch.zeros(1, 3, img_size, img_size)]
    return analyze(model, inputs, depth=1)[0][0].multiply_adds


class Given(nn.Module):
    """The dense form with fixed groups, for a counter that traces."""

    def __init__(self, model: DenseMaskedAutoencoder, keep: list[Tensor]) -> None:
        super().__init__()
        self.model, self.keep = model, keep

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images, self.keep)


def layer_products(
    method: str, size: str, img_size: int, batch: int, dtype: torch.dtype | None, device: torch.device
) -> tuple[Step, int]:
    """Returns the products of four of the model's layers and of their gradients, and how many multiply-adds they are."""
    with torch.device("meta"):
        model = METHODS[method](size, img_size)
    patches = (img_size // PATCH) ** 2
    keep = kept_patches(method, torch.rand(batch, patches))
    kept, tokens = sum(ids.numel() for ids in keep), sum(len(ids) for ids in keep) * patches
    blocks: tuple[tuple[Any, int], ...] = (
        (model.blocks1, kept * 16),
        (model.blocks2, kept * 4),
        (model.blocks3, kept),
        (model.decoder_blocks, tokens),
    )
    shapes = []
    for stage, rows in blocks:
        wide, narrow = stage[0].mlp.fc1.weight.shape[:2]
        shapes.append((rows, narrow, wide))
    return mlp_products(shapes, dtype, device)
