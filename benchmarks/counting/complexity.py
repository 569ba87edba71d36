"""Parameters, multiply-adds and activations of a model, part by part (counted by fvcore on one traced pass)."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it compiles losses by torch.jit, which warns that it is old
    from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis


_DEPTHWISE = "prim::PythonOp._TileDepthwise"  # of convmae.backbones.tiles


class Part(NamedTuple):
    """A module's counts; ``name`` is "" for the whole."""

    name: str
    parameters: int
    multiply_adds: int
    activations: int  # numbers that its convolutions and matrix products put out


def analyze(model: nn.Module, inputs: Sequence[torch.Tensor], depth: int) -> tuple[list[Part], dict[str, int]]:
    """Returns the whole and its parts, in order, down to ``depth`` names, and the operators that no count covers.

    As fvcore counts, norms are a few operations an element, and other elementwise work and softmax are nothing. The model is
    left in evaluation mode.
    """
    model.eval()
    operations = FlopCountAnalysis(model, tuple(inputs))
    outputs = ActivationCountAnalysis(model, tuple(inputs))
    for name, count in (("aten::scaled_dot_product_attention", _attention), (_DEPTHWISE, _tile_depthwise)):
        operations.set_op_handle(name, count)
        outputs.set_op_handle(name, _put_out)
    for analysis in (operations, outputs):
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flops, activations = operations.by_module(), outputs.by_module()
    parts = []
    for name, module in model.named_modules(remove_duplicate=True):
        if name and name.count(".") >= depth:
            continue
        parameters = sum(parameter.numel() for parameter in module.parameters())
        if parameters or flops[name]:
            parts.append(Part(name, parameters, int(flops[name]), int(activations[name])))
    uncounted = {name: count for name, count in operations.unsupported_ops().items() if not _is_free(name)}
    return parts, uncounted


def _shape(value: Any) -> list[int]:
    return list(value.type().sizes())


def _attention(inputs: list[Any], outputs: list[Any]) -> int:
    """Multiply-adds of softmax(Q K^T) V: queries x keys x (width of a key + width of a value), for each head."""
    query, key, value = (_shape(found) for found in inputs[:3])
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _tile_depthwise(inputs: list[Any], outputs: list[Any]) -> int:
    """Multiply-adds of a depthwise convolution of tiles: those of the kernel at each pixel of each channel."""
    return math.prod(_shape(outputs[0])) * math.prod(_shape(inputs[1])[1:])


def _put_out(inputs: list[Any], outputs: list[Any]) -> int:
    return math.prod(_shape(outputs[0]))


def _is_free(name: str) -> bool:
    """Whether an operator does no matrix product or convolution, so that leaving it out is right."""
    return not any(word in name for word in ("mm", "conv", "linear", "attention", "einsum", "PythonOp"))
