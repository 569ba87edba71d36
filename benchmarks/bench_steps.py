"""Count what a training step does on a GPU, on any machine: kernels, graphs, waits, and the exactness of gradients in bf16.

Kernels are counted under fake tensors that pretend to lie on a GPU, in bf16, without the optimiser
(`benchmarks/counting/fake_gpu.py` says what counts how): of the forward pass, of the step, and of the step with a fused
operator as one. GB are read and written at least, TFLOP those of matrix products, GiB the largest sum of live tensors,
weights and gradients included. Models are as the paper's recipes have them; `by slices` has no fused kernel, `plain` is the
textbook form.

Graphs are those that `runtime.compile` makes of a model at tiny size in the first training step and in later ones. Waits are
the operations of a training step at tiny size that make the host wait for a GPU (`benchmarks/counting/host_waits.py`).

Gradient errors are norms of differences from fp64 over the norm, the largest of queries', keys', values' and tables'; bf16 on
this machine's processor, 32x32 tokens, 2 heads of 64 channels; the logits' deviation is each column's, half of the variance
from relative positions where there are any.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convmae.backbones import ConvViTDet, ConvViTSeg
from convmae.backbones.attention import biased
from convmae.backbones.attention.fused import HAS_TRITON
from convmae.benchmarks.counting.compiled_graphs import count_graphs
from convmae.benchmarks.counting.fake_gpu import count_step
from convmae.benchmarks.counting.host_waits import host_waits
from convmae.benchmarks.counting.tiny_steps import MODELS, build
from convmae.benchmarks.forms.plain_det import PlainDetEncoder
from convmae.benchmarks.forms.plain_layers import PATCH, offset_index
from convmae.benchmarks.forms.plain_seg import PlainSegEncoder
from convmae.engine.errors import UserError
from convmae.pretraining import ConvMAE, FastConvMAE, MaskedAutoencoder

# Makes model and inputs and returns what computes a loss of them.
Build = Callable[[], Callable[[], Tensor]]
STEPS = 4
DEVIATIONS = (1, 4, 16)  # of logits


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns the rows of each table. Raises UserError if none is asked for."""
    rows = [row for name in args.tables for row in TABLES[name](args.only)]
    if not rows:
        names = sorted({*MODELS, *ATTENTIONS, *(model for model, _ in CASES)})
        raise UserError(f"--only {args.only}: expected a part of one of these names: {'; '.join(names)}.")
    return rows


def kernels(only: str = "") -> Iterator[dict[str, Any]]:
    """Yields a row for each model and form: what a step launches and moves."""
    for (model, form), step in CASES.items():
        if only in model and (form != "fused" or HAS_TRITON):
            with _without_fused() if form == "by slices" else nullcontext():
                counts = count_step(step)
            yield {
                "model": model,
                "form": form,
                "forward kernels": counts.forward.kernels,
                "step kernels": counts.step.kernels,
                "fused as one": counts.step.kernels - counts.within,
                "GB": counts.step.bytes / 1e9,
                "TFLOP": counts.step.flops / 1e12,
                "peak GiB": counts.peak / 2**30,
            }


def graphs(only: str = "") -> Iterator[dict[str, Any]]:
    """Yields a row for each model: the parts compiled, the graphs of the first step and those that later steps added."""
    for model in MODELS:
        if only in model:
            step = build(model)
            made = count_graphs(step.compiled, step.run, STEPS)
            yield {
                "model, tiny": model,
                "parts": len(step.compiled),
                "graphs": made[0],
                "recompilations": made[-1] - made[0],
            }


def waits(only: str = "") -> Iterator[dict[str, Any]]:
    """Yields a row for each model: how often a training step waits, and at which operators."""
    for model in MODELS:
        if only in model:
            step = build(model)
            found = [wait.op for wait in host_waits(step.run, [step.model, *step.batch])]
            named = ", ".join(f"{found.count(op)} {op}" for op in sorted(set(found))) or "none"
            yield {"model, tiny": model, "waits a step": len(found), "of these": named}


def errors(only: str = "") -> Iterator[dict[str, Any]]:
    """Yields a row for each form of attention: the largest relative error of its gradients at each deviation."""
    for name, form in ATTENTIONS.items():
        if only in name:
            yield {"attention": name} | {
                f"deviation {deviation}": gradient_error(form, deviation) for deviation in DEVIATIONS
            }


TABLES = {"kernels": kernels, "graphs": graphs, "waits": waits, "errors": errors}


def _without_fused() -> AbstractContextManager:
    return mock.patch.object(biased, "is_fused", return_value=False)


def pretraining(method: type[MaskedAutoencoder], size: str, side: int, batch: int) -> Build:
    """A masked autoencoder's step."""

    def make() -> Callable[[], Tensor]:
        model = method(size, side).train()
        images, noise = torch.randn(batch, 3, side, side), torch.rand(batch, (side // PATCH) ** 2)
        return lambda: model(images, noise=noise, predict="removed").loss

    return make


def encoder(make_model: Callable[[], nn.Module], side: int, batch: int) -> Build:
    """The step of an encoder of several maps, whose loss is their means' sum."""

    def make() -> Callable[[], Tensor]:
        model = make_model().train()
        images = torch.randn(batch, 3, side, side)
        return lambda: torch.stack([found.mean(dtype=torch.float32) for found in model(images)]).sum()

    return make


def _detection(side: int, batch: int, window: int) -> dict[str, Build]:
    shipped = encoder(partial(ConvViTDet, "base", side, window), side, batch)
    plain = encoder(partial(PlainDetEncoder, "base", (side, side), (window, window)), side, batch)
    return {"fused": shipped, "by slices": shipped, "plain": plain}


def _segmentation(side: int, batch: int) -> dict[str, Build]:
    shipped = encoder(partial(ConvViTSeg, "base", side), side, batch)
    return {
        "fused": shipped,
        "by slices": shipped,
        "plain": encoder(partial(PlainSegEncoder, "base", (side, side)), side, batch),
    }


def _decomposed(side: int, batch: int) -> Build:
    port = partial(ConvViTDet, "base", side, 14, attend_to_padding=True, position="decomposed")
    return encoder(port, side, batch)


CASES: dict[tuple[str, str], Build] = {
    ("ConvMAE-B 224 px, batch 256", "shipped"): pretraining(ConvMAE, "base", 224, 256),
    ("FastConvMAE-B 224 px, batch 256", "shipped"): pretraining(FastConvMAE, "base", 224, 256),
    ("FastConvMAE-T 96 px, batch 128", "shipped"): pretraining(FastConvMAE, "tiny", 96, 128),
    **{("ConvViTDet-B 1024 px, batch 4, 7x7", form): step for form, step in _detection(1024, 4, 7).items()},
    ("ConvViTDet-B 1024 px, batch 4, decomposed", "as channels"): _decomposed(1024, 4),
    **{("ConvViTSeg-B 512 px, batch 16", form): step for form, step in _segmentation(512, 16).items()},
}


GRID, HEADS, WIDTH = (32, 32), 2, 64
TOKENS = GRID[0] * GRID[1]


class Attention(NamedTuple):
    """A form of attention; `bias` gives the biases of all pairs of tokens, of queries and tables, as the formula has them."""

    attend: Callable[..., Tensor]
    tables: tuple[tuple[int, ...], ...] = ()  # shapes
    spread: float = (
        1.0  # deviation of a table's numbers, over that of a query's, whose biases vary as its products with keys do
    )
    bias: Callable[..., Tensor | None] = lambda query: None


def _shared_bias(query: Tensor, table: Tensor) -> Tensor:
    return table.flatten(1)[:, offset_index(GRID)]


def _decomposed_bias(query: Tensor, by_row: Tensor, by_column: Tensor) -> Tensor:
    tokens = torch.arange(TOKENS)
    down, right = (
        lines[:, None] - lines + side - 1
        for lines, side in zip((tokens // GRID[1], tokens % GRID[1]), GRID, strict=True)
    )
    return (query @ by_row.t())[..., tokens[:, None], down] + (query @ by_column.t())[..., tokens[:, None], right]


_SHARED = ((HEADS, 2 * GRID[0] - 1, 2 * GRID[1] - 1),)
_DECOMPOSED = tuple((2 * side - 1, WIDTH) for side in GRID)
_NARROW = (2 * WIDTH) ** -0.5
ATTENTIONS = {
    "PyTorch's own": Attention(F.scaled_dot_product_attention),
    "shared table, by slices": Attention(partial(biased.biased_attention, grid=GRID), _SHARED, 1.0, _shared_bias),
    "decomposed, by slices": Attention(
        partial(biased.decomposed_attention, grid=GRID), _DECOMPOSED, _NARROW, _decomposed_bias
    ),
    "decomposed, as channels": Attention(
        partial(biased.channel_attention, grid=GRID), _DECOMPOSED, _NARROW, _decomposed_bias
    ),
}


def gradient_error(form: Attention, deviation: float) -> float:
    """Returns the largest relative error of the gradients, of tokens in bf16 and tables in fp32.

    What is compared with is attention in fp64 of the same rounded numbers, logits of the deviation: with tables, half of their
    variance is the bias's.
    """
    torch.manual_seed(0)
    query, key, value, cotangent = (torch.randn(1, HEADS, TOKENS, WIDTH) for _ in range(4))
    scale = deviation * (2**-0.5 if form.tables else 1)
    tables = [torch.randn(shape) * form.spread for shape in form.tables]
    if form.bias is _shared_bias:
        tables = [table * scale for table in tables]  # it is no product with the query
    rounded = [*(x.bfloat16() for x in (query * scale, key, value)), *tables]

    def gradients(attend: Callable[..., Tensor], inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        leaves = [x.detach().requires_grad_() for x in inputs]
        with torch.autocast("cpu", torch.bfloat16, enabled=inputs[0].dtype == torch.bfloat16):
            output = attend(*leaves)
        return torch.autograd.grad(output, leaves, cotangent.bfloat16().to(output.dtype))

    def exactly(query: Tensor, key: Tensor, value: Tensor, *tables: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=form.bias(query, *tables))

    exact = gradients(exactly, [x.double() for x in rounded])
    found = gradients(form.attend, rounded)
    return max(float((x - wanted).norm() / wanted.norm()) for x, wanted in zip(found, exact, strict=True))
